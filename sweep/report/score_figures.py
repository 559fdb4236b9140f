"""Figures of scores: rankings, drops, gaps, costs and spreads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .analysis import REFERENCE, Analysis
from .contrasts import CONTRASTS
from .figures import config_figure, figure
from .parts import (
    config_legend,
    config_panels,
    display_order,
    draw_difference,
    draw_interval,
    legend,
    name_rows,
    offsets,
    round_log_ticks,
    row_figure,
    styles,
)
from .sections import Section
from .style import GRID, MARKERS, MUTED, SERIES, new_figure
from .tables import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _bars(analysis: Analysis) -> str:
    return f"Bars are 95 % intervals that resample {analysis.resampled}"


@figure(
    "ranking",
    Section.RANKING,
    "Test accuracy and macro F1",
    lambda analysis: (
        f"{_bars(analysis)}. The dashed line is guessing ({percent(analysis.chance)} "
        "%), the dotted one always answering the commonest class "
        f"({percent(analysis.majority)} % accuracy)."
    ),
)
def ranking(analysis: Analysis) -> Figure:
    names, look = display_order(analysis), styles(analysis)
    drawing = row_figure(len(names), 0.32, len(analysis.configs))
    left, right = drawing.subplots(1, 2, sharey=True)
    for axes, metric, label in ((left, "accuracy", "accuracy"), (right, "macro_f1", "macro F1")):
        for shift, config in zip(offsets(len(analysis.configs)), analysis.configs):
            for result in analysis.of_config(config):
                y = names.index(result.method) + shift
                draw_interval(axes, y, getattr(result, metric), look[config])
        axes.set_xlabel(f"test {label} (%)")
        axes.set_xlim(0, 100)
        name_rows(axes, names)
    left.axvline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    left.axvline(100 * analysis.majority, color=MUTED, linestyle=":", linewidth=1, zorder=0)
    config_legend(drawing, left, analysis.configs, look)
    return drawing


@config_figure(
    "ablation_{config}",
    Section.ABLATION,
    f"From {REFERENCE} to {{config}}",
    lambda analysis: (
        "Left: test accuracy with all layers and with {config}. Right: the drop. "
        f"{_bars(analysis)}; filled where the drop is distinguishable from none after Holm's "
        "correction."
    ),
    configs=lambda analysis: analysis.ablations,
)
def ablation(analysis: Analysis, config: str) -> Figure:
    rows = {row.first.method: row for row in analysis.ablations[config]}
    names = [name for name in display_order(analysis) if name in rows]
    look = styles(analysis)
    drawing = row_figure(len(names), 0.32)
    left, right = drawing.subplots(1, 2, sharey=True)
    for y, row in enumerate(rows[name] for name in names):
        ends = [100 * row.first.accuracy.value, 100 * row.second.accuracy.value]
        left.plot(ends, [y, y], color=GRID, linewidth=3, zorder=1)
        for result, x in zip((row.first, row.second), ends):
            style = look[result.config]
            left.plot(
                [x], [y],
                color=style.colour, marker=style.marker, linestyle="none", markersize=6,
            )  # fmt: skip
        draw_difference(right, y, row, look[config])
    left.axvline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    left.set_xlim(0, 100)
    left.set_xlabel("test accuracy (%)")
    right.axvline(0, color=MUTED, linewidth=1)
    right.set_xlabel("drop (percentage points)")
    for axes in (left, right):
        name_rows(axes, names)
    config_legend(drawing, left, [REFERENCE, config], look)
    return drawing


@figure(
    "contrasts",
    Section.CONTRASTS,
    "One kind of representation or classifier against another",
    lambda analysis: (
        "Difference in test accuracy between the best by validation of either kind: right of 0 "
        f"the first is better. {_bars(analysis)}; filled where the difference is distinguishable "
        "from none after Holm's correction. Which rows they are: the tables."
    ),
    when=lambda analysis: bool(analysis.contrasts),
)
def contrasts(analysis: Analysis) -> Figure:
    found = {
        (config, contrast.question): tested
        for config, rows in analysis.contrasts.items()
        for contrast, tested in rows
    }
    names = [c.question for c in CONTRASTS if any(asked == c.question for _, asked in found)]
    look, configs = styles(analysis), list(analysis.contrasts)
    drawing = row_figure(len(names), 0.42, len(configs))
    axes = drawing.subplots()
    for shift, config in zip(offsets(len(configs)), configs):
        for y, name in enumerate(names):
            if (config, name) in found:
                draw_difference(axes, y + shift, found[config, name], look[config])
    axes.axvline(0, color=MUTED, linewidth=1, zorder=0)
    axes.set_xlabel("difference in test accuracy (percentage points)")
    name_rows(axes, names)
    config_legend(drawing, axes, configs, look)
    return drawing


_SPLIT_MARKS = (
    ("train", SERIES[5], "^"), ("validation", SERIES[3], "s"), ("test", SERIES[0], "o"),
)  # fmt: skip


@figure(
    "splits",
    Section.OVERFITTING,
    "Accuracy on train, validation and test",
    "Mean over seeds. The distance between the train and the test mark is overfitting.",
)
def splits(analysis: Analysis) -> Figure:
    names = display_order(analysis)
    height = row_figure(len(names), 0.3).get_figheight()
    drawing, grid = config_panels(analysis.configs, height, 5, names)
    for config, axes in grid.items():
        for result in analysis.of_config(config):
            y = names.index(result.method)
            values = [result.train_acc, result.val_acc, result.accuracy.value]
            known = [100 * value for value in values if not np.isnan(value)]
            axes.plot([min(known), max(known)], [y, y], color=GRID, linewidth=3, zorder=1)
            for value, (_, colour, marker) in zip(values, _SPLIT_MARKS):
                axes.plot(
                    [100 * value], [y],
                    marker=marker, color=colour, linestyle="none", markersize=6,
                )  # fmt: skip
        axes.axvline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
        axes.set_xlim(0, 103)
        if len(grid) > 3:
            axes.set_xticks([0, 50, 100])
        axes.set_xlabel("accuracy (%)")
        name_rows(axes, names)
    first = next(iter(grid.values()))
    handles = [
        first.plot([], [], marker=m, color=c, linestyle="none", markersize=6)[0]
        for _, c, m in _SPLIT_MARKS
    ]
    legend(drawing, handles, [s for s, _, _ in _SPLIT_MARKS])
    return drawing


def _one_shape(analysis: Analysis) -> str:
    if len(display_order(analysis)) <= len(MARKERS):
        return ""
    return " Colour and shape tell the configs apart; the table names every representation."


@figure(
    "cost",
    Section.COST,
    "Accuracy against feature width and training time",
    lambda analysis: (
        f"{_bars(analysis)}. Times are means of a trial's training on the machine of "
        "this run." + _one_shape(analysis)
    ),
)
def cost(analysis: Analysis) -> Figure:
    names, look = display_order(analysis), styles(analysis)
    shapes = dict(zip(names, MARKERS)) if len(names) <= len(MARKERS) else {}
    drawing = new_figure(3.8)
    left, right = drawing.subplots(1, 2, sharey=True)
    for axes, of in ((left, "features"), (right, "seconds")):
        for result in analysis.cells.values():
            x, style = getattr(result, of), look[result.config]
            axes.plot(
                [x, x], [100 * result.accuracy.low, 100 * result.accuracy.high],
                color=style.colour, linewidth=1, alpha=0.6 if shapes else 0.2,
            )  # fmt: skip
            axes.plot(
                [x], [100 * result.accuracy.value],
                marker=shapes.get(result.method, style.marker), color=style.colour,
                markersize=6.5 if shapes else 4, linestyle="none",
            )  # fmt: skip
        axes.axhline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
        axes.set_ylim(0, 103)
        axes.grid()
    left.set_xlabel("features")
    round_log_ticks(left)
    right.set_xlim(left=0)
    right.set_xlabel("training time of a trial (s)")
    left.set_ylabel("test accuracy (%)")
    if shapes:
        _shape_legend(drawing, left, analysis, shapes)
    else:
        config_legend(drawing, left, analysis.configs, look)
    return drawing


def _shape_legend(drawing: Figure, axes: Axes, analysis: Analysis, shapes: dict[str, str]) -> None:
    """Shapes are representations, colours are configs."""
    look = styles(analysis)
    marks = [
        axes.plot([], [], marker=marker, color=MUTED, linestyle="none", markersize=6)[0]
        for marker in shapes.values()
    ]
    colours = [
        axes.plot([], [], color=look[config].colour, linewidth=4)[0] for config in analysis.configs
    ]
    legend(drawing, [*marks, *colours], [*shapes, *analysis.configs])


@figure(
    "retained",
    Section.RETAINED,
    "Information retained",
    lambda analysis: (
        f"Share of the accuracy above chance that is kept. {_bars(analysis)}. "
        "Representations that are not above chance with all layers are left out."
    ),
    when=lambda analysis: any(r.retained for rows in analysis.ablations.values() for r in rows),
)
def retained(analysis: Analysis) -> Figure:
    kept = {
        config: {r.first.method: r.retained for r in rows if r.retained}
        for config, rows in analysis.ablations.items()
    }
    names = [n for n in display_order(analysis) if any(n in found for found in kept.values())]
    look = styles(analysis)
    drawing = row_figure(len(names), 0.32, len(kept), extra=0.9)
    axes = drawing.subplots()
    for shift, (config, found) in zip(offsets(len(kept)), kept.items()):
        for name, estimate in found.items():
            draw_interval(axes, names.index(name) + shift, estimate, look[config])
    axes.axvline(0, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    axes.axvline(100, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    axes.set_xlabel("share of the accuracy above chance that is kept (%)")
    name_rows(axes, names)
    config_legend(drawing, axes, list(kept), look)
    return drawing


@figure(
    "stability",
    Section.STABILITY,
    "Test accuracy of every seed",
    "A mark is a seed, the line their mean.",
    when=lambda analysis: len(analysis.run.sweep.grid.seeds) > 1,
)
def stability(analysis: Analysis) -> Figure:
    names, look = display_order(analysis), styles(analysis)
    drawing = row_figure(len(names), 0.36, len(analysis.configs))
    axes = drawing.subplots()
    reach = min(0.13, 0.35 / len(analysis.configs))
    for shift, config in zip(offsets(len(analysis.configs)), analysis.configs):
        style = look[config]
        for result in analysis.of_config(config):
            y = names.index(result.method) + shift
            axes.plot(
                100 * result.test, np.full(len(result.test), y),
                marker=style.marker, color=style.colour, linestyle="none", markersize=3.5,
                alpha=0.6, markeredgewidth=0,
            )  # fmt: skip
            middle = 100 * result.accuracy.value
            axes.plot([middle, middle], [y - reach, y + reach], color=style.colour, linewidth=1.8)
    axes.axvline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    axes.set_xlim(0, 102)
    axes.set_xlabel("test accuracy (%)")
    name_rows(axes, names)
    config_legend(drawing, axes, analysis.configs, look)
    return drawing
