"""The grid and its life. From Python: `run_sweep(SweepSpec(dataset=…))`, `open_run(run_dir)`.

What carries a sweep out is imported when it is first asked for, so that the command line's help
does not wait for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .spec import RuntimeOptions, SweepSpec
from .supervisor import RayDiedError

if TYPE_CHECKING:
    from .launch import SweepResult, run_sweep
    from .opened import Run, open_run

__all__ = [
    "RayDiedError",
    "Run",
    "RuntimeOptions",
    "SweepResult",
    "SweepSpec",
    "open_run",
    "run_sweep",
]

_WHERE = {"Run": "opened", "open_run": "opened", "SweepResult": "launch", "run_sweep": "launch"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)
