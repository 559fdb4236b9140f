"""The grid and its life. From Python: `run_sweep(SweepSpec(dataset=…))`."""

from .launch import SweepResult, run_sweep
from .spec import RuntimeOptions, SweepSpec

__all__ = ["RuntimeOptions", "SweepResult", "SweepSpec", "run_sweep"]
