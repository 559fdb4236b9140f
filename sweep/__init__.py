"""Plan, run, restore, watch and report a grid of trials."""

if not __name__.startswith("lorasweep."):
    raise ImportError(f"import this package as lorasweep.{__name__}, from an installed lorasweep")
