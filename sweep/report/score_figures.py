"""Figures of scores: rankings, drops, gaps, costs and spreads."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from .analysis import REFERENCE, Ablation, Analysis
from .parts import config_legend, display_order, draw_interval, name_rows, offsets, round_log_ticks
from .style import CONFIG_COLOUR, CONFIG_MARKER, GRID, INK, MUTED, SERIES, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ranking(analysis: Analysis) -> Figure:
    names = display_order(analysis)
    figure = new_figure(0.8 + 0.32 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, metric, label in ((left, "accuracy", "accuracy"), (right, "macro_f1", "macro F1")):
        for shift, config in zip(offsets(len(analysis.configs)), analysis.configs):
            for result in analysis.of_config(config):
                estimate = getattr(result, metric)
                draw_interval(axes, names.index(result.representation) + shift, estimate, config)
        axes.set_xlabel(f"test {label} (%)")
        axes.set_xlim(0, 100)
        name_rows(axes, names)
    left.axvline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    left.axvline(100 * analysis.majority, color=MUTED, linestyle=":", linewidth=1, zorder=0)
    config_legend(figure, left, analysis.configs)
    return figure


def ablation(analysis: Analysis, config: str, rows: list[Ablation]) -> Figure:
    names = [
        n for n in display_order(analysis) if any(n == row.first.representation for row in rows)
    ]
    figure = new_figure(0.8 + 0.32 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    for row in rows:
        y = names.index(row.first.representation)
        ends = [100 * row.first.accuracy.value, 100 * row.second.accuracy.value]
        left.plot(ends, [y, y], color=GRID, linewidth=3, zorder=1)
        for result, x in zip((row.first, row.second), ends):
            left.plot(
                [x], [y],
                color=CONFIG_COLOUR[result.config], marker=CONFIG_MARKER[result.config],
                linestyle="none", markersize=6,
            )  # fmt: skip
        colour = CONFIG_COLOUR[config]
        right.plot([100 * row.test.low, 100 * row.test.high], [y, y], color=colour, linewidth=1.6)
        right.plot(
            [100 * row.test.difference], [y],
            marker=CONFIG_MARKER[config], markersize=6, linestyle="none", color=colour,
            fillstyle="full" if row.distinguishable else "none",
        )  # fmt: skip
    left.axvline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    left.set_xlim(0, 100)
    left.set_xlabel("test accuracy (%)")
    right.axvline(0, color=MUTED, linewidth=1)
    right.set_xlabel("drop (percentage points)")
    for axes in (left, right):
        name_rows(axes, names)
    config_legend(figure, left, [REFERENCE, config])
    return figure


def critical_difference(analysis: Analysis) -> Figure:
    """Demšar's diagram, a panel for each config."""
    rankings = {c: r for c, r in analysis.rankings.items() if r is not None}
    most = max(len(ranking.ranks) for ranking in rankings.values())
    figure = new_figure((1.15 + 0.11 * most) * len(rankings))
    for axes, (config, ranking) in zip(
        figure.subplots(len(rankings), 1, squeeze=False)[:, 0], rankings.items()
    ):
        names = [result.representation for result in analysis.of_config(config)]
        order = [int(i) for i in np.argsort(ranking.ranks, kind="stable")]
        count, half = len(order), ceil(len(order) / 2)
        for group, members in enumerate(ranking.groups):
            ends = [ranking.ranks[members[0]] - 0.05, ranking.ranks[members[-1]] + 0.05]
            y = 0.35 + 0.3 * group
            axes.plot(ends, [y, y], color=INK, linewidth=3, solid_capstyle="butt")
        below = 0.5 + 0.3 * len(ranking.groups)
        for place, index in enumerate(order):
            leftwards = place < half
            rank = ranking.ranks[index]
            y = below + 0.5 * (place if leftwards else count - 1 - place)
            edge = 1 - 0.35 if leftwards else count + 0.35
            axes.plot([rank, rank, edge], [0, y, y], color=MUTED, linewidth=0.8)
            axes.plot([rank], [0], marker="o", markersize=3.5, color=CONFIG_COLOUR[config])
            text = f"{names[index]} ({rank:.1f})" if leftwards else f"({rank:.1f}) {names[index]}"
            axes.text(
                edge, y, text,
                ha="right" if leftwards else "left", va="center", fontsize=8,
            )  # fmt: skip
        axes.plot([1, count], [0, 0], color=INK, linewidth=1)
        for rank in range(1, count + 1):
            axes.text(rank, -0.3, str(rank), ha="center", va="center", fontsize=8)
        axes.plot([1, 1 + ranking.critical_difference], [-0.95, -0.95], color=INK, linewidth=1.2)
        axes.text(
            1 + ranking.critical_difference + 0.1, -0.95,
            f"critical difference {ranking.critical_difference:.2f}", va="center", fontsize=8,
        )  # fmt: skip
        axes.set_xlim(1 - 2.6, count + 2.6)
        axes.set_ylim(below + 0.5 * half, -1.3)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(config, loc="left")
    return figure


