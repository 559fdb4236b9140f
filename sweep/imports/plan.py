"""What the dataset of an import will look like: its layers, its columns and its shards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lorasweep.features.adapters.adapter import LayerShape
from lorasweep.features.adapters.modules import LOKR
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import digest
from lorasweep.features.common.names import abbreviate
from lorasweep.features.layers.pairing import is_layer_tensor, rank_column, scale_column

from .labels import LABEL, Value, as_column, label_column
from .survey import SurveyedAdapter

VERSION = 1
"""Of what an import writes for the same files."""
_SHARD_BYTES = 1 << 26
"""About so many bytes of weights a shard, so that a worker's memory is bounded."""
_SHARD_ROWS = (8, 512)
_MIN_SHARDS = 16

DERIVED = ("rank", "lost")
"""Columns that are known only when the weights are read: the largest rank of an adapter's layers,
and the largest share of a layer's ‖ΔW‖² that a truncated SVD has left out."""


@dataclass(frozen=True)
class ImportPlan:
    """A dataset that is to be written.

    Attributes:
        adapters: its rows, in order.
        layers: canonical layer -> (outputs, inputs, largest rank), sorted.
        padded: the layers of which some adapter may have a smaller rank.
        dropped: layers that too few adapters have -> how many do.
        columns: whatever is not weights, by name, in the order of rows.
        lokr_rank: see `ImportOptions`.
    """

    adapters: list[SurveyedAdapter]
    layers: dict[str, LayerShape]
    padded: tuple[str, ...]
    dropped: dict[str, int]
    columns: dict[str, list[Any]]
    lokr_rank: int

    @cached_property
    def digest(self) -> str:
        """The same for the same files, options and program: what is on disk fits then."""
        return digest(
            [
                VERSION,
                [item.stamp for item in self.adapters],
                self.layers,
                self.columns,
                self.lokr_rank,
                # Nothing more for a set of one rank: it is what it was before ranks were written.
                *([self.padded] if self.padded else []),
            ]
        )

    @cached_property
    def bounds(self) -> list[int]:
        """Row bounds of the shards."""
        row = 4 * sum((m + n) * r for m, n, r in self.layers.values())
        count = len(self.adapters)
        few, many = _SHARD_ROWS
        rows = min(max(few, -(-count // _MIN_SHARDS)), many, max(1, _SHARD_BYTES // row))
        return [*range(0, count, rows), count]

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self.bounds) - 1


def make_plan(
    adapters: Sequence[SurveyedAdapter], min_coverage: float, lokr_rank: int
) -> ImportPlan:
    """Choose layers and columns for labelled adapters of one base.

    Raises:
        UserError: no layer is common enough, or adapters do not fit each other.
    """
    layers, dropped = _layers(adapters, min_coverage)
    columns = _columns(adapters, layers, lokr_rank)
    padded = _padded(adapters, layers)
    return ImportPlan(list(adapters), layers, padded, dropped, columns, lokr_rank)


def _layers(
    adapters: Sequence[SurveyedAdapter], min_coverage: float
) -> tuple[dict[str, LayerShape], dict[str, int]]:
    having: Counter[str] = Counter()
    ranks: dict[str, int] = {}
    sizes: dict[str, tuple[int, int]] = {}
    first: dict[str, str] = {}
    alike: dict[int, list[SurveyedAdapter]] = defaultdict(list)
    for item in adapters:
        alike[id(item.shapes)].append(item)
    for items in alike.values():
        for layer, (outputs, inputs, rank) in items[0].shapes.items():
            size = sizes.setdefault(layer, (outputs, inputs))
            first.setdefault(layer, items[0].name)
            if size != (outputs, inputs):
                raise UserError(
                    f"layer {layer} is {size[0]} × {size[1]} in {first[layer]} and {outputs} × "
                    f"{inputs} in {items[0].name}: these are not adapters of one base model"
                )
            having[layer] += len(items)
            ranks[layer] = max(rank, ranks.get(layer, 0))
    kept = {name for name, count in having.items() if count >= min_coverage * len(adapters)}
    if not kept:
        most, count = having.most_common(1)[0]
        raise UserError(
            f"no layer is in {min_coverage:.0%} of the {len(adapters)} adapters (the most common, "
            f"{most}, is in {count}): lower --min-coverage"
        )
    layers = {name: (*sizes[name], ranks[name]) for name in sorted(kept)}
    return layers, {name: count for name, count in sorted(having.items()) if name not in kept}


def _padded(
    adapters: Sequence[SurveyedAdapter], layers: Mapping[str, LayerShape]
) -> tuple[str, ...]:
    """Layers of which some adapter may have a smaller rank than the largest."""
    found = set[str]().union(*(item.fused for item in adapters))
    for shapes in {id(item.shapes): item.shapes for item in adapters}.values():
        found.update(n for n, (_, _, r) in shapes.items() if n in layers and r < layers[n][2])
    return tuple(name for name in layers if name in found)


def _columns(
    adapters: Sequence[SurveyedAdapter], layers: Mapping[str, LayerShape], lokr_rank: int
) -> dict[str, list[Any]]:
    own: dict[str, list[Value | None]] = {
        LABEL: [item.label for item in adapters],
        "path": [item.name for item in adapters],
        "folder": [item.folder for item in adapters],
        "base": [str(item.base) for item in adapters],
        **{name: [item.facts[name] for item in adapters] for name in adapters[0].facts},
    }
    columns = {name: list(values) for name, values in own.items()}
    columns[LABEL] = label_column(columns[LABEL])
    columns["dora"] = [item.dora for item in adapters]
    columns |= _what_models_ask(adapters, layers, lokr_rank)
    of_layers = (column(layer) for layer in layers for column in (scale_column, rank_column))
    taken = {*columns, *DERIVED, *of_layers}
    others = sorted({key for item in adapters for key in item.columns} - taken)
    for name in others:
        values = [item.columns.get(name) for item in adapters]
        if is_layer_tensor(name) or sum(value is None for value in values) > len(values) // 2:
            continue
        try:
            columns[name] = as_column(f"column {name!r}", values)
        except UserError:
            columns[name] = [None if value is None else str(value) for value in values]
    return columns


def _what_models_ask(
    adapters: Sequence[SurveyedAdapter], layers: Mapping[str, LayerShape], lokr_rank: int
) -> dict[str, list[Any]]:
    """What a model must know of its training data to judge files as their rows; nothing for most
    sets."""
    lacking = [sorted(layers.keys() - item.shapes.keys()) for item in adapters]
    unread = [
        sorted(set[str]().union(*(item.unread[layer] for layer in layers.keys() & item.unread)))
        for item in adapters
    ]
    is_lokr = any(LOKR in item.facts["algorithm"].split("+") for item in adapters)
    return {
        **({"lacking_layers": lacking} if any(lacking) else {}),
        **({"unread_tensors": unread} if any(unread) else {}),
        **({"lokr_rank": [lokr_rank] * len(adapters)} if is_lokr else {}),
    }


def require_labels(
    adapters: Sequence[SurveyedAdapter], labels: str, row: str = ""
) -> tuple[list[SurveyedAdapter], list[str]]:
    """The adapters that have a label, and the names of those without.

    Arguments:
        row: what the first row of a table of labels calls its adapter; "": there is none.

    Raises:
        UserError: none has.
    """
    labelled = [item for item in adapters if item.label is not None]
    if not labelled:
        known = sorted({key for item in adapters for key in item.columns})
        raise UserError(
            f"--labels {labels}: none of the {len(adapters)} adapters has a label (the first is "
            f"{adapters[0].name}; known of them: {abbreviate(known) or 'nothing'}"
            f"{f'; the first row of the table is of {row!r}' if row else ''})"
        )
    return labelled, [item.name for item in adapters if item.label is None]
