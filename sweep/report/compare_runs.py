"""Several runs side by side: accuracy against the size of the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from lorasweep.trainables.data.splits import rule_in_words

from .analysis import Analysis
from .bootstrap import Floats
from .cells import Estimate
from .figures import ReportFigure
from .intervals import interval
from .parts import (
    MOST_PANELS,
    best_only,
    config_legend,
    display_order,
    panels,
    round_log_ticks,
)
from .runs import Cell
from .sections import Section
from .statistics import (
    ALPHA,
    bootstrap_p,
    holm,
    welch_p,
)
from .style import MUTED, style_of
from .tables import (
    Column,
    Table,
    Value,
    interval_of,
    p_value,
    percent,
    signed_percent,
    yes_no,
)
from .words import listed, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INTERVAL = "resamples seeds and test adapters together"


class RunComparison:
    """Several analysed runs, by size of their datasets.

    Attributes:
        names: what each run is called.
        analyses: one for each, ascending in adapters.
    """

    def __init__(self, named: list[tuple[str, Analysis]]) -> None:
        ordered = sorted(named, key=lambda item: _size(item[1]))
        self.names = [name for name, _ in ordered]
        self.analyses = [analysis for _, analysis in ordered]

    @property
    def cells(self) -> list[Cell]:
        """(config, representation) cells that are complete in at least one run."""
        return list(dict.fromkeys(cell for a in self.analyses for cell in a.cells))

    def with_cell(self, cell: Cell) -> list[tuple[str, Analysis]]:
        """The runs in which a cell is complete."""
        return [(n, a) for n, a in zip(self.names, self.analyses) if cell in a.cells]

    def notices(self) -> list[str]:
        """What keeps the runs from being comparable."""
        found = []
        data = [a.run.sweep.environment["dataset"] for a in self.analyses]
        decides = [a.run.sweep.frozen["decides"] for a in self.analyses]
        layers = [a.run.sweep.environment["layers"] for a in self.analyses]
        shared = set.intersection(*(set(counts) for counts in layers))
        for what, values in (
            ("classes", [a.run.sweep.frozen["classes"] for a in self.analyses]),
            ("label columns", [d.get("label_column") for d in data]),
            ("LoRA ranks", [d.get("lora_rank") for d in data]),
            ("layer tensors", [{c: counts[c] for c in shared} for counts in layers]),
            ("seeds", [a.run.sweep.grid.seeds for a in self.analyses]),
            ("splits", [rule_in_words(d["split"]) for d in decides]),
            (
                "hyperparameters",
                [
                    [a.run.sweep.settings(name) for name in a.run.sweep.grid.classifiers]
                    for a in self.analyses
                ],
            ),
        ):
            if any(value != values[0] for value in values):
                found.append(f"The runs have different {what}; see What ran.")
        for name, analysis in zip(self.names, self.analyses):
            missing = len(analysis.run.sweep.grid.cells) - len(analysis.run.complete)
            if missing:
                found.append(f"{name} is not complete: {missing} of its pairs are left out.")
            if analysis.run.splits_coincide:
                found.append(f"{name} has too few adapters to split: its scores mean nothing.")
        return found

    def findings(self) -> list[str]:
        """What the sizes do, in sentences."""
        sentences = []
        for config in dict.fromkeys(config for config, _ in self.cells):
            parts = [
                f"{best.method} in {name} ({_size(a)} adapters), {shown(best.accuracy)}"
                for name, a in zip(self.names, self.analyses)
                if config in a.configs
                for best in a.ranked(config)[:1]
            ]
            sentences.append(f"{config}: the best by validation is {listed(parts)}.")
            grown = [row for row in self.growth() if row["config"] == config]
            certain = [
                f"{row['representation']} ({signed_percent(row['gain'].value)})"
                for row in grown
                if row["distinguishable"]
            ]
            if grown:
                which = listed(certain) if certain else "no representation"
                sentences.append(
                    f"{config}: from the smallest to the largest dataset that has it, the accuracy "
                    f"of {which} changes distinguishably (percentage points)."
                )
        return sentences

    def growth(self) -> list[dict[str, Any]]:
        """What every cell gains from the smallest to the largest run that has it.

        The runs' test adapters are other ones, so the two are resampled independently; p-values
        are adjusted over all rows by Holm's method. Distinguishable is what passes that and Welch's
        t-test over seeds; with one seed nothing does.
        """
        rows: list[dict[str, Any]] = []
        for cell in self.cells:
            runs = self.with_cell(cell)
            (first, small), (last, large) = runs[0], runs[-1]
            if _size(small) == _size(large):
                continue
            differences = large.replicates(cell) - small.replicates(cell)
            before, after = small.cells[cell].accuracy, large.cells[cell].accuracy
            rows.append(
                {
                    "config": cell[0],
                    "representation": cell[1],
                    "from": first,
                    "to": last,
                    "before": before.value,
                    "after": after.value,
                    "gain": Estimate(
                        after.value - before.value, *growth_ends(after, before, differences)
                    ),
                    **_tests(large, small, cell),
                }
            )
        adjusted = zip(holm([row["p"] for row in rows]), holm([row["p_seeds"] for row in rows]))
        for row, (p, p_seeds) in zip(rows, adjusted):
            row["holm"], row["holm_seeds"] = p, p_seeds
            passed = p is not None and p < ALPHA and p_seeds is not None and p_seeds < ALPHA
            row["distinguishable"] = passed
        return rows

    def tables(self) -> list[Table]:
        """The comparison's tables."""
        return [t for t in (self._run_table(), self._size_table(), self._growth_table()) if t.rows]

    def _run_table(self) -> Table:
        return Table(
            Section.RUNS,
            "runs",
            "The runs",
            [
                Column("run", "run"),
                Column("adapters", "adapters"),
                Column("test_adapters", "test adapters"),
                Column("classes", "classes"),
                Column("chance", "chance (%)", percent),
                Column("seeds", "seeds"),
                Column("complete", "complete pairs"),
                Column("pairs", "of"),
            ],
            [
                [
                    name,
                    _size(a),
                    a.run.sizes["test"],
                    a.run.n_classes,
                    a.chance,
                    len(a.run.sweep.grid.seeds),
                    len(a.cells),
                    len(a.run.sweep.grid.cells),
                ]
                for name, a in zip(self.names, self.analyses)
            ],
        )

    def _size_table(self) -> Table:
        rows: list[list[Value]] = []
        for cell in self.cells:
            for name, analysis in self.with_cell(cell):
                r = analysis.cells[cell]
                accuracy, f1 = r.accuracy, r.macro_f1
                rows.append(
                    [
                        *cell,
                        name,
                        _size(analysis),
                        accuracy.value,
                        (accuracy.low, accuracy.high),
                        f1.value,
                        (f1.low, f1.high),
                        r.gap,
                    ]
                )
        return Table(
            Section.SIZE,
            "size",
            "Test accuracy and macro F1 (%) by size of the dataset",
            [
                Column("config", "config"),
                Column("representation", "representation"),
                Column("run", "run"),
                Column("adapters", "adapters"),
                Column("test_accuracy", "test acc", percent),
                Column("test_accuracy", "acc, 95 %", interval_of(percent), _INTERVAL, True),
                Column("macro_f1", "macro F1", percent),
                Column("macro_f1", "F1, 95 %", interval_of(percent), _INTERVAL, True),
                Column("gap", "train − test", signed_percent),
            ],
            rows,
        )

    def _growth_table(self) -> Table:
        return Table(
            Section.SIZE,
            "growth",
            "Gain in test accuracy from the smallest to the largest dataset (percentage points)",
            [
                Column("config", "config"),
                Column("representation", "representation"),
                Column("from", "from"),
                Column("to", "to"),
                Column("before", "acc before", percent),
                Column("after", "acc after", percent),
                Column("gain", "gain", signed_percent),
                Column("gain", "95 % interval", interval_of(percent), _INTERVAL, True),
                Column("p_bootstrap", "p", p_value),
                Column("p_bootstrap_holm", "p, Holm", p_value),
                Column("p_seeds", "p, seeds", p_value, "Welch's t-test over seeds"),
                Column("p_seeds_holm", "p, seeds, Holm", p_value),
                Column("distinguishable", "distinguishable", yes_no),
            ],
            [
                [
                    row["config"],
                    row["representation"],
                    row["from"],
                    row["to"],
                    row["before"],
                    row["after"],
                    row["gain"].value,
                    (row["gain"].low, row["gain"].high),
                    row["p"],
                    row["holm"],
                    row["p_seeds"],
                    row["holm_seeds"],
                    row["distinguishable"],
                ]
                for row in self.growth()
            ],
            "The runs have other test adapters, so their seeds and adapters are resampled "
            "independently; if one dataset holds the other, the interval is too wide rather than "
            "too narrow.",
        )

    def figures(self) -> Iterator[ReportFigure]:
        """The comparison's figures."""
        if self.cells:
            labels = self._methods()
            yield ReportFigure(
                "size",
                Section.SIZE,
                "Test accuracy by size of the dataset",
                "Bars are 95 % intervals over seeds and test adapters together; dashed lines are "
                "guessing."
                + best_only(min(len(labels), MOST_PANELS), len(labels), "the table has the others"),
                self._draw,
            )

    def _methods(self) -> list[str]:
        """Every representation that is complete in a run, the best of the largest run first."""
        found = [name for a in reversed(self.analyses) for name in display_order(a)]
        return list(dict.fromkeys(found))

    def _draw(self) -> Figure:
        figure, grid = panels(self._methods()[:MOST_PANELS], 1.9)
        asked = [c for a in self.analyses for c in a.run.sweep.grid.ordinary_configs]
        look = style_of(dict.fromkeys(asked))
        for config, name in self.cells:
            if name not in grid:
                continue
            runs = [a for _, a in self.with_cell((config, name))]
            estimates = [a.cells[config, name].accuracy for a in runs]
            middle = np.array([e.value for e in estimates])
            reach = [middle - [e.low for e in estimates], [e.high for e in estimates] - middle]
            grid[name].errorbar(
                [_size(a) for a in runs],
                100 * middle,
                100 * np.array(reach),
                color=look[config].colour,
                marker=look[config].marker,
                markersize=4,
                linewidth=1.4,
            )
        for axes in grid.values():
            for chance in {a.chance for a in self.analyses}:
                axes.axhline(100 * chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
            axes.set_ylim(0, 103)
            axes.grid()
            round_log_ticks(axes)
            axes.margins(x=0.1)
        figure.supxlabel("adapters", fontsize=9)
        figure.supylabel("test accuracy (%)", fontsize=9)
        configs = list(dict.fromkeys(config for config, _ in self.cells))
        config_legend(figure, next(iter(grid.values())), configs, look)
        return figure


def growth_ends(after: Estimate, before: Estimate, replicates: Floats) -> tuple[float, float]:
    """Return the 95 % interval of a difference of two runs' accuracies.

    It reaches at least as far as what the two intervals give, which are exact where few adapters
    are wrong (Newcombe, Statistics in Medicine, 1998, method 10).
    """
    difference = after.value - before.value
    low, high = interval(replicates)
    below = np.hypot(after.value - after.low, before.high - before.value)
    above = np.hypot(after.high - after.value, before.value - before.low)
    return min(low, float(difference - below)), max(high, float(difference + above))


def _tests(large: Analysis, small: Analysis, cell: Cell) -> dict[str, float | None]:
    """P-values that a cell is alike in two runs; None where a run has too few values left out."""
    if not (large.tests_differences and small.tests_differences):
        return {"p": None, "p_seeds": None}
    scores = [analysis.run.paired(cell) for analysis in (large, small)]
    return {
        "p": bootstrap_p(large.replicates(cell) - small.replicates(cell)),
        "p_seeds": welch_p(scores[0], scores[1], (large.overlap, small.overlap)),
    }


def _size(analysis: Analysis) -> int:
    return int(analysis.run.sweep.frozen["num_samples"])
