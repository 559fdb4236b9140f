"""Read adapters, compute their features in one pass, and cache them."""

if not __name__.startswith("lorasweep."):
    raise ImportError(f"import this package as lorasweep.{__name__}, from an installed lorasweep")
