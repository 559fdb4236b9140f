"""What a report is made from: a run directory's records and the true classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorasweep.features.common.errors import UserError
from lorasweep.sweep.request.grid import Cell
from lorasweep.sweep.store.adapter_map import AdapterMap, read_maps
from lorasweep.sweep.store.class_labels import read_labels
from lorasweep.sweep.store.plan import failed_trials, read_records
from lorasweep.sweep.store.sweep_file import SweepFile, read_sweep_file
from lorasweep.trainables.data.splits import BY_CHANCE, SplitRule
from lorasweep.trainables.store.standing import Standing
from lorasweep.trainables.store.trial_key import TrialKey
from lorasweep.trainables.trial.pooling import by_seed

from .bootstrap import NOT_PREDICTED, Scores


@dataclass(frozen=True)
class RunData:
    """One run, from its folder alone.

    Attributes:
        records: every valid record of the grid.
        failed: trials that failed after their retries.
        labels: (n_samples,) class indices.
        split: how the samples are split.
    """

    run_dir: Path
    sweep: SweepFile
    records: dict[TrialKey, dict[str, Any]]
    failed: list[TrialKey]
    labels: NDArray[np.int64]
    split: SplitRule = BY_CHANCE

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.sweep.frozen["classes"])

    @cached_property
    def _parts(self) -> dict[tuple[int | None, str], dict[str, NDArray[np.int64]]]:
        """Cache of `parts_of`, by what `SplitRule.scope` gives."""
        return {}

    def parts_of(self, seed: int, fold: str = "") -> dict[str, NDArray[np.int64]]:
        """Split -> (n,) indices of its samples, in split order; with folds and none named, of the
        first."""
        scope = self.split.scope(seed, fold)
        if scope not in self._parts:
            self._parts[scope] = self.split.split(len(self.labels), seed, fold).parts()
        return self._parts[scope]

    @cached_property
    def tested(self) -> dict[int, NDArray[np.int64]]:
        """Seed -> (n,) indices of the samples it tests, in the order of `records_of`: of the test
        split, or of all folds together, ascending."""
        if not self.split.folds:
            return {seed: self.parts_of(seed)["test"] for seed in self.sweep.grid.seeds}
        return dict.fromkeys(self.sweep.grid.seeds, np.arange(len(self.labels)))

    def truth_of(self, split: str, seed: int, fold: str = "") -> NDArray[np.int64]:
        """(n,) class indices of a split's samples, in split order."""
        return self.labels[self.parts_of(seed, fold)[split]]

    @property
    def sizes(self) -> dict[str, int]:
        """Split -> number of samples; of the first seed and fold, where each has its own."""
        return {name: len(of) for name, of in self.parts_of(self.sweep.grid.seeds[0]).items()}

    @property
    def sizes_in_words(self) -> str:
        """Return "train 210, val 29, test 61"; it says which fold's they are."""
        sizes = ", ".join(f"{name} {size}" for name, size in self.sizes.items())
        return f"{sizes} in fold {self.split.folds[0]}" if self.split.folds else sizes

    @property
    def splits_coincide(self) -> bool:
        """Whether there were too few adapters to split, so that the scores mean nothing."""
        return self.sizes["train"] == len(self.labels)

    @cached_property
    def maps(self) -> dict[str, AdapterMap]:
        """Layer config -> where its adapters are in the plane, of configs and seeds of the grid."""
        return {
            config: found
            for config, found in read_maps(self.run_dir).items()
            if config in self.sweep.grid.configs
            and found.seed in self.sweep.grid.seeds
            and len(found.x) == len(self.labels)
        }

    @cached_property
    def complete(self) -> list[Cell]:
        """(config, method) cells all of whose seeds have a record, in grid order."""
        return [cell for cell in self.sweep.grid.cells if not self.missing(cell)]

    def missing(self, cell: Cell) -> list[TrialKey]:
        """Trials of a cell without a record."""
        return [key for key in self.sweep.grid.keys_of(cell) if key not in self.records]

    def fits_of(self, cell: Cell) -> list[dict[str, Any]]:
        """Return a complete cell's records, one for each trial."""
        return [self.records[key] for key in self.sweep.grid.keys_of(cell)]

    @cached_property
    def _by_seed(self) -> dict[Cell, list[dict[str, Any]]]:
        """Cache of `records_of`."""
        return {}

    def records_of(self, cell: Cell) -> list[dict[str, Any]]:
        """A complete cell's records, by seed, folds pooled; the one of a classifier that no seed
        changes stands for all."""
        if cell not in self._by_seed:
            found = by_seed(self.fits_of(cell), len(self.split.folds))
            seeds = len(self.sweep.grid.seeds)
            self._by_seed[cell] = found if len(found) == seeds else found * seeds
        return self._by_seed[cell]

    def is_seeded(self, cell: Cell) -> bool:
        """Whether seeds change a cell's numbers."""
        return self.sweep.grid.by_method[cell[1]].classifier not in self.sweep.grid.unseeded

    def standing(self, cell: Cell) -> Standing:
        """Return how good a complete cell is on the validation split."""
        return Standing.of_records(self.fits_of(cell))

    def metric(self, cell: Cell, name: str) -> NDArray[np.float64]:
        """(n_seeds,) of a complete cell; NaN where it is undefined or not recorded."""
        values = [record["metrics"].get(name) for record in self.records_of(cell)]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def paired(self, cell: Cell) -> NDArray[np.float64]:
        """Return (n,) test accuracies of a complete cell whose differences a t-test compares.

        They are those of seeds; of `kfold:K` those of seeds and folds; of `leave-out:COLUMN` those
        of values, means over seeds.
        """
        if not self.split.folds:
            return self.metric(cell, "test_acc")
        scores = np.array([fit["metrics"]["test_acc"] for fit in self.fits_of(cell)])
        if self.split.left_out is None:
            return scores
        return scores.reshape(-1, len(self.split.folds)).mean(axis=0)

    def mean_timing(self, cell: Cell, name: str) -> float:
        """Return a mean over a complete cell's trials; NaN where one has not recorded it."""
        values = [record.get("timing", {}).get(name) for record in self.fits_of(cell)]
        return float(np.mean([np.nan if value is None else value for value in values]))

    def test_part(self, cell: Cell, part: str) -> list[Any]:
        """A part of a complete cell's records, of the test split; of the seeds that have it."""
        values = [(record.get(part) or {}).get("test") for record in self.records_of(cell)]
        return [value for value in values if value is not None]

    def scores(self, cells: list[Cell]) -> Scores:
        """Return predictions of complete cells for the test adapters, or, where every seed has its
        own, for those that at least one seed tests."""
        seeds = self.sweep.grid.seeds
        predicted = [[r["predictions"]["test"] for r in self.records_of(cell)] for cell in cells]
        if self.split.folds or not self.split.per_seed:
            index = self.tested[seeds[0]]
            truth, groups = self.labels[index], self._groups(index)
            return Scores(truth, np.array(predicted, dtype=np.int64), self.n_classes, groups=groups)
        chosen = np.zeros((len(seeds), len(self.labels)), dtype=bool)
        whole = np.full((len(cells), *chosen.shape), NOT_PREDICTED, dtype=np.int64)
        for i, seed in enumerate(seeds):
            index = self.tested[seed]
            chosen[i, index] = True
            for j, records_of in enumerate(predicted):
                whole[j, i, index] = records_of[i]
        anywhere = chosen.any(axis=0)
        truth, groups = self.labels[anywhere], self._groups(np.flatnonzero(anywhere))
        return Scores(truth, whole[:, :, anywhere], self.n_classes, chosen[:, anywhere], groups)

    def _groups(self, index: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """(n,) groups of some samples, numbered from 0; None where samples are independent."""
        if self.split.test_groups is None:
            return None
        return np.unique(np.array(self.split.test_groups)[index], return_inverse=True)[1]


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
    labels = read_labels(run_dir)
    failed = failed_trials(run_dir, {key: fingerprints[key] for key in state.todo})
    classes = np.array(labels.classes, dtype=np.int64)
    run = RunData(run_dir, sweep, state.records, failed, classes, labels.split)
    for key, record in state.records.items():
        for split in ("val", "test"):
            if not _consistent(run, key, record, split):
                raise UserError(
                    f"{run_dir / 'labels.json'} does not belong to record {key}: delete it and "
                    "give the original `lorasweep run` command again; nothing is trained twice"
                )
    return run


def _consistent(run: RunData, key: TrialKey, record: dict[str, Any], split: str) -> bool:
    """Whether labels and predictions give the confusion matrix that the record holds."""
    truth = run.truth_of(split, key.seed, key.fold)
    predicted = np.array(record["predictions"][split])
    if len(truth) != len(predicted):
        return False
    cells = np.bincount(truth * run.n_classes + predicted, minlength=run.n_classes**2)
    return cells.tolist() == np.ravel(record["confusion"][split]).tolist()
