"""What a report is made from: a run directory's records and the true classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.core.errors import UserError
from trainables.record import TrialKey
from trainables.splits import split_samples

from ..grid import Pair
from ..labels import read_labels
from ..plan import failed_trials, read_records
from ..sweep_file import SweepFile, read_sweep_file
from .statistics import Scores


@dataclass(frozen=True)
class RunData:
    """One run, from its folder alone.

    Attributes:
        records: every valid record of the grid.
        failed: trials that failed after their retries.
        labels: (n_samples,) class indices.
    """

    run_dir: Path
    sweep: SweepFile
    records: dict[TrialKey, dict[str, Any]]
    failed: list[TrialKey]
    labels: NDArray[np.int64]

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.sweep.frozen["classes"])

    @cached_property
    def truth(self) -> dict[str, NDArray[np.int64]]:
        """Split -> (n,) class indices of its samples, in split order."""
        parts = split_samples(len(self.labels)).parts()
        return {name: self.labels[index] for name, index in parts.items()}

    @property
    def splits_coincide(self) -> bool:
        """Whether there were too few adapters to split, so that the scores mean nothing."""
        return len(self.truth["train"]) == len(self.labels)

    @cached_property
    def complete(self) -> list[Pair]:
        """(config, label) pairs all of whose seeds have a record, in grid order."""
        return [pair for pair in self.sweep.grid.pairs if not self.missing(pair)]

    def missing(self, pair: Pair) -> list[int]:
        """Seeds of a pair without a record."""
        return [k.seed for k in self.sweep.grid.keys_of(pair) if k not in self.records]

    def of_pair(self, pair: Pair) -> list[dict[str, Any]]:
        """A complete pair's records, by seed; the one of a classifier that no seed changes stands
        for all."""
        keys = self.sweep.grid.keys_of(pair)
        seeds = len(self.sweep.grid.seeds)
        return [self.records[key] for key in (keys if len(keys) == seeds else keys * seeds)]

    def metric(self, pair: Pair, name: str) -> NDArray[np.float64]:
        """(n_seeds,) of a complete pair; NaN where it is undefined or not recorded."""
        return self.number(pair, "metrics", name)

    def number(self, pair: Pair, part: str, name: str) -> NDArray[np.float64]:
        """(n_seeds,) of a complete pair, as `metric`, from another part of its records."""
        values = [record.get(part, {}).get(name) for record in self.of_pair(pair)]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def test_part(self, pair: Pair, part: str) -> list[Any]:
        """A part of a complete pair's records, of the test split; of the seeds that have it."""
        values = [(record.get(part) or {}).get("test") for record in self.of_pair(pair)]
        return [value for value in values if value is not None]

    def scores(self, pairs: list[Pair], split: str = "test") -> Scores:
        """What the classifiers of complete pairs predicted for the adapters of a split."""
        predictions = [[r["predictions"][split] for r in self.of_pair(pair)] for pair in pairs]
        return Scores(self.truth[split], np.array(predictions, dtype=np.int64), self.n_classes)


def load_run(run_dir: Path) -> RunData:
    """Read a run directory.

    Raises:
        UserError: it is none, it has no results yet, or its labels are missing or not those that
            the records were made with.
    """
    run_dir = run_dir.absolute()
    sweep = read_sweep_file(run_dir)
    fingerprints = sweep.fingerprints
    state = read_records(run_dir, fingerprints)
    if not state.records:
        raise UserError(f"{run_dir} has no finished trial yet")
    labels = np.array(read_labels(run_dir), dtype=np.int64)
    failed = failed_trials(run_dir, {key: fingerprints[key] for key in state.todo})
    run = RunData(run_dir, sweep, state.records, failed, labels)
    for key, record in state.records.items():
        for split in ("val", "test"):
            if not _consistent(run, record, split):
                raise UserError(
                    f"{run_dir / 'labels.json'} does not belong to record {key}: delete it and "
                    "give the original `lorasweep run` command again; nothing is trained twice"
                )
    return run


def _consistent(run: RunData, record: dict[str, Any], split: str) -> bool:
    """Whether labels and predictions give the confusion matrix that the record holds."""
    truth, predicted = run.truth[split], np.array(record["predictions"][split])
    if len(truth) != len(predicted):
        return False
    cells = np.bincount(truth * run.n_classes + predicted, minlength=run.n_classes**2)
    return cells.tolist() == np.ravel(record["confusion"][split]).tolist()
