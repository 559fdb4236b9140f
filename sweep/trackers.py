"""Experiment trackers, fed from records: one run per trial, its parameters, metrics and curves.

Ray's own callbacks would draw a point per slice of time, so a curve would depend on the clock; a
record has the whole curve by epochs. Writing happens in a thread of its own: a tracker that is slow
or broken costs a warning, not a trial.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from features.files import write_json
from trainables.record import TrialKey, read_record

_PATIENCE_SECONDS = 30.0


class Tracker(Protocol):
    """Writes a finished trial somewhere."""

    def log(self, key: TrialKey, trial: TrackedTrial) -> None:
        """Write one trial; whatever goes wrong is raised."""


@dataclass(frozen=True)
class TrackedTrial:
    """What a tracker is told of a trial.

    Attributes:
        parameters: config, representation, seed, hyperparameters, size of the input.
        metrics: every defined metric of the record, and its times.
        curves: name -> one value per epoch.
    """

    parameters: dict[str, str | int | float]
    metrics: dict[str, float]
    curves: dict[str, list[float]]


def tracked_trial(
    key: TrialKey, record: dict[str, Any], hyperparameters: dict[str, Any]
) -> TrackedTrial:
    """What there is to tell of a record."""
    numbers = {**record["metrics"], **record["timing"]}
    return TrackedTrial(
        parameters={
            **key.to_json(),
            **hyperparameters,
            "feature_dim": record["feature_dim"],
            "num_layers": record["num_layers"],
        },
        metrics={name: float(value) for name, value in numbers.items() if value is not None},
        curves={
            "val/acc": record["curves"]["val_acc_history"],
            "train/loss": record["curves"]["train_loss_history"],
        },
    )


class TensorBoard:
    """Event files under trackers/tensorboard/<config>/<representation>/seed-<seed>."""

    def __init__(self, run_dir: Path) -> None:
        self.root = run_dir / "trackers" / "tensorboard"

    def log(self, key: TrialKey, trial: TrackedTrial) -> None:
        """Write one trial's events; those of an earlier record of it are replaced."""
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        folder = self.root / str(key)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with SummaryWriter(str(folder), write_to_disk=True) as writer:
            for name, values in trial.curves.items():
                for epoch, value in enumerate(values, 1):
                    writer.add_scalar(name, value, epoch)
            # The table of the HParams tab. `add_hparams` would open a second file for it.
            for summary in hparams(trial.parameters, trial.metrics):
                writer.file_writer.add_summary(summary)
            for name, value in trial.metrics.items():
                writer.add_scalar(name, value, 0)


def make_tracker(name: str, run_dir: Path) -> Tracker | None:
    """A tracker by its name; None for "none"."""
    return TensorBoard(run_dir) if name == "tensorboard" else None


class TrackerFeed:
    """Tells a tracker of every trial that has a record, once, from a thread.

    What has been told stands in trackers/<name>.json, with the records' checksums, so that a
    resumed run tells what an interrupted one could not. As a context manager it ends by waiting for
    what is still to be told, half a minute at most.

    Arguments:
        name: of the tracker, for messages.
        hyperparameters: the run's.
        warn: called, from the thread, with the first thing that goes wrong.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        run_dir: Path,
        hyperparameters: dict[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        self._name, self._tracker, self._run_dir = name, tracker, run_dir
        self._hyperparameters, self._warn = hyperparameters, warn
        self._note = run_dir / "trackers" / f"{name}.json"
        self._told: dict[str, str] = _read_note(self._note)
        self._failed = 0
        self._queue: queue.Queue[TrialKey | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def tell(self, keys: Iterable[TrialKey]) -> None:
        """Have trials told, unless they have been."""
        for key in keys:
            self._queue.put(key)

    def __enter__(self) -> TrackerFeed:
        return self

    def __exit__(self, *reason: object) -> None:
        self._queue.put(None)
        self._thread.join(_PATIENCE_SECONDS)
        # The end mark in the queue stands for the trial being told.
        left = self._queue.qsize() if self._thread.is_alive() else 0
        if self._failed or left:
            self._warn(
                f"{self._name}: {self._failed + left} trials could not be logged; "
                "the same command again tries again"
            )

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            try:
                self._log(key)
            except Exception as error:
                # A tracker may raise anything, and none of it may stop a sweep.
                self._failed += 1
                if self._failed == 1:
                    self._warn(f"{self._name}: cannot log {key}: {error!r}")

    def _log(self, key: TrialKey) -> None:
        record = read_record(self._run_dir, key)
        if self._told.get(str(key)) == record["checksum"]:
            return
        self._tracker.log(key, tracked_trial(key, record, self._hyperparameters))
        self._told[str(key)] = record["checksum"]
        write_json(self._note, self._told, indent=None, durable=False)


def _read_note(path: Path) -> dict[str, str]:
    try:
        note = json.loads(path.read_bytes())
        return {str(key): str(value) for key, value in note.items()}
    except (OSError, ValueError, AttributeError):
        return {}
