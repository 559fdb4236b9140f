"""Make datasets: random ones, and adapters trained on a small diffusion model."""

if not __name__.startswith("lorasweep."):
    raise ImportError(f"import this package as lorasweep.{__name__}, from an installed lorasweep")
