"""Figures of curves: learning, precision and recall, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lorasweep.trainables.classifiers.catalogue import has_learning_curves, step_names

from .analysis import Analysis
from .cells import CellResult
from .figures import figure
from .parts import (
    MOST_PANELS,
    best_only,
    config_legend,
    config_panels,
    display_order,
    legend,
    panels,
    styles,
)
from .sections import Section
from .style import LINES, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _having(analysis: Analysis, name: str) -> list[str]:
    """Representations with this learning curve in some config, best first."""
    by_method = analysis.run.sweep.grid.by_method
    having = {
        cell[1]
        for cell in analysis.cells
        if has_learning_curves(by_method[cell[1]].classifier)
        and analysis.curves(cell, name) is not None
    }
    return [method for method in display_order(analysis) if method in having]


def _without(analysis: Analysis, name: str) -> str:
    """What a caption says of the representations that are not drawn."""
    having, there = len(_having(analysis, name)), len(display_order(analysis))
    lacking = f" {there - having} of {there} have no learning curve." if having < there else ""
    drawn = min(having, MOST_PANELS)
    return lacking + best_only(drawn, having, "the others' curves are in their records")


def _of_fits(analysis: Analysis) -> str:
    grid = analysis.run.sweep.grid
    fits = len(grid.seeds) * max(1, len(grid.folds))
    return f"over {fits} fits" if fits > 1 else "of one fit"


@figure(
    "learning_curves",
    Section.LEARNING_CURVES,
    "Validation accuracy while learning",
    lambda analysis: (
        f"Mean {_of_fits(analysis)}; the band reaches from the lowest to the highest "
        "fit. A line ends where fewer than half of the fits were still training."
        + _without(analysis, "val_acc_history")
    ),
    when=lambda analysis: bool(_having(analysis, "val_acc_history")),
)
def learning_curves(analysis: Analysis) -> Figure:
    return _curves(analysis, "val_acc_history", "validation accuracy (%)", 100)


@figure(
    "training_loss",
    Section.LEARNING_CURVES,
    "Training loss while learning",
    lambda analysis: (
        f"Cross-entropy in nats, mean {_of_fits(analysis)}; bands and ends as above."
        + _without(analysis, "train_loss_history")
    ),
    when=lambda analysis: bool(_having(analysis, "train_loss_history")),
)
def training_loss(analysis: Analysis) -> Figure:
    return _curves(analysis, "train_loss_history", "training loss", 1)


def _curves(analysis: Analysis, name: str, axis_label: str, scale: float) -> Figure:
    methods, look = _having(analysis, name)[:MOST_PANELS], styles(analysis)
    drawing, grid = panels(methods, 1.5)
    for config, representation in analysis.cells:
        curves = analysis.curves((config, representation), name)
        if curves is None or representation not in grid:
            continue
        axes, style = grid[representation], look[config]
        training = (~np.isnan(curves)).sum(axis=0)
        length = int((training * 2 >= len(curves)).sum())
        curves, epochs = scale * curves[:, :length], np.arange(1, length + 1)
        low, high = np.nanmin(curves, axis=0), np.nanmax(curves, axis=0)
        axes.fill_between(epochs, low, high, color=style.colour, alpha=0.2, linewidth=0)
        axes.plot(
            epochs, np.nanmean(curves, axis=0),
            color=style.colour, linestyle=style.dashes, linewidth=1.4,
        )  # fmt: skip
    for axes in grid.values():
        axes.grid()
        axes.set_ylim(bottom=0)
    classifiers = [analysis.run.sweep.grid.by_method[method].classifier for method in methods]
    steps = dict.fromkeys(step_names(classifier)[0] for classifier in classifiers)
    drawing.supxlabel(" or ".join(steps), fontsize=9)
    drawing.supylabel(axis_label, fontsize=9)
    config_legend(drawing, next(iter(grid.values())), analysis.configs, look, lines=True)
    return drawing


def _with_precision(analysis: Analysis, config: str) -> list[CellResult]:
    """A config's cells that have the curve, best first."""
    return [r for r in analysis.ranked(config) if analysis.precision_recall(r.cell) is not None]


