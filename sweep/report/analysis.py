"""Every number a report shows of one run, computed once; tables and figures only show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorasweep.features.layers.families import family_of
from lorasweep.trainables.data.splits import FEWEST_VALUES
from lorasweep.trainables.store.standing import best_of, tie_in_words

from .bootstrap import (
    REPLICATES,
    REPLICATES_PER_TEST,
    Bootstrap,
    Floats,
    Scores,
    hierarchical_bootstrap,
)
from .cells import Ablation, CellResult, Estimate, Tested, seeds_interval
from .contrasts import CONTRASTS, Contrast, RowGroup
from .family_results import FamilyResults, family_results
from .intervals import accuracy_interval, difference_interval, interval
from .runs import Cell, RunData
from .statistics import (
    ALPHA,
    Comparison,
    compare,
    holm,
    sign_flip_p,
    smallest_sign_flip_p,
)

REFERENCE = "all_layers"
"""The config that the others are compared with, where the grid has it."""


class Analysis:
    """The numbers of one run's report. Only cells whose seeds are all finished are in it."""

    def __init__(self, run: RunData) -> None:
        self.run = run
        self.chance = 1 / run.n_classes
        tested = [run.labels[index] for index in run.tested.values()]
        self.majority = float(np.mean([np.bincount(test).max() / len(test) for test in tested]))
        """Test accuracy of always answering the commonest class: no constant does better."""

    @property
    def resampled(self) -> str:
        """What 95 % intervals resample, for captions and notes."""
        several = len(self.run.sweep.grid.seeds) > 1
        if self.run.split.left_out is not None:
            what = f"values of {self.run.split.column}"
        elif self.run.split.groups is not None:
            what = "whole groups of test adapters"
        else:
            what = "test adapters"
        return f"seeds and {what} together" if several else f"{what} alone (one seed)"

    @property
    def groups_notice(self) -> str:
        """Return what there is to say of the groups that are tested on; "" without groups."""
        split = self.run.split
        if split.test_groups is None:
            return ""
        count = self._bootstrap[0].n_independent
        most = max((len(of) for of in self._planned.values()), default=0)
        if not self.tests_differences:
            return (
                f"{split.column} has {count} values, and each counts once. With fewer than "
                f"{FEWEST_VALUES} no difference is tested, and nothing is called above chance."
            )
        what = f"groups, the values of {split.column}" if split.left_out else "groups"
        text = (
            f"Test adapters are of {count} {what}, which are independent. Differences are tested "
            "by flipping signs of whole groups, which holds where methods vary alike over groups."
        )
        if smallest_sign_flip_p(count) * most > ALPHA:
            text += (
                f" With {count} groups and {most} comparisons in a table, no difference can be "
                "called distinguishable."
            )
        return text

    @property
    def tests_differences(self) -> bool:
        """Return whether differences are tested: not where too few values are left out."""
        return self.run.split.left_out is None or len(self.run.split.folds) >= FEWEST_VALUES

    @property
    def paired_by(self) -> str:
        """Name, in the plural, what scores are paired by: seeds, folds, or values of a column."""
        if self.run.split.left_out is not None:
            return f"values of {self.run.split.column}"
        return "seeds and folds" if self.run.split.k else "seeds"

    @property
    def seeds_hold_for(self) -> str:
        """What a test over seeds alone says something about, for headings."""
        own = self.overlap is not None
        return ", corrected for overlapping training sets" if own else ": this test split only"

    @cached_property
    def overlap(self) -> float | None:
        """n_test/n_train where every seed or fold has a split of its own; see `seeds_p`."""
        run = self.run
        if not run.split.per_seed and not run.split.folds:
            return None
        seed = run.sweep.grid.seeds[0]
        parts = [run.parts_of(seed, fold) for fold in run.split.folds or ("",)]
        return sum(len(of["test"]) for of in parts) / sum(len(of["train"]) for of in parts)

    def above_chance(self, result: CellResult) -> bool | None:
        """Tell whether whole intervals lie above guessing and any constant answer; None where
        too few values are left out to say."""
        if not self.tests_differences:
            return None
        low = result.accuracy.low
        if result.accuracy_seeds:
            low = min(low, result.accuracy_seeds.low)
        return low > max(self.chance, self.majority)

    @cached_property
    def _bootstrap(self) -> tuple[Scores, Bootstrap]:
        scores = self.run.scores(self.run.complete)
        # The same draws in every report of this dataset, others for another dataset.
        seed = int(self.run.sweep.frozen["decides"]["dataset"], 16)
        largest = max((len(of) for of in self._planned.values()), default=0)
        replicates = max(REPLICATES, REPLICATES_PER_TEST * largest)
        return scores, hierarchical_bootstrap(scores, replicates=replicates, seed=seed)

    @cached_property
    def _planned(self) -> dict[tuple[str, str], list[tuple[Cell, Cell]]]:
        """(table, config) -> the comparisons of a family, decided before any test score is seen:
        the best by validation with every other, the best of a kind of rows with that of another,
        and a config with `REFERENCE`."""
        families = {}
        for config in self.configs:
            methods = [method for of, method in self.run.complete if of == config]
            best = self.best_by_validation(config)
            families["comparison", config] = [
                ((config, best), (config, method)) for method in methods if method != best
            ]
            families["contrast", config] = [cells for _, cells in self._contrasts(config)]
            if config != REFERENCE:
                families["ablation", config] = [
                    ((REFERENCE, method), (config, method))
                    for method in methods
                    if (REFERENCE, method) in self.run.complete
                ]
        return families

    def _contrasts(self, config: str) -> list[tuple[Contrast, tuple[Cell, Cell]]]:
        """The contrasts that a config has rows for, with the best row by validation of either
        kind."""
        by_method = self.run.sweep.grid.by_method

        def best(group: RowGroup) -> Cell | None:
            methods = [
                method
                for of, method in self.run.complete
                if of == config and group.holds(by_method[method])
            ]
            return (config, self._best_of(config, methods)) if methods else None

        found = [(contrast, best(contrast.first), best(contrast.second)) for contrast in CONTRASTS]
        return [(contrast, (a, b)) for contrast, a, b in found if a and b]

    def best_by_validation(self, config: str) -> str:
        """Return the method that stands best; see `Standing`."""
        return self._best_of(config, [method for of, method in self.run.complete if of == config])

    def _best_of(self, config: str, methods: list[str]) -> str:
        return best_of({method: self.run.standing((config, method)) for method in methods})

    @cached_property
    def _everything(self) -> dict[Cell, CellResult]:
        """Every complete cell, in the grid's order."""
        return {cell: self._cell_result(i, cell) for i, cell in enumerate(self.run.complete)}

    @cached_property
    def cells(self) -> dict[Cell, CellResult]:
        """Every complete cell of a config that is of no family, in the grid's order."""
        return {p: result for p, result in self._everything.items() if family_of(p[0]) is None}

    @cached_property
    def families(self) -> dict[str, FamilyResults]:
        """Family of configs -> its complete cells."""
        found: dict[str, list[CellResult]] = {}
        for (config, _), result in self._everything.items():
            family = family_of(config)
            if family:
                found.setdefault(family, []).append(result)
        return {name: family_results(name, of, self.run.sweep) for name, of in found.items()}

    @cached_property
    def configs(self) -> list[str]:
        """Configs that have a complete cell and are of no family."""
        complete = dict.fromkeys(config for config, _ in self.run.complete)
        return [config for config in complete if family_of(config) is None]

    def of_config(self, config: str) -> list[CellResult]:
        """A config's cells, in the grid's order."""
        return [result for cell, result in self.cells.items() if cell[0] == config]

    def ranked(self, config: str) -> list[CellResult]:
        """Return a config's cells, the best by validation first; see `Standing`."""
        return sorted(self.of_config(config), key=lambda result: result.standing.order)

    def tie(self, config: str) -> str:
        """Return how the best of a config was told from others with its validation accuracy."""
        return tie_in_words({result.method: result.standing for result in self.of_config(config)})

    def best(self, config: str) -> list[CellResult]:
        """Return the cells with the highest test accuracy: several if they are equal."""
        results = self.ranked(config)
        highest = max(result.accuracy.value for result in results)
        return [result for result in results if abs(result.accuracy.value - highest) < 1e-12]

    def _cell_result(self, index: int, cell: Cell) -> CellResult:
        run, (_, bootstrap) = self.run, self._bootstrap
        records = run.records_of(cell)
        varies = run.is_seeded(cell)
        paired = run.paired(cell)
        test, train = run.metric(cell, "test_acc"), run.metric(cell, "train_acc")
        predictions = [record["predictions"]["test"] for record in records]
        return CellResult(
            *cell,
            varies or bool(run.split.folds),
            features=records[0]["feature_dim"],
            layers=records[0]["num_layers"],
            accuracy=self._accuracy(test, bootstrap.accuracy[:, index]),
            accuracy_seeds=self._over_pairs(paired, test) if varies or run.split.folds else None,
            macro_f1=_estimate(
                float(run.metric(cell, "test_f1").mean()), bootstrap.macro_f1[:, index]
            ),
            test=test,
            train_acc=float(train.mean()),
            standing=run.standing(cell),
            gap=float((train - test).mean()),
            std=float(test.std(ddof=1)) if varies and len(test) > 1 else None,
            agreement=_agreement(np.array(predictions)) if varies else None,
            ece=float(run.metric(cell, "test_ece").mean()),
            log_loss=float(run.metric(cell, "test_log_loss").mean()),
            seconds=run.mean_timing(cell, "train_seconds"),
            epochs=run.mean_timing(cell, "epochs_run"),
        )

    def _accuracy(self, test: Floats, replicates: Floats) -> Estimate:
        mean = float(test.mean())
        return Estimate(
            mean, *accuracy_interval(mean, self._bootstrap[0].n_independent, replicates)
        )

    def _over_pairs(self, paired: Floats, test: Floats) -> Estimate | None:
        return seeds_interval(paired, self.overlap, float(test.mean()))

    def _difference_ends(self, first: Cell, second: Cell) -> tuple[float, float]:
        """Return the 95 % interval of the difference of two cells' test accuracies."""
        drawn = self.replicates(first) - self.replicates(second)
        return difference_interval(self._bootstrap[0].n_independent, drawn)

    def _compare(self, first: Cell, second: Cell) -> Comparison:
        place = self.run.complete.index
        of = (self.replicates(first), self.replicates(second))
        found = compare(
            self.run.paired(first),
            self.run.paired(second),
            of[0] - of[1],
            self.overlap,
            self._difference_ends(first, second),
            self._group_p(place(first), place(second)),
            self.difference(first, second).value,
        )
        if self.tests_differences:
            return found
        return replace(found, p_adapters=None, p_seeds=None, effect=None)

    def _group_p(self, first: int, second: int) -> float | None:
        scores = self._bootstrap[0]
        if scores.groups is None:
            return None
        return sign_flip_p(scores.group_differences(first, second))

    def _tests(self, cells: list[tuple[Cell, Cell]]) -> list[Tested]:
        """Paired comparisons of one family."""
        found = [self._compare(a, b) for a, b in cells]
        adjusted = holm([test.p_adapters for test in found])
        seeds = holm([test.p_seeds for test in found])
        return [
            Tested(self.cells[a], self.cells[b], test, p, p_seeds)
            for (a, b), test, p, p_seeds in zip(cells, found, adjusted, seeds)
        ]

    @cached_property
    def comparisons(self) -> dict[str, list[Tested]]:
        """Config -> its best representation by validation with every other; a family each."""
        return {config: self._tests(self._planned["comparison", config]) for config in self.configs}

    @cached_property
    def contrasts(self) -> dict[str, list[tuple[Contrast, Tested]]]:
        """Config -> its contrasts, tested; a family each."""
        found = {
            config: list(
                zip(
                    [contrast for contrast, _ in self._contrasts(config)],
                    self._tests(self._planned["contrast", config]),
                )
            )
            for config in self.configs
        }
        return {config: rows for config, rows in found.items() if rows}

    @cached_property
    def ablations(self) -> dict[str, list[Ablation]]:
        """Config other than `REFERENCE` -> what every representation loses; a family each."""
        found = {config: self._ablations(config) for config in self.configs if config != REFERENCE}
        return {config: rows for config, rows in found.items() if rows}

    def _ablations(self, config: str) -> list[Ablation]:
        return [
            Ablation(**vars(test), relative=self._relative(test), retained=self._retained(test))
            for test in self._tests(self._planned["ablation", config])
        ]

    def difference(self, first: Cell, second: Cell) -> Estimate:
        """Mean test accuracy of one cell less that of another, with its interval; no test."""
        means = [self._everything[cell].accuracy.value for cell in (first, second)]
        return Estimate(means[0] - means[1], *self._difference_ends(first, second))

    def replicates(self, cell: Cell) -> Floats:
        """(replicates,) of a cell's test accuracy, the same draws for all cells."""
        return self._bootstrap[1].accuracy[:, self.run.complete.index(cell)]

    def _relative(self, test: Tested) -> Estimate | None:
        return self._share(test, lambda whole, part: (whole - part) / whole)

    def _retained(self, test: Tested) -> Estimate | None:
        chance = self.chance
        return self._share(test, lambda whole, part: (part - chance) / (whole - chance))

    def _share(self, test: Tested, of: Callable[[Any, Any], Any]) -> Estimate | None:
        """A function of the two accuracies with its interval, where it means something."""
        if not self.above_chance(test.first):
            return None
        whole, part = self.replicates(test.first.cell), self.replicates(test.second.cell)
        # Of thousands of replicates, a few may fall below chance all the same.
        certain = whole > self.chance
        value = of(test.first.accuracy.value, test.second.accuracy.value)
        return _estimate(value, of(whole[certain], part[certain]))

    def class_accuracy(self, cell: Cell) -> Floats:
        """(n_classes,) mean over seeds of the share of a class's test adapters that are right.

        NaN for a class without test adapters.
        """
        return np.diag(self.confusion(cell)).copy()

    def confusion(self, cell: Cell) -> Floats:
        """(n_classes, n_classes) mean over seeds of the test confusion, rows summing to 1.

        NaN in the rows of classes without test adapters.
        """
        counts = np.array([r["confusion"]["test"] for r in self.run.records_of(cell)], dtype=float)
        support = counts.sum(axis=2, keepdims=True)
        shares = np.divide(counts, support, out=np.full_like(counts, np.nan), where=support > 0)
        return shares.mean(axis=0)

    def curves(self, cell: Cell, name: str) -> Floats | None:
        """(n_fits, epochs) of a cell's learning curves, NaN after a fit has stopped.

        Only of the fits that have this curve; None if there is none.
        """
        found = [record.get("curves", {}).get(name) for record in self.run.fits_of(cell)]
        curves = [curve for curve in found if curve]
        if not curves:
            return None
        padded = np.full((len(curves), max(map(len, curves))), np.nan)
        for row, curve in zip(padded, curves):
            row[: len(curve)] = curve
        return padded

    def precision_recall(self, cell: Cell) -> Floats | None:
        """(n_seeds, levels) precision on test at equally spaced recalls from 0 to 1.

        Only of the seeds that have it; None if there is none.
        """
        found = self.run.test_part(cell, "precision_recall")
        return np.array(found, dtype=np.float64) if found else None

    def calibration(self, cell: Cell) -> tuple[Floats, Floats, NDArray[np.int64]] | None:
        """(bins,) mean confidence, accuracy and count of all seeds' test predictions together.

        NaN where a bin is empty; None if no seed has it.
        """
        bins = self.run.test_part(cell, "calibration")
        if not bins:
            return None
        count = np.array([b["count"] for b in bins], dtype=np.int64)

        def pooled(name: str) -> Floats:
            values = np.array([b[name] for b in bins], dtype=np.float64)
            total = (np.nan_to_num(values) * count).sum(axis=0)
            whole = count.sum(axis=0)
            return np.divide(total, whole, out=np.full(len(whole), np.nan), where=whole > 0)

        return pooled("confidence"), pooled("accuracy"), count.sum(axis=0)


def _estimate(value: float, replicates: Floats) -> Estimate:
    """Return a value with its bootstrap interval, which is NaN where nothing varies."""
    if len(replicates) and np.ptp(replicates) == 0:
        return Estimate(value, np.nan, np.nan)
    return Estimate(value, *interval(replicates))


def _agreement(predictions: NDArray[np.int64]) -> float | None:
    """Share of adapters for which two rows of (n_seeds, n) predict alike, over all two rows."""
    shares = [(a == b).mean() for a, b in combinations(predictions, 2)]
    return float(np.mean(shares)) if shares else None