def splits(analysis: Analysis) -> Figure:
    names = display_order(analysis)
    figure = new_figure(0.8 + 0.3 * len(names))
    all_axes = figure.subplots(1, len(analysis.configs), sharey=True, squeeze=False)[0]
    for axes, config in zip(all_axes, analysis.configs):
        for result in analysis.of_config(config):
            y = names.index(result.representation)
            values = [result.train_acc, result.val_acc, result.accuracy.value]
            axes.plot(
                [100 * min(values), 100 * max(values)], [y, y], color=GRID, linewidth=3, zorder=1
            )
            for value, (split, colour, marker) in zip(values, _SPLIT_MARKS):
                axes.plot(
                    [100 * value], [y],
                    marker=marker, color=colour, linestyle="none", markersize=6,
                    label=split if y == 0 else None,
                )  # fmt: skip
        axes.axvline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
        axes.set_xlim(0, 103)
        axes.set_xlabel("accuracy (%)")
        axes.set_title(config, loc="left")
        name_rows(axes, names)
    handles = [
        all_axes[0].plot([], [], marker=m, color=c, linestyle="none", markersize=6)[0]
        for _, c, m in _SPLIT_MARKS
    ]
    figure.legend(handles, [s for s, _, _ in _SPLIT_MARKS], loc="outside upper center", ncols=3)
    return figure


_SPLIT_MARKS = (
    ("train", SERIES[5], "^"), ("validation", SERIES[3], "s"), ("test", SERIES[0], "o"),
)  # fmt: skip


def cost(analysis: Analysis) -> Figure:
    names = display_order(analysis)
    figure = new_figure(3.8)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, of in ((left, "features"), (right, "seconds")):
        for result in analysis.pairs.values():
            x, colour = getattr(result, of), CONFIG_COLOUR[result.config]
            axes.plot(
                [x, x], [100 * result.accuracy.low, 100 * result.accuracy.high],
                color=colour, linewidth=1, alpha=0.6,
            )  # fmt: skip
            axes.plot(
                [x], [100 * result.accuracy.value],
                marker=_MARKERS[names.index(result.representation)], color=colour, markersize=6.5,
            )  # fmt: skip
        axes.axhline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
        axes.set_ylim(0, 103)
        axes.grid()
    left.set_xlabel("features")
    round_log_ticks(left)
    right.set_xlim(left=0)
    right.set_xlabel("training time of a trial (s)")
    left.set_ylabel("test accuracy (%)")
    shapes = [
        left.plot([], [], marker=_MARKERS[i], color=MUTED, linestyle="none", markersize=6)[0]
        for i in range(len(names))
    ]
    colours = [
        left.plot([], [], color=CONFIG_COLOUR[config], linewidth=4)[0]
        for config in analysis.configs
    ]
    figure.legend(
        [*shapes, *colours], [*names, *analysis.configs], loc="outside upper center", ncols=6
    )
    return figure


_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")


def retained(analysis: Analysis) -> Figure:
    kept = {
        config: {r.first.representation: r.retained for r in rows if r.retained}
        for config, rows in analysis.ablations.items()
    }
    names = [n for n in display_order(analysis) if any(n in found for found in kept.values())]
    figure = new_figure(0.9 + 0.32 * len(names))
    axes = figure.subplots()
    for shift, (config, found) in zip(offsets(len(kept)), kept.items()):
        for name, estimate in found.items():
            draw_interval(axes, names.index(name) + shift, estimate, config)
    axes.axvline(0, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    axes.axvline(100, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    axes.set_xlabel("share of the accuracy above chance that is kept (%)")
    name_rows(axes, names)
    config_legend(figure, axes, list(kept))
    return figure


def stability(analysis: Analysis) -> Figure:
    names = display_order(analysis)
    figure = new_figure(0.8 + 0.36 * len(names))
    axes = figure.subplots()
    for shift, config in zip(offsets(len(analysis.configs)), analysis.configs):
        for result in analysis.of_config(config):
            y = names.index(result.representation) + shift
            colour = CONFIG_COLOUR[config]
            axes.plot(
                100 * result.test, np.full(len(result.test), y),
                marker=CONFIG_MARKER[config], color=colour, linestyle="none", markersize=3.5,
                alpha=0.6, markeredgewidth=0,
            )  # fmt: skip
            middle = 100 * result.accuracy.value
            axes.plot([middle, middle], [y - 0.13, y + 0.13], color=colour, linewidth=1.8)
    axes.axvline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    axes.set_xlim(0, 102)
    axes.set_xlabel("test accuracy (%)")
    name_rows(axes, names)
    config_legend(figure, axes, analysis.configs)
    return figure
