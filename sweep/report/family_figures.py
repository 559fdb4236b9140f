"""Figures of families of configs: where along the network what a method reads is found."""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from lorasweep.features.layers.families import WITHOUT_TOP, noun_of, without_count

from .analysis import REFERENCE, Analysis
from .family_results import FamilyResults
from .figures import family_figure
from .parts import (
    best_only,
    draw_interval,
    legend,
    name_rows,
    offsets,
    row_figure,
)
from .style import INK, LINES, MARKERS, MUTED, SERIES, Style, new_figure
from .tables import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_MOST_ROWS = 40
"""Larger families have no figure of intervals, which their table has."""
_MOST_MAPS = 8
_MOST_MARKS = len(SERIES)
_MOST_NUMBERS = 24
"""Maps with more columns have dots where smaller ones have numbers."""
_MOST_NAMES = 48
"""Names of places that fit below a map."""


def _is_plane(found: FamilyResults) -> bool:
    """Whether members have places and roles, so that a map tells more than rows do."""
    return len(found.places) > 1 and len(found.roles) > 1


def _mapped(found: FamilyResults) -> bool:
    return found.family != WITHOUT_TOP and (_is_plane(found) or len(found.members) > _MOST_ROWS)


def _maps_caption(analysis: Analysis, found: FamilyResults) -> str:
    noun = noun_of(found.family)
    marked = "bold" if len(found.places) <= _MOST_NUMBERS else "with a dot"
    rows = "rows are what it is there" if _is_plane(found) else "rows are representations"
    drawn = min(len(found.results), _most_maps(found))
    return (
        f"Mean test accuracy (%) of a classifier that sees one {noun} and no other; columns follow "
        f"the network, {rows}. Those above chance are {marked}; the line in the colour bar is "
        f"chance ({percent(analysis.chance)} %). The table has the 95 % intervals."
        + best_only(drawn, len(found.results), "the table has the others")
    )


def _most_maps(found: FamilyResults) -> int:
    return _MOST_MAPS if _is_plane(found) else 24


