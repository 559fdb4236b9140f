"""Figures of curves: learning, precision and recall, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .analysis import Analysis
from .parts import config_legend, display_order, panels
from .style import CONFIG_COLOUR, CONFIG_MARKER, LINES, MUTED, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(analysis: Analysis, name: str, label: str, scale: float) -> Figure:
    figure, grid = panels(analysis, 1.5)
    for (config, representation), _ in analysis.pairs.items():
        curves = scale * analysis.curves((config, representation), name)
        axes = grid[representation]
        training = (~np.isnan(curves)).sum(axis=0)
        length = int((training * 2 >= len(curves)).sum())
        curves, epochs = curves[:, :length], np.arange(1, length + 1)
        low, high = np.nanmin(curves, axis=0), np.nanmax(curves, axis=0)
        colour = CONFIG_COLOUR[config]
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(epochs, np.nanmean(curves, axis=0), color=colour, linewidth=1.4)
    for axes in grid.values():
        axes.grid()
        axes.set_ylim(bottom=0)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(label, fontsize=9)
    config_legend(figure, next(iter(grid.values())), analysis.configs)
    return figure


def precision_recall(analysis: Analysis) -> Figure:
    names = display_order(analysis)
    figure = new_figure(3.6)
    all_axes = figure.subplots(1, len(analysis.configs), sharey=True, squeeze=False)[0]
    lines = {}
    for axes, config in zip(all_axes, analysis.configs):
        for result in analysis.of_config(config):
            precision = analysis.precision_recall((config, result.representation)).mean(axis=0)
            recall = np.linspace(0, 1, len(precision))
            colour, dash = LINES[names.index(result.representation) % len(LINES)]
            (lines[result.representation],) = axes.plot(
                100 * recall, 100 * precision, color=colour, linestyle=dash, linewidth=1.4
            )
        axes.set_xlabel("recall (%)")
        axes.set_title(config, loc="left")
        axes.set_ylim(0, 102)
        axes.grid()
    all_axes[0].set_ylabel("precision (%)")
    figure.legend(
        [lines[n] for n in names], names, loc="outside upper center", ncols=min(5, len(names))
    )
    return figure


def calibration(analysis: Analysis) -> Figure:
    figure, grid = panels(analysis, 2.1)
    for (config, representation), _ in analysis.pairs.items():
        confidence, accuracy, count = analysis.calibration((config, representation))
        axes = grid[representation]
        colour = CONFIG_COLOUR[config]
        axes.plot(100 * confidence, 100 * accuracy, color=colour, linewidth=0.8)
        axes.scatter(
            100 * confidence, 100 * accuracy, s=120 * count / count.sum() + 2,
            color=colour, marker=CONFIG_MARKER[config], linewidth=0, alpha=0.8,
        )  # fmt: skip
    for axes in grid.values():
        axes.plot([0, 100], [0, 100], color=MUTED, linestyle="--", linewidth=1, zorder=0)
        axes.set_xlim(0, 102)
        axes.set_ylim(0, 102)
        axes.set_aspect("equal")
        axes.grid()
    figure.supxlabel("confidence (%)", fontsize=9)
    figure.supylabel("accuracy (%)", fontsize=9)
    config_legend(figure, next(iter(grid.values())), analysis.configs)
    return figure
