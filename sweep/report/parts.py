"""What several figures share: orders, rows, intervals, legends and panels."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from .analysis import Analysis, Estimate
from .style import CONFIG_COLOUR, CONFIG_MARKER, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def display_order(analysis: Analysis) -> list[str]:
    """Representations, best first by their best config: the same order in every figure."""
    best: dict[str, float] = {}
    for result in analysis.pairs.values():
        name = result.representation
        best[name] = max(best.get(name, 0.0), result.accuracy.value)
    return sorted(best, key=lambda name: -best[name])


def offsets(count: int) -> np.ndarray:
    """Where `count` marks stand around a row."""
    return (np.arange(count) - (count - 1) / 2) * min(0.28, 0.7 / count)


def name_rows(axes: Axes, names: list[str]) -> None:
    """One row for each name, the first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)


def draw_interval(axes: Axes, y: float, estimate: Estimate, config: str) -> None:
    """A mark with its interval, as percentages."""
    colour = CONFIG_COLOUR[config]
    axes.plot(
        [100 * estimate.low, 100 * estimate.high], [y, y],
        color=colour, linewidth=1.6, solid_capstyle="butt",
    )  # fmt: skip
    axes.plot(
        [100 * estimate.value], [y],
        color=colour, marker=CONFIG_MARKER[config], markersize=5, linestyle="none",
    )  # fmt: skip


def config_legend(figure: Figure, axes: Axes, configs: list[str]) -> None:
    marks = [
        axes.plot(
            [], [], color=CONFIG_COLOUR[c], marker=CONFIG_MARKER[c], linewidth=1.6, markersize=5
        )[0]
        for c in configs
    ]
    figure.legend(marks, configs, loc="outside upper center", ncols=len(configs))


def panels(
    analysis: Analysis, height: float, *, sharey: bool = True
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each representation, three in a row."""
    names = display_order(analysis)
    rows = ceil(len(names) / 3)
    figure = new_figure(0.5 + height * rows)
    grid = figure.subplots(rows, min(3, len(names)), sharex=True, sharey=sharey, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    panels = dict(zip(names, grid.flat))
    for name, axes in panels.items():
        axes.set_title(name, loc="left")
    # The last panel of every column has the numbers, also where there is none below it.
    for axes in grid.flat[max(0, len(names) - grid.shape[1]) : len(names)]:
        axes.tick_params(axis="x", labelbottom=True)
    return figure, panels


def round_log_ticks(axes: Axes) -> None:
    """Label 1, 2 and 5 times the powers of ten on a logarithmic x axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
