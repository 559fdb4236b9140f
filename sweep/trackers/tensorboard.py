"""TensorBoard: event files in the run directory."""

from __future__ import annotations

from pathlib import Path

from trainables.record import TrialKey
from trainables.run_dir import RunDir

from .trial import TrackedTrial


class TensorBoard:
    """Event files under trackers/tensorboard/<config>/<representation>/seed-<seed>."""

    place = ""

    def __init__(self, run_dir: Path) -> None:
        self.root = RunDir(run_dir).trackers / "tensorboard"

    def log(self, key: TrialKey, trial: TrackedTrial) -> None:
        """Write one trial's events; those of an earlier record of it are replaced."""
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        folder = self.root / key.path
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

    def close(self) -> None:
        """Nothing is held open."""
