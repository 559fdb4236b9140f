"""Experiment trackers, fed from records: one run per trial, its parameters, metrics and curves.

Ray's own callbacks would draw a point per slice of time, so a curve would depend on the clock; a
record has the whole curve by epochs. Writing happens in a thread of its own: a tracker that is slow
or broken costs a warning, not a trial. A tracker's library is imported there too, and only when
there is something to tell.
"""

from __future__ import annotations

from pathlib import Path

from .available import TRACKERS, check_tracker
from .feed import Tracker, TrackerFeed
from .trial import TrackedTrial, tracked_trial

__all__ = [
    "TRACKERS",
    "TrackedTrial",
    "Tracker",
    "TrackerFeed",
    "check_tracker",
    "make_tracker",
    "tracked_trial",
]


def make_tracker(name: str, run_dir: Path) -> Tracker | None:
    """A tracker by its name; None for "none"."""
    if name == "tensorboard":
        from .tensorboard import TensorBoard

        return TensorBoard(run_dir)
    if name == "mlflow":
        from .mlflow import MLflow

        return MLflow(run_dir)
    if name == "wandb":
        from .wandb import WeightsAndBiases

        return WeightsAndBiases(run_dir)
    return None
