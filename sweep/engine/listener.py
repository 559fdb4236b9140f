"""Tune's notices of trials, passed on to the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray import tune

from lorasweep.trainables.store.events import (
    TrialEvent,
    TrialFailed,
    TrialFinished,
    TrialMisplaced,
    TrialOutOfMemory,
    TrialProgress,
    TrialStarted,
    TrialWaiting,
)
from lorasweep.trainables.store.record import has_record, write_failure
from lorasweep.trainables.store.trial_key import TrialKey

OnTrial = Callable[[TrialEvent], None]


class NotRestoredError(Exception):
    """Tune could not read its own files and has begun an experiment without our trials instead."""


@dataclass
class Experiment:
    """An experiment that runs in this process.

    Attributes:
        on_trial: told what becomes of its trials.
        trials: Tune's, as its last notice had them.
    """

    on_trial: OnTrial
    trials: list[Any] = field(default_factory=list)

    def await_slices(self, seconds: float, on_wait: Callable[[], None]) -> None:
        """Wait until no worker is in the middle of a slice, whose state would be lost.

        A worker answers once its slice has ended, and gets no other from an interrupted driver.

        Arguments:
            seconds: to wait at most.
            on_wait: called if that takes a moment.
        """
        running = [trial for trial in self.trials if trial.status == trial.RUNNING]
        workers = [trial.temporary_state.ray_actor for trial in running]
        answers = [worker.get_current_ip_pid.remote() for worker in workers if worker]
        if answers and ray.wait(answers, num_returns=len(answers), timeout=_MOMENT_SECONDS)[1]:
            on_wait()
            ray.wait(answers, num_returns=len(answers), timeout=seconds)


_experiments: dict[Path, Experiment] = {}
"""Run directory -> its experiment. Not part of the listener, which Tune pickles."""

_stopping: set[Path] = set()
"""Run directories whose experiment is to end, because a node has to be left out of the next."""

_TOLD_AT_THE_END = ("seconds", "epoch", "val_acc", "test_acc")

_DIED = "the trial's worker died; see logs/"

_MOMENT_SECONDS = 0.3
"""Longer waits are told."""


class TrialListener(tune.Callback):
    """Tells the driver what became of each trial; records failures.

    Arguments:
        run_dir: the run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._furthest: dict[TrialKey, int] = {}

    @contextmanager
    def telling(self, on_trial: OnTrial) -> Iterator[Experiment]:
        """Pass notices on to `on_trial` during the block; yields the experiment."""
        _experiments[self.run_dir] = experiment = Experiment(on_trial)
        try:
            yield experiment
        finally:
            del _experiments[self.run_dir]
            _stopping.discard(self.run_dir)

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tune's notice that a worker has a trial."""
        _experiments[self.run_dir].trials = trials
        self._tell(TrialStarted(_key(trial)))

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Tune's notice that a slice is done; of the last one, the end is told instead."""
        if not result.get("done"):
            self._forgive(trial, result["epoch"])
            self._tell(TrialProgress(_key(trial), result["epoch"], result["val_acc"]))

    def _forgive(self, trial: Any, epoch: int) -> None:
        """Let no earlier failure count against a trial that got further than ever.

        On machines that are taken away it may lose its worker any number of times; one that fails
        at the same place does not get here.
        """
        if epoch > self._furthest.get(_key(trial), 0):
            self._furthest[_key(trial)] = epoch
            if trial.run_metadata.num_failures:
                trial.run_metadata.num_failures = 0
                trial.run_metadata.invalidate_cache()

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tune's notice that a trial lost its worker and will get another."""
        self._tell(TrialWaiting(_key(trial)))

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tune's notice that a trial is done."""
        result = trial.last_result or {}
        if "misplaced" in result:
            _stopping.add(self.run_dir)
            self._tell(TrialMisplaced(_key(trial), *result["misplaced"]))
        elif result.get("out_of_memory"):
            self._tell(TrialOutOfMemory(_key(trial)))
        else:
            self._tell(_finished(trial))

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """Tune's notice that a trial failed after its retries."""
        key, fingerprint = _key(trial), trial.config["point"]["fingerprint"]
        # Its worker may have died between the record and Tune's notice of it.
        if has_record(self.run_dir, key, fingerprint):
            self._tell(_finished(trial))
            return
        reason = _reason(trial)
        # First: it raises where the run directory is another driver's by now.
        self._tell(TrialFailed(key, reason.splitlines()[-1]))
        write_failure(self.run_dir, key, fingerprint, reason)

    def _tell(self, event: TrialEvent) -> None:
        _experiments[self.run_dir].on_trial(event)


class NodeStopper(tune.Stopper):
    """Ends an experiment once a worker has found itself on a node of another kind than the run's.

    Where an experiment's workers may be cannot be changed while it runs.

    Arguments:
        run_dir: the run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped by its results."""
        return False

    def stop_all(self) -> bool:
        """Whether the experiment ends."""
        return self.run_dir in _stopping


def _key(trial: Any) -> TrialKey:
    point = trial.config.get("point")
    if point is None:
        raise NotRestoredError
    return TrialKey.from_json({name: v for name, v in point.items() if name != "fingerprint"})


def _finished(trial: Any) -> TrialFinished:
    """With what its worker told last, if that was the end."""
    result = trial.last_result or {}
    told = {name: result[name] for name in _TOLD_AT_THE_END if "test_acc" in result}
    return TrialFinished(_key(trial), **told)


def _reason(trial: Any) -> str:
    """The traceback Tune kept of a failed trial."""
    try:
        return Path(trial.error_file).read_text().strip() or _DIED
    except (TypeError, OSError):
        return _DIED
