"""What records say of which layers and kinds of values a classifier relies on, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lorasweep.features.layers.names import LayerParts, network_order, parse_layer

from .analysis import Analysis
from .runs import Cell

Axis = Literal["layers", "kinds"]

_SHORT_KINDS = {"self_attention": "self", "cross_attention": "cross", "feed_forward": "ff"}


@dataclass(frozen=True)
class Spread:
    """A mean over seeds and the sample standard deviation; None of one trial."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class Importance:
    """A group of columns that were permuted together.

    Attributes:
        name: the layer, in the dataset's own spelling, or the kind of value.
        log_loss: rise in log loss on validation, in nats; accuracy: drop in accuracy, a share.
        weight: sum of the columns' weights; None if the classifier has none.
    """

    name: str
    log_loss: Spread | None
    accuracy: Spread | None
    weight: Spread | None


@dataclass(frozen=True)
class TopColumn:
    """One column with a large weight.

    Attributes:
        column: layer tensor or layer; value: which of its values.
        weight: mean over the seeds that list it; seeds: how many of those with weights do.
    """

    column: str
    value: str
    weight: float
    seeds: int


def importance_of(analysis: Analysis, cell: Cell, axis: Axis) -> list[Importance]:
    """A cell's groups; layers as data flows through the network, kinds as they are declared. Empty
    if no record has them."""
    parts = [part[axis] for part in _parts(analysis, cell) if axis in part]
    by_name: dict[str, list[dict[str, float]]] = {}
    for part in parts:
        measures = [name for name in ("log_loss", "accuracy", "weights") if name in part]
        for i, name in enumerate(part["names"]):
            row = {measure: part[measure][i] for measure in measures}
            by_name.setdefault(name, []).append(row)
    names: Iterable[str] = by_name
    if axis == "layers":
        names = sorted(by_name, key=network_order)
    return [
        Importance(name, *(_spread(by_name[name], m) for m in ("log_loss", "accuracy", "weights")))
        for name in names
    ]


def permuted(analysis: Analysis, cell: Cell, axis: Axis) -> list[tuple[str, Spread]]:
    """(name, rise in log loss) of `importance_of`, where it was measured."""
    found = importance_of(analysis, cell, axis)
    return [(item.name, item.log_loss) for item in found if item.log_loss]


def top_columns(analysis: Analysis, cell: Cell) -> list[TopColumn]:
    """Single columns with the largest weights, those of most seeds first."""
    lists = [part["columns"] for part in _parts(analysis, cell) if "columns" in part]
    found: dict[tuple[str, str], list[float]] = {}
    for columns in lists:
        for column, value, weight in columns:
            found.setdefault((column, value), []).append(weight)
    rows = [TopColumn(*of, float(np.mean(w)), len(w)) for of, w in found.items()]
    most = max(map(len, lists), default=0)
    return sorted(rows, key=lambda row: (-row.seeds, -row.weight))[:most]


def unavailable(analysis: Analysis, cells: Iterable[Cell]) -> str:
    """Why cells whose records were asked for it have no permutation importance, in words."""
    reasons: dict[str, list[str]] = {}
    for cell in cells:
        for reason in {p["unavailable"] for p in _parts(analysis, cell) if "unavailable" in p}:
            reasons.setdefault(reason, []).append(cell[1])
    return "; ".join(f"{', '.join(methods)}: {reason}" for reason, methods in reasons.items())


def _parts(analysis: Analysis, cell: Cell) -> list[dict[str, Any]]:
    """Return the importance of the trials that have it."""
    fits = analysis.run.fits_of(cell)
    return [record["importance"] for record in fits if "importance" in record]


def _spread(rows: list[dict[str, float]], measure: str) -> Spread | None:
    values = [row[measure] for row in rows if row.get(measure) is not None]
    if not values:
        return None
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std)


# Names for people


def short_layers(layers: list[str]) -> list[str]:
    """Names that fit beside a figure: `up_blocks.1 1.0 cross k`; the canonical ones where those
    would be the same for two layers."""
    parts = [parse_layer(layer) for layer in layers]
    several = len({of.component for of in parts}) > 1
    ways: list[Callable[[LayerParts], str]] = [lambda of: _short(of, several), lambda of: of.name]
    for way in ways:
        names = [way(of) for of in parts]
        if len(set(names)) == len(names):
            return names
    return layers


def _short(parts: LayerParts, with_component: bool) -> str:
    kind = _SHORT_KINDS.get(parts.kind)
    if kind is None:
        return parts.name
    numbers = ".".join(map(str, parts.numbers))
    words = [parts.component if with_component else "", parts.block, numbers, kind]
    return " ".join(filter(None, [*words, parts.projection]))
