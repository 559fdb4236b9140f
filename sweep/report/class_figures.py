"""Figures of classes: confusion matrices, accuracy and its drop on each class."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from .analysis import REFERENCE, Analysis
from .figures import config_figure, figure
from .parts import MOST_PANELS, best_only, display_order, panel_title
from .sections import Section
from .style import WIDTH, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


_MOST_LABELLED_CLASSES = 12
"""Confusion matrices with more classes show colours only."""
_MOST_ROWS = 30
"""With more classes, other heat maps name every nth and show colours only."""
_LONGEST_NAME = 16
_CELL = 0.21
"""Inches: cells of other heat maps are no narrower, so that three digits fit."""


def _best_labels(analysis: Analysis) -> list[str]:
    return display_order(analysis)[:MOST_PANELS]


def _left_out(analysis: Analysis, where: str) -> str:
    return best_only(len(_best_labels(analysis)), len(display_order(analysis)), where)


@config_figure(
    "confusion_{config}",
    Section.CONFUSION,
    "Confusion on test, {config}",
    lambda analysis: (
        "Share (%) of a true class's adapters (row) that were given each class "
        "(column), mean over seeds. Rows of classes without test adapters are empty."
        + _left_out(analysis, "the table has the others' most frequent confusions")
    ),
    configs=lambda analysis: [
        c for c in analysis.configs if any((c, n) in analysis.cells for n in _best_labels(analysis))
    ],
)
def confusion(analysis: Analysis, config: str) -> Figure:
    names = [n for n in _best_labels(analysis) if (config, n) in analysis.cells]
    classes = _class_labels(analysis)
    columns = min(3, len(names))
    rows = ceil(len(names) / columns)
    drawing = new_figure(0.4 + rows * WIDTH / 3)
    grid = drawing.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for place, (axes, name) in enumerate(zip(grid.flat, names)):
        shares = 100 * analysis.confusion((config, name))
        image = _heat(axes, shares, "Blues", (0, 100))
        panel_title(axes, name)
        small = 6 if max(map(len, classes)) < 4 else 5
        if len(classes) <= _MOST_LABELLED_CLASSES:
            axes.set_xticks(range(len(classes)), classes, fontsize=small)
            axes.set_yticks(
                range(len(classes)), classes if place % columns == 0 else [""] * len(classes)
            )
            axes.tick_params(axis="y", labelsize=small)
            if max(map(len, classes)) > 3:
                axes.tick_params(axis="x", labelrotation=90)
            _write_cells(axes, shares, (0, 100), zeros=False)
        else:
            axes.set_xticks([])
            axes.set_yticks([])
        if place % columns == 0:
            axes.set_ylabel("true")
        if place >= len(names) - columns:
            axes.set_xlabel("predicted")
    if len(classes) > _MOST_LABELLED_CLASSES:
        drawing.colorbar(image, ax=grid, shrink=0.4, label="share of the true class (%)")
    return drawing


def _class_labels(analysis: Analysis) -> list[str]:
    """Class names, the long ones cut."""
    names = [" ".join(str(name).split()) for name in analysis.run.sweep.frozen["classes"]]
    return [
        name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names
    ]


def _heat(axes: Axes, values: np.ndarray, colours: str, limits: tuple[float, float]) -> AxesImage:
    image = axes.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def _write_cells(
    axes: Axes, values: np.ndarray, limits: tuple[float, float], *, zeros: bool
) -> None:
    """Numbers in the cells of a heat map whose colours darken away from 0."""
    darkest = max(abs(limits[0]), abs(limits[1]))
    for (i, j), value in np.ndenumerate(values):
        if np.isnan(value):
            axes.text(j, i, "–", ha="center", va="center", fontsize=5.5)
        elif zeros or round(value) != 0:
            colour = "#ffffff" if abs(value) > 0.6 * darkest else "#000000"
            text = f"{round(value)}".replace("-", "−")
            axes.text(j, i, text, ha="center", va="center", fontsize=5.5, color=colour)


@figure(
    "classes",
    Section.CLASSES,
    "Accuracy on each class",
    lambda analysis: (
        "Mean over seeds, from the confusion matrices. Few test adapters make a class "
        "uncertain; the table has their number." + _left_out(analysis, "the tables have the others")
    ),
)
def classes(analysis: Analysis) -> Figure:
    columns = {
        config: {
            r.method: 100 * analysis.class_accuracy((config, r.method))
            for r in analysis.of_config(config)
        }
        for config in analysis.configs
    }
    return _class_heat(analysis, columns, "Blues", (0, 100))


@figure(
    "class_drop",
    Section.CLASSES,
    "Drop in accuracy on each class",
    lambda analysis: (
        f"From {REFERENCE}, in percentage points, mean over seeds; negative is a gain."
        + _left_out(analysis, "the tables have the others")
    ),
    when=lambda analysis: bool(analysis.ablations),
)
def class_drop(analysis: Analysis) -> Figure:
    columns = {
        config: {
            row.first.method: 100
            * (analysis.class_accuracy(row.first.cell) - analysis.class_accuracy(row.second.cell))
            for row in rows
        }
        for config, rows in analysis.ablations.items()
    }
    return _class_heat(analysis, columns, "PuOr", (-100, 100))


def _class_heat(
    analysis: Analysis,
    columns: dict[str, dict[str, np.ndarray]],
    colours: str,
    limits: tuple[float, float],
) -> Figure:
    """Classes × representations, a panel for each config; as many in a row as stay readable."""
    order = _best_labels(analysis)
    shown = {c: [n for n in order if n in values] for c, values in columns.items()}
    shown = {config: names for config, names in shown.items() if names}
    classes = _class_labels(analysis)
    widest = max(map(len, shown.values()))
    across = max(1, min(len(shown), int((WIDTH - 0.9) / (_CELL * widest + 0.1))))
    down = ceil(len(shown) / across)
    names_height = 0.045 * max(len(n) for names in shown.values() for n in names)
    drawing = new_figure((0.6 + max(0.9, names_height) + min(0.24 * len(classes), 7)) * down)
    grid = drawing.subplots(down, across, sharey=True, squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    step = ceil(len(classes) / _MOST_ROWS)
    for axes, (config, names) in zip(grid.flat, shown.items()):
        table = np.column_stack([columns[config][name] for name in names])
        image = _heat(axes, table, colours, limits)
        axes.set_yticks(range(0, len(classes), step), classes[::step])
        if step == 1:
            _write_cells(axes, table, limits, zeros=True)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_title(config, loc="left")
    if len(classes) > _MOST_ROWS:
        drawing.colorbar(image, ax=grid, shrink=0.6 / down, label="%")
    drawing.supylabel("class", fontsize=9)
    return drawing
