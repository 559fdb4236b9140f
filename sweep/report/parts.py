"""What several figures share: orders, rows, intervals, legends, panels, and how much is drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from .analysis import Analysis
from .cells import Estimate, Tested
from .style import WIDTH, Style, new_figure, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 24
"""Figures with a panel for each label have no more of them, and say so."""
_FAR = 30
"""With more rows, the numbers of the x axis stand above them, too."""
_LONGEST_TITLE = 22
"""Characters of a label that fit above a third of the width; longer ones are set smaller."""


def display_order(analysis: Analysis) -> list[str]:
    """Return methods, the best by validation in any config first: every figure has this order."""
    ordered = sorted(analysis.cells.values(), key=lambda result: result.standing.order)
    return list(dict.fromkeys(result.method for result in ordered))


def styles(analysis: Analysis) -> dict[str, Style]:
    """Config -> its style, the same in every figure of a report."""
    return style_of(analysis.run.sweep.grid.ordinary_configs)


def best_only(drawn: int, there: int, others: str) -> str:
    """What a caption says where only the best `drawn` of `there` representations are drawn.

    Arguments:
        others: where the others are.
    """
    return f" Of {there} representations, the best {drawn} are drawn; {others}." if (
        drawn < there
    ) else ""  # fmt: skip


# Rows


def row_figure(rows: int, height: float, marks: int = 1, extra: float = 0.8) -> Figure:
    """A figure of rows that stand closer where there are many of them.

    Arguments:
        height: of a row, in inches, where there are few.
        marks: in a row, one above the other.
        extra: inches for axes and legend.
    """
    enough = height if rows <= 20 else 0.2
    return new_figure(extra + rows * max(enough, 0.08 * marks))


def offsets(count: int) -> np.ndarray:
    """Where `count` marks stand around a row."""
    return (np.arange(count) - (count - 1) / 2) * min(0.28, 0.7 / count)


def name_rows(axes: Axes, names: list[str]) -> None:
    """One row for each name, the first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    if len(names) > _FAR:
        axes.tick_params(axis="x", top=True, labeltop=True)


def draw_interval(axes: Axes, y: float, estimate: Estimate, style: Style) -> None:
    """A mark with its interval, as percentages."""
    axes.plot(
        [100 * estimate.low, 100 * estimate.high], [y, y],
        color=style.colour, linewidth=1.6, solid_capstyle="butt",
    )  # fmt: skip
    axes.plot(
        [100 * estimate.value], [y],
        color=style.colour, marker=style.marker, markersize=5, linestyle="none",
    )  # fmt: skip


def draw_difference(axes: Axes, y: float, row: Tested, style: Style) -> None:
    """A mark with its interval, in percentage points; filled if it is distinguishable from none."""
    axes.plot([100 * row.test.low, 100 * row.test.high], [y, y], color=style.colour, linewidth=1.6)
    axes.plot(
        [100 * row.test.difference], [y],
        marker=style.marker, markersize=6, linestyle="none", color=style.colour,
        fillstyle="full" if row.distinguishable else "none",
    )  # fmt: skip


# Legends


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend above all axes, in as many columns as fit the width."""
    column = 0.45 + 0.065 * max(map(len, labels))
    columns = max(1, min(len(labels), int((WIDTH - 0.2) / column)))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def config_legend(
    figure: Figure, axes: Axes, configs: Sequence[str], styles: dict[str, Style], *,
    lines: bool = False,
) -> None:  # fmt: skip
    """The configs' colours and marks; of `lines`, the dashes instead of marks."""
    marks = [
        axes.plot(
            [], [], color=styles[c].colour, linewidth=1.6, markersize=5,
            **({"linestyle": styles[c].dashes} if lines else {"marker": styles[c].marker}),
        )[0]
        for c in configs
    ]  # fmt: skip
    legend(figure, marks, configs)


# Panels


def panels(
    names: Sequence[str], height: float, shared: bool = True
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each name, three in a row.

    Arguments:
        height: of a row of panels, in inches.
        shared: whether they have common axes.
    """
    rows, columns = ceil(len(names) / 3), min(3, len(names))
    figure = new_figure(0.5 + height * rows)
    grid = figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    found = dict(zip(names, grid.flat))
    for name, axes in found.items():
        panel_title(axes, name)
    # The last panel of every column has the numbers, also where there is none below it.
    for axes in grid.flat[max(0, len(names) - columns) : len(names)]:
        axes.tick_params(axis="x", labelbottom=True)
    return figure, found


def panel_title(axes: Axes, name: str) -> None:
    """A label above a panel of a third of the width."""
    size = min(9, max(5, 9 * _LONGEST_TITLE / len(name)))
    axes.set_title(name, loc="left", fontsize=size)


def config_panels(
    configs: Sequence[str], height: float, most: int, beside: Sequence[str] = ()
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each config, at most `most` in a row.

    Arguments:
        height: of a row of panels, in inches.
        beside: names to the left of them all.
    """
    columns = min(most, len(configs))
    rows = ceil(len(configs) / columns)
    figure = new_figure(height * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(configs) :]:
        axes.set_visible(False)
    found = dict(zip(configs, grid.flat))
    room = (WIDTH - 0.065 * max(map(len, beside), default=4)) / columns - 0.1
    for config, axes in found.items():
        axes.set_title(_wrapped(config, int(room / 0.075)), loc="left")
    return figure, found


def _wrapped(name: str, characters: int) -> str:
    """A name in lines of at most so many characters, broken after underscores where there are."""
    lines = [""]
    for part in re.findall(r"[^_]*_|[^_]+$", name):
        if lines[-1] and len(lines[-1]) + len(part) > characters:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def round_log_ticks(axes: Axes) -> None:
    """Label 1, 2 and 5 times the powers of ten on a logarithmic x axis."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
