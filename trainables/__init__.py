"""Train one classifier on one feature matrix, and write its durable record."""

if not __name__.startswith("lorasweep."):
    raise ImportError(f"import this package as lorasweep.{__name__}, from an installed lorasweep")