def _precision_left_out(analysis: Analysis) -> str:
    most = max(len(_with_precision(analysis, config)) for config in analysis.configs)
    return best_only(min(most, len(LINES)), most, "each config has its own, under its panel")


@figure(
    "precision_recall",
    Section.PRECISION_RECALL,
    "Precision and recall on test",
    lambda analysis: (
        "Micro-averaged over classes, mean over seeds: the highest precision of any "
        "threshold with at least that recall." + _precision_left_out(analysis)
    ),
    when=lambda analysis: any(_with_precision(analysis, c) for c in analysis.configs),
)
def precision_recall(analysis: Analysis) -> Figure:
    found = {c: _with_precision(analysis, c) for c in analysis.configs}
    found = {config: of[: len(LINES)] for config, of in found.items() if of}
    drawn = {r.method for of in found.values() for r in of}
    names = [name for name in display_order(analysis) if name in drawn]
    shared = len(names) <= len(LINES)
    drawing, grid = config_panels(list(found), 3.6, 3 if shared else 2)
    drawing.supylabel("precision (%)", fontsize=9)
    lines = {}
    for config, results in found.items():
        axes = grid[config]
        for place, result in enumerate(results):
            method = result.method
            dash = LINES[names.index(method) if shared else place]
            lines[method] = _precision_line(analysis, axes, result, dash)
        axes.set_xlabel("recall (%)")
        axes.set_ylim(0, 102)
        axes.grid()
        if not shared:
            axes.legend(
                loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=6.5, handlelength=3
            )
    if shared:
        legend(drawing, [lines[n] for n in names], names)
    return drawing


def _precision_line(analysis: Analysis, axes: Axes, result: CellResult, look: tuple) -> object:
    curves = analysis.precision_recall(result.cell)
    assert curves is not None  # only those with one are asked for
    precision, (colour, dash) = curves.mean(axis=0), look
    return axes.plot(
        100 * np.linspace(0, 1, len(precision)), 100 * precision,
        color=colour, linestyle=dash, linewidth=1.4, label=result.method,
    )[0]  # fmt: skip


def _calibrated(analysis: Analysis) -> list[str]:
    """Representations with calibration bins in some config, best first."""
    having = {cell[1] for cell in analysis.cells if analysis.calibration(cell) is not None}
    return [method for method in display_order(analysis) if method in having]


def _calibration_left_out(analysis: Analysis) -> str:
    there = len(_calibrated(analysis))
    return best_only(min(there, MOST_PANELS), there, "the table has the others")


@figure(
    "calibration",
    Section.CALIBRATION,
    "Calibration on test",
    lambda analysis: (
        "Accuracy against confidence in 15 bins, all seeds together; the area of a "
        "mark shows how many predictions it stands for. Below the diagonal is overconfident."
        + _calibration_left_out(analysis)
    ),
    when=lambda analysis: bool(_calibrated(analysis)),
)
def calibration(analysis: Analysis) -> Figure:
    look = styles(analysis)
    drawing, grid = panels(_calibrated(analysis)[:MOST_PANELS], 2.1)
    for config, representation in analysis.cells:
        bins = analysis.calibration((config, representation))
        if bins is None or representation not in grid:
            continue
        confidence, accuracy, count = bins
        axes, style = grid[representation], look[config]
        axes.plot(100 * confidence, 100 * accuracy, color=style.colour, linewidth=0.8)
        axes.scatter(
            100 * confidence, 100 * accuracy, s=120 * count / count.sum() + 2,
            color=style.colour, marker=style.marker, linewidth=0, alpha=0.8,
        )  # fmt: skip
    for axes in grid.values():
        axes.plot([0, 100], [0, 100], color=MUTED, linestyle="--", linewidth=1, zorder=0)
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_aspect("equal")
        axes.grid()
    drawing.supxlabel("confidence (%)", fontsize=9)
    drawing.supylabel("accuracy (%)", fontsize=9)
    config_legend(drawing, next(iter(grid.values())), analysis.configs, look)
    return drawing
