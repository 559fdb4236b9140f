"""TensorBoard: event files in the run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

from .trial import TrackedTrial


class TensorBoard:
    """Event files under trackers/tensorboard/<config>/<representation>/seed-<seed>."""

    place = ""

    def __init__(self, run_dir: Path) -> None:
        self.root = RunDir(run_dir).trackers / "tensorboard"

    def log(self, key: TrialKey, trial: TrackedTrial) -> None:
        """Write one trial's events; those of an earlier record of it are replaced."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import hparams, scalar

        folder = self.root / key.path
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        # A `SummaryWriter` would send every value through a pipe to a thread of its own.
        writer = EventsWriter(str(folder / "events"))

        def write(summary: Any, step: int | None = None) -> None:
            writer.write_event(Event(wall_time=trial.ended, step=step, summary=summary))

        for name, values in trial.curves.items():
            for epoch, value in enumerate(values, 1):
                write(scalar(name, value), epoch)
        for summary in hparams(trial.parameters, trial.metrics):  # the table of the HParams tab
            write(summary)
        for name, value in trial.metrics.items():
            write(scalar(name, value), 0)
        writer.close()

    def close(self) -> None:
        """Nothing is held open."""
