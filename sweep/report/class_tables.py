"""The report's tables of classes: accuracy, its drop, confusions, counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .analysis import REFERENCE, Analysis
from .bootstrap import Floats
from .sections import Section
from .tables import Column, Table, Value, percent, signed_percent

_MOST_CONFUSED = 5


def class_table(analysis: Analysis, config: str) -> Table:
    """Accuracy on every class."""
    return Table(
        Section.CLASSES,
        f"classes_{config}",
        f"Accuracy on the test adapters of each class (%), {config}, mean over seeds",
        *_by_class(
            analysis,
            {r.method: analysis.class_accuracy(r.cell) for r in analysis.of_config(config)},
            percent,
        ),
    )


def class_drop_table(analysis: Analysis, config: str) -> Table:
    """What every class loses from all layers to another config."""
    return Table(
        Section.CLASSES,
        f"class_drop_{config}",
        f"Drop in accuracy on each class from {REFERENCE} to {config} (percentage points)",
        *_by_class(
            analysis,
            {
                row.first.method: analysis.class_accuracy(row.first.cell)
                - analysis.class_accuracy(row.second.cell)
                for row in analysis.ablations[config]
            },
            signed_percent,
        ),
    )


def _by_class(
    analysis: Analysis, values: dict[str, Floats], show: Callable[[float], str]
) -> tuple[list[Column], list[list[Value]]]:
    """Columns and rows of a table with a row for each class.

    Arguments:
        values: representation -> (n_classes,).
        show: formats them.
    """
    columns = [
        Column("class", "class"),
        Column("test_adapters", "test adapters"),
        *(Column(name, name, show) for name in values),
    ]
    support = _class_counts(analysis, "test")
    rows: list[list[Value]] = [
        [name, support[i], *(float(column[i]) for column in values.values())]
        for i, name in enumerate(_class_names(analysis))
    ]
    return columns, rows


def confusion_table(analysis: Analysis, config: str) -> Table:
    """The classes that are taken for others most often."""
    names = _class_names(analysis)
    rows: list[list[Value]] = []
    for result in analysis.ranked(config):
        shares = np.nan_to_num(analysis.confusion(result.cell))
        np.fill_diagonal(shares, 0)
        for cell in np.argsort(-shares, axis=None, kind="stable")[:_MOST_CONFUSED]:
            true, predicted = np.unravel_index(cell, shares.shape)
            share = float(shares[true, predicted])
            if share > 0:
                rows.append([result.method, names[true], names[predicted], share])
    return Table(
        Section.CONFUSION,
        f"confusions_{config}",
        f"The most frequent confusions on test, {config}, mean over seeds",
        [
            Column("representation", "representation"),
            Column("true_class", "true class"),
            Column("predicted_class", "taken for"),
            Column("share", "share of the true class (%)", percent),
        ],
        rows,
        f"The {_MOST_CONFUSED} largest shares of every representation.",
    )


def class_count_table(analysis: Analysis) -> Table:
    """How many adapters of every class are in every split."""
    splits = list(analysis.run.sizes)
    counts = [_class_counts(analysis, split) for split in splits]
    run = analysis.run
    of = f" (seed {run.sweep.grid.seeds[0]}; every seed has its own)" if run.split.per_seed else ""
    if run.split.folds:
        of = f" (seed {run.sweep.grid.seeds[0]}, fold {run.split.folds[0]})"
    return Table(
        Section.CLASSES,
        "class_counts",
        f"Adapters of each class in each split{of}",
        [Column("class", "class"), *(Column(split, split) for split in splits)],
        [[name, *(count[i] for count in counts)] for i, name in enumerate(_class_names(analysis))],
    )


def _class_counts(analysis: Analysis, split: str) -> list[int]:
    run = analysis.run
    truth = run.truth_of(split, run.sweep.grid.seeds[0])
    return np.bincount(truth, minlength=run.n_classes).tolist()


def _class_names(analysis: Analysis) -> list[str]:
    return [str(name) for name in analysis.run.sweep.frozen["classes"]]
