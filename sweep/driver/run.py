"""A run directory from Python: its trials as a table, its results and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasweep.sweep.store.plan import failed_trials, read_records
from lorasweep.sweep.store.results import build_results, trial_row
from lorasweep.sweep.store.sweep_file import SweepFile, read_sweep_file
from lorasweep.sweep.watch.status import Status, read_status
from lorasweep.trainables.store.trial_key import TrialKey

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Run:
    """A run directory as it is on disk, finished or not, of this version or an older one.

    Needs neither Ray nor torch, and runs no code that came with the run. What is read is read once;
    `open_run` again reads again.

    Attributes:
        run_dir: where everything lies.
    """

    run_dir: Path

    @cached_property
    def sweep(self) -> SweepFile:
        """What is frozen, and the grid that was asked for last."""
        return read_sweep_file(self.run_dir)

    @cached_property
    def records(self) -> dict[TrialKey, dict[str, Any]]:
        """Trial -> its record, of the finished trials of the grid, in grid order."""
        return read_records(self.run_dir, self.sweep.fingerprints).records

    @property
    def trials(self) -> pd.DataFrame:
        """One row per finished trial: its key (config, representation, seed, classifier), metrics
        (accuracies 0 to 1), timings in seconds, feature_dim, num_layers and fingerprint."""
        import pandas as pd

        return pd.DataFrame([trial_row(key, record) for key, record in self.records.items()])

    @property
    def results(self) -> dict[str, Any]:
        """What results.json holds of the cells that are complete."""
        fingerprints = self.sweep.fingerprints
        left = {key: f for key, f in fingerprints.items() if key not in self.records}
        return build_results(self.sweep, self.records, failed_trials(self.run_dir, left))

    @property
    def status(self) -> Status:
        """How far it is now."""
        return read_status(self.run_dir)


def open_run(run_dir: Path | str) -> Run:
    """A run directory to look at.

    Raises:
        UserError: it is none.
    """
    run = Run(Path(run_dir).absolute())
    _ = run.sweep
    return run
