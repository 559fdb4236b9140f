"""The figure of ranks: Demšar's critical difference diagram, or rows where labels are many."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from .analysis import Analysis
from .figures import figure
from .parts import config_panels, display_order, name_rows, row_figure, styles
from .sections import Section
from .statistics import Ranking
from .style import INK, MUTED, WIDTH, Style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_IN_DIAGRAM = 12
"""With more representations, ranks are drawn in rows."""


def _rankings(analysis: Analysis) -> dict[str, Ranking]:
    return {c: ranking for c, ranking in analysis.rankings.items() if ranking is not None}


def _in_rows(analysis: Analysis) -> bool:
    return max(len(r.ranks) for r in _rankings(analysis).values()) > _MOST_IN_DIAGRAM


def _caption(analysis: Analysis) -> str:
    bars = (
        "Representations whose bars overlap"
        if _in_rows(analysis)
        else "Representations under one bar"
    )
    return (
        f"1 is best. {bars} are less than the critical difference "
        "(Nemenyi, α = 0.05) apart: not distinguishable. Blocks are seeds of "
        + ("a split each." if analysis.run.split.per_seed else "one test split.")
    )


@figure(
    "critical_difference",
    Section.CRITICAL_DIFFERENCE,
    "Average rank over seeds",
    _caption,
    when=lambda analysis: bool(_rankings(analysis)),
)
def critical_difference(analysis: Analysis) -> Figure:
    rankings, look = _rankings(analysis), styles(analysis)
    if _in_rows(analysis):
        return _rows(analysis, rankings)
    most = max(len(ranking.ranks) for ranking in rankings.values())
    drawing = new_figure((1.15 + 0.11 * most) * len(rankings))
    grid = drawing.subplots(len(rankings), 1, squeeze=False)[:, 0]
    for axes, (config, ranking) in zip(grid, rankings.items()):
        names = [result.method for result in analysis.of_config(config)]
        _diagram(axes, names, ranking, look[config])
        axes.set_title(config, loc="left")
    return drawing


def _diagram(axes: Axes, names: list[str], ranking: Ranking, style: Style) -> None:
    """Demšar's diagram."""
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
        axes.plot([rank], [0], marker="o", markersize=3.5, color=style.colour)
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
    margin = _margin(count, max(map(len, names)))
    axes.set_xlim(1 - margin, count + margin)
    axes.set_ylim(below + 0.5 * half, -1.3)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])


def _margin(count: int, longest: int) -> float:
    """Ranks beside the axis of `count` ranks that the longest name takes."""
    share = min(0.42, (0.065 * longest + 0.35) / WIDTH)
    return max(2.6, 0.35 + share * (count - 1) / (1 - 2 * share))


def _rows(analysis: Analysis, rankings: dict[str, Ranking]) -> Figure:
    """A row for each representation, a panel for each config; bars as long as the difference."""
    names, look = display_order(analysis), styles(analysis)
    height = row_figure(len(names), 0.3).get_figheight()
    drawing, grid = config_panels(list(rankings), height, 5, names)
    for config, axes in grid.items():
        ranking, style = rankings[config], look[config]
        half = ranking.critical_difference / 2
        for rank, result in zip(ranking.ranks, analysis.of_config(config)):
            y = names.index(result.method)
            axes.plot([rank - half, rank + half], [y, y], color=style.colour, linewidth=1.4)
            axes.plot([rank], [y], color=style.colour, marker=style.marker, markersize=4)
        axes.set_xlabel("average rank")
        name_rows(axes, names)
    return drawing
