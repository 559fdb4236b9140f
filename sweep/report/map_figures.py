"""The figure of the adapters in the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lorasweep.sweep.store.adapter_map import AdapterMap

from .analysis import Analysis
from .figures import figure
from .parts import legend, panels
from .sections import Section
from .style import GRID, INK, MARKERS, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 3000
_MOST_CLASSES = 24


def _caption(analysis: Analysis) -> str:
    maps = analysis.run.maps
    seed = min(found.seed for found in maps.values())
    drawn = min(len(analysis.run.labels), _MOST_POINTS)
    text = (
        "Every mark is an adapter, at its first two principal components of ΔW, which are fitted "
        "on the training split alone; test adapters have a dark edge. What lies together here is "
        "alike in the few directions in which adapters differ most: classes that do not part may "
        "still part in others. The two in a hundred that lie farthest out along an axis are drawn "
        "at its end."
    )
    if analysis.run.split.per_seed or analysis.run.split.folds:
        text += f" The split is that of seed {seed}{_fold(maps)}."
    if drawn < len(analysis.run.labels):
        text += f" {drawn} of {len(analysis.run.labels)} adapters are drawn, chosen at random."
    if analysis.run.n_classes > _MOST_CLASSES:
        text += f" The {_MOST_CLASSES} commonest classes are coloured."
    return text


def _fold(maps: dict[str, AdapterMap]) -> str:
    fold = next(iter(maps.values())).fold
    return f", fold {fold}" if fold else ""


@figure(
    "map",
    Section.MAP,
    "The adapters by the first two principal components of ΔW",
    _caption,
    when=lambda analysis: bool(analysis.run.maps),
)
def adapter_map(analysis: Analysis) -> Figure:
    run = analysis.run
    names = [str(name) for name in run.sweep.frozen["classes"]]
    counts = np.bincount(run.labels, minlength=len(names))
    common = sorted(np.argsort(-counts, kind="stable")[:_MOST_CLASSES].tolist())
    shown = np.sort(np.random.default_rng(0).permutation(len(run.labels))[:_MOST_POINTS])
    drawing, found = panels(list(run.maps), 2.6, shared=False)
    for config, axes in found.items():
        place = run.maps[config]
        x, y = (_drawn_in(np.array(values)[shown]) for values in (place.x, place.y))
        tested = np.isin(shown, run.parts_of(place.seed, place.fold)["test"])
        labels = run.labels[shown]
        _draw(axes, x, y, ~np.isin(labels, common), tested, GRID, "o")
        for order, index in enumerate(common):
            colour, marker = SERIES[order % len(SERIES)], MARKERS[order // len(SERIES)]
            _draw(axes, x, y, labels == index, tested, colour, marker)
        axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)
        axes.set_xlabel("first component")
        axes.set_ylabel("second component")
    handles = [
        next(iter(found.values())).plot(
            [], [], linestyle="none", markersize=5,
            color=SERIES[order % len(SERIES)], marker=MARKERS[order // len(SERIES)],
        )[0]
        for order in range(len(common))
    ]  # fmt: skip
    legend(drawing, handles, [names[index] for index in common])
    return drawing


def _drawn_in(values: np.ndarray) -> np.ndarray:
    """Coordinates of which the outermost are moved in, so that a few do not crowd all others."""
    return values.clip(*np.percentile(values, [1, 99]))


def _draw(
    axes: Axes, x: np.ndarray, y: np.ndarray, of: np.ndarray, tested: np.ndarray, colour: str,
    marker: str,
) -> None:  # fmt: skip
    """The adapters of a class, those of the test split with an edge."""
    for chosen, edge in ((of & ~tested, "none"), (of & tested, INK)):
        axes.scatter(
            x[chosen], y[chosen], s=14, color=colour, marker=marker, alpha=0.8, linewidths=0.7,
            edgecolors=edge, rasterized=True,
        )  # fmt: skip