@family_figure(
    "{family}_map",
    "Test accuracy along the network, {family}",
    _maps_caption,
    families=_mapped,
)
def family_map(analysis: Analysis, found: FamilyResults) -> Figure:
    methods = list(found.results)[: _most_maps(found)]
    plane = _is_plane(found)
    rows = found.roles if plane else methods
    tables = {method: _cells(analysis, found, [method]) for method in methods} if plane else {}
    if not plane:
        tables = {"": _cells(analysis, found, methods)}
    highest = max(np.nanmax(values) for values, _ in tables.values())
    # Every panel has its rows and title; the names of places stand below the last.
    names = 0.055 * max(map(len, found.places))
    drawing = new_figure(names + (0.21 * len(rows) + 0.3) * len(tables) + 0.25)
    grid = drawing.subplots(len(tables), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (method, (values, above)) in zip(grid, tables.items()):
        image = _draw_map(axes, values, above, highest)
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
        axes.set_title(method, loc="left")
        for edge in _edges(found):
            axes.axvline(edge, color="#ffffff", linewidth=1.5)
    _name_places(grid[-1], found.places)
    bar = drawing.colorbar(image, ax=list(grid), aspect=15 * len(grid), pad=0.015, fraction=0.03)
    bar.set_label("test accuracy (%)")
    bar.outline.set_visible(False)
    bar.ax.axhline(100 * analysis.chance, color=INK, linewidth=1.2)
    return drawing


def _edges(found: FamilyResults) -> list[float]:
    """Where along the columns of a map one block ends and the next begins."""
    blocks = {member.place: member.parts and member.parts.block for member in found.members}
    of = [blocks[place] for place in found.places]
    return [i + 0.5 for i, (one, other) in enumerate(pairwise(of)) if one != other]


def _cells(
    analysis: Analysis, found: FamilyResults, methods: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """(rows, places) test accuracy in percent, NaN where there is no member, and whether it is
    above chance; a row for each role of one method, or for each method."""
    plane = _is_plane(found)
    row_names = found.roles if plane else methods
    values = np.full((len(row_names), len(found.places)), np.nan)
    above = np.zeros(values.shape, dtype=bool)
    column = {place: i for i, place in enumerate(found.places)}
    row = {name: i for i, name in enumerate(row_names)}
    for method in methods:
        for member in found.members:
            result = found.results[method].get(member.config)
            if result is not None:
                at = row[member.role if plane else method], column[member.place]
                values[at] = 100 * result.accuracy.value
                above[at] = bool(analysis.above_chance(result))
    return values, above


def _draw_map(axes: Axes, values: np.ndarray, above: np.ndarray, highest: float) -> AxesImage:
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=highest, aspect="auto")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    numbers = values.shape[1] <= _MOST_NUMBERS
    for (i, j), value in np.ndenumerate(values):
        if np.isnan(value) or not (numbers or above[i, j]):
            continue
        axes.text(
            j, i, f"{value:.0f}" if numbers else "•",
            ha="center", va="center", fontsize=6,
            color="#ffffff" if value > 0.6 * highest else "#000000",
            fontweight="bold" if above[i, j] else "normal",
        )  # fmt: skip
    return image


def _name_places(axes: Axes, places: list[str]) -> None:
    """Names below columns; of many, every so many."""
    step = ceil(len(places) / _MOST_NAMES)
    axes.set_xticks(
        range(0, len(places), step), places[::step],
        rotation=60, ha="right", rotation_mode="anchor", fontsize=6.5,
    )  # fmt: skip


def _looks(analysis: Analysis, methods: list[str]) -> list[Style]:
    """How methods are drawn: the same in every figure where the grid has no more than can be told
    apart."""
    grid = list(analysis.run.sweep.grid.by_method)
    places = [(grid if len(grid) <= _MOST_MARKS else methods).index(method) for method in methods]
    return [Style(LINES[i][0], MARKERS[i], LINES[i][1]) for i in places]


def _rows_caption(analysis: Analysis, found: FamilyResults) -> str:
    noun = noun_of(found.family)
    return (
        f"Test accuracy of a classifier that sees one {noun} and no other, in the order of the "
        f"network. Bars are 95 % intervals that resample {analysis.resampled}; the dashed line is "
        f"guessing ({percent(analysis.chance)} %)."
        + best_only(
            min(len(found.results), _MOST_MARKS), len(found.results), "the table has the others"
        )
    )


@family_figure(
    "{family}_rows",
    "Test accuracy of each alone, {family}",
    _rows_caption,
    families=lambda found: found.family != WITHOUT_TOP and len(found.members) <= _MOST_ROWS,
)
def family_rows(analysis: Analysis, found: FamilyResults) -> Figure:
    methods = list(found.results)[:_MOST_MARKS]
    drawing = row_figure(len(found.members), 0.1 + 0.09 * len(methods), len(methods), extra=0.9)
    axes = drawing.subplots()
    looks = _looks(analysis, methods)
    for shift, method, look in zip(offsets(len(methods)), methods, looks):
        for y, member in enumerate(found.members):
            result = found.results[method].get(member.config)
            if result is not None:
                draw_interval(axes, y + shift, result.accuracy, look)
    axes.axvline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("test accuracy (%)")
    name_rows(axes, [member.short for member in found.members])
    marks = [
        axes.plot([], [], color=look.colour, marker=look.marker, linewidth=1.6, markersize=5)[0]
        for look in looks
    ]
    legend(drawing, marks, methods)
    return drawing


def _without_caption(analysis: Analysis, found: FamilyResults) -> str:
    start = f" At 0 is {REFERENCE}." if REFERENCE in analysis.configs else ""
    return (
        "Test accuracy of classifiers that see all layers but the best K, for each representation "
        "its own best: those with the highest validation accuracy alone."
        f"{start} Bars are 95 % intervals that resample {analysis.resampled}; the dashed line is "
        f"guessing ({percent(analysis.chance)} %)."
        + best_only(
            min(len(found.results), _MOST_MARKS), len(found.results), "the table has the others"
        )
    )


@family_figure(
    WITHOUT_TOP,
    "What remains without the best layers",
    _without_caption,
    families=lambda found: found.family == WITHOUT_TOP,
)
def without_best(analysis: Analysis, found: FamilyResults) -> Figure:
    methods = list(found.results)[:_MOST_MARKS]
    drawing = new_figure(3.4)
    axes = drawing.subplots()
    looks = _looks(analysis, methods)
    counts: set[int] = set()
    marks = []
    for i, method in enumerate(methods):
        results = {without_count(c) or 0: r for c, r in found.results[method].items()}
        whole = analysis.cells.get((REFERENCE, method))
        if whole:
            results[0] = whole
        counts |= results.keys()
        order = sorted(results)
        estimates = [results[count].accuracy for count in order]
        middle = np.array([estimate.value for estimate in estimates])
        reach = [middle - [e.low for e in estimates], [e.high for e in estimates] - middle]
        look = looks[i]
        # Side by side where methods have the same number of layers left out.
        drawn = axes.errorbar(
            _along(np.array(order)) + offsets(len(methods))[i] / 5,
            100 * middle,
            100 * np.array(reach),
            color=look.colour, linestyle=look.dashes, linewidth=1.4,
            marker=look.marker, markersize=5,
        )  # fmt: skip
        marks.append(drawn)
    ticks = sorted(counts)
    axes.set_xticks(_along(np.array(ticks)), [str(count) for count in ticks])
    axes.axhline(100 * analysis.chance, color=MUTED, linestyle="--", linewidth=1, zorder=0)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set_xlabel("layers left out, the best by validation first")
    axes.set_ylabel("test accuracy (%)")
    legend(drawing, marks, methods)
    return drawing


def _along(counts: np.ndarray) -> np.ndarray:
    """Where numbers of layers stand: 1, 2, 4, … are about equally far apart, and there is a 0."""
    return np.log2(1.0 + counts)
