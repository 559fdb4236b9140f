"""Tune's notices of trials, passed on to the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ray import tune

from trainables.record import TrialKey, has_record, write_failure

Outcome = Literal["finished", "failed", "out of memory"]
"""What became of a trial: it has a record, it failed for good, or it needs more of a GPU."""

News = Outcome | Literal["running", "waiting"]
"""Or it is running: a worker took it or trained it for another slice; or it waits for another
worker, its own having died."""

OnTrial = Callable[[TrialKey, News, dict[str, Any]], None]
"""Called with a trial's key, what became of it, and the last result its worker reported."""

_told: dict[Path, OnTrial] = {}
"""Run directory -> whom to tell. Not part of the listener, which Tune pickles."""


class TrialListener(tune.Callback):
    """Tells the driver what became of each trial; records failures.

    Arguments:
        run_dir: the run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    @contextmanager
    def telling(self, on_trial: OnTrial) -> Iterator[None]:
        """Pass notices on to `on_trial` during the block."""
        _told[self.run_dir] = on_trial
        try:
            yield
        finally:
            del _told[self.run_dir]

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tune's notice that a worker has a trial."""
        _told[self.run_dir](_key(trial), "running", {})

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Tune's notice that a slice is done; the last one's comes before that of the end."""
        _told[self.run_dir](_key(trial), "running", result)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tune's notice that a trial lost its worker and will get another."""
        _told[self.run_dir](_key(trial), "waiting", {})

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tune's notice that a trial is done."""
        result = trial.last_result or {}
        starved = result.get("out_of_memory")
        _told[self.run_dir](_key(trial), "out of memory" if starved else "finished", result)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tune's notice that a trial failed after its retries."""
        key, fingerprint = _key(trial), trial.config["point"]["fingerprint"]
        # Its worker may have died between the record and Tune's notice of it.
        recorded = has_record(self.run_dir, key, fingerprint)
        if not recorded:
            write_failure(self.run_dir, key, fingerprint, _reason(trial))
        _told[self.run_dir](key, "finished" if recorded else "failed", trial.last_result or {})


def _key(trial: Any) -> TrialKey:
    point = trial.config["point"]
    return TrialKey.from_json({name: v for name, v in point.items() if name != "fingerprint"})


def _reason(trial: Any) -> str:
    """The traceback Tune kept of a failed trial."""
    try:
        return Path(trial.error_file).read_text()
    except (TypeError, OSError):
        return "the trial's worker died; see logs/"
