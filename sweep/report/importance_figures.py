"""Figures of importance: layers in the order of the network, and kinds of values."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from lorasweep.features.layers.names import network_order, parse_layer

from .analysis import Analysis
from .figures import config_figure
from .importance import Axis, Spread, permuted, short_layers
from .parts import MOST_PANELS, best_only, display_order, panel_title, styles
from .sections import Section
from .style import GRID, INK, MUTED, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NAMED = 150
"""Of more layers, every nth is named."""
_MOST_KINDS = 8
"""Bars of a panel."""
_ROW = 0.115
"""Inches of a layer's row."""


def _methods(analysis: Analysis, config: str, axis: Axis) -> list[str]:
    """The best methods with numbers, in the order of every figure."""
    best = display_order(analysis)[:MOST_PANELS]
    return [
        method
        for method in best
        if (config, method) in analysis.cells and permuted(analysis, (config, method), axis)
    ]


def _having(axis: Axis) -> Callable[[Analysis], list[str]]:
    """The configs that have something to draw."""
    return lambda analysis: [c for c in analysis.configs if _methods(analysis, c, axis)]


def _left_out(analysis: Analysis) -> str:
    there = len(display_order(analysis))
    return best_only(min(there, MOST_PANELS), there, "the records have the others")


@config_figure(
    "importance_layers_{config}",
    Section.IMPORTANCE,
    "Importance of layers, {config}",
    lambda analysis: (
        "Rise in log loss on validation when all values of a layer are permuted, mean over seeds, "
        "as a share of the representation's largest; a rise below 0 is drawn as 0. Layers stand as "
        "data flows through the network, with lines between its blocks. The table has the numbers."
        + _left_out(analysis)
    ),
    configs=_having("layers"),
)
def layer_importance(analysis: Analysis, config: str) -> Figure:
    methods = _methods(analysis, config, "layers")
    columns = [dict(permuted(analysis, (config, method), "layers")) for method in methods]
    layers = sorted({name for column in columns for name in column}, key=network_order)
    table = np.full((len(layers), len(methods)), np.nan)
    for j, column in enumerate(columns):
        rises = [column[name].mean if name in column else np.nan for name in layers]
        table[:, j] = np.clip(rises, 0, None)
    largest = np.nanmax(table, axis=0)
    shares = 100 * table / np.where(largest > 0, largest, 1)

    names_height = 0.055 * max(map(len, methods))
    drawing = new_figure(0.5 + names_height + max(1.0, _ROW * len(layers)))
    axes = drawing.subplots()
    image = axes.imshow(
        shares, cmap="Blues", vmin=0, vmax=100, aspect="auto", interpolation="nearest"
    )
    step = ceil(len(layers) / _MOST_NAMED)
    places = range(0, len(layers), step)
    axes.set_yticks(places, short_layers(layers)[::step], fontsize=5.5)
    axes.set_xticks(range(len(methods)), methods, rotation=45, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    _divide(axes, layers)
    drawing.colorbar(image, ax=axes, shrink=0.4, pad=0.02, label="share of the largest (%)")
    return drawing


def _divide(axes: Axes, layers: list[str]) -> None:
    """Lines between blocks."""
    blocks = [(of.component, of.block) for of in map(parse_layer, layers)]
    for row in range(1, len(blocks)):
        if blocks[row] != blocks[row - 1]:
            axes.axhline(row - 0.5, color=MUTED, linewidth=0.6)


@config_figure(
    "importance_kinds_{config}",
    Section.IMPORTANCE,
    "Importance of kinds of values, {config}",
    lambda analysis: (
        "Rise in log loss on validation (nats) when all values of a kind are permuted, in all "
        "layers together: mean over seeds, with the standard deviation where there are several. "
        f"Every panel has an axis of its own and at most the {_MOST_KINDS} largest; the table has "
        "the others." + _left_out(analysis)
    ),
    configs=_having("kinds"),
)
def kind_importance(analysis: Analysis, config: str) -> Figure:
    methods = _methods(analysis, config, "kinds")
    bars = {method: _largest(analysis, config, method) for method in methods}
    across = min(3, len(methods))
    down = ceil(len(methods) / across)
    drawing = new_figure(0.3 + down * (0.5 + 0.16 * max(map(len, bars.values()))))
    grid = drawing.subplots(down, across, squeeze=False)
    for axes in grid.flat[len(methods) :]:
        axes.set_visible(False)
    colour = styles(analysis)[config].colour
    for axes, (method, kinds) in zip(grid.flat, bars.items()):
        panel_title(axes, method)
        means = [spread.mean for _, spread in kinds]
        whiskers = [spread.std or 0.0 for _, spread in kinds]
        axes.barh(
            range(len(kinds)), means, xerr=whiskers, height=0.7, color=colour,
            error_kw={"ecolor": INK, "elinewidth": 0.8},
        )  # fmt: skip
        axes.axvline(0, color=GRID, linewidth=0.8)
        axes.set_yticks(range(len(kinds)), [name for name, _ in kinds], fontsize=6.5)
        axes.set_ylim(max(map(len, bars.values())) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", labelsize=6.5)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="x")
    drawing.supxlabel("rise in log loss (nats)", fontsize=8.5)
    return drawing


def _largest(analysis: Analysis, config: str, method: str) -> list[tuple[str, Spread]]:
    found = permuted(analysis, (config, method), "kinds")
    return sorted(found, key=lambda item: -item[1].mean)[:_MOST_KINDS]
