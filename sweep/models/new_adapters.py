"""Adapters to judge, as people give them: files, folders and datasets, in stacks of one shape."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lorasweep.features.adapters.adapter import AdapterFile, LayerShape, open_adapter
from lorasweep.features.adapters.bases import Base, guess_base
from lorasweep.features.adapters.errors import BadAdapterError
from lorasweep.features.adapters.locations import (
    find_candidates,
    is_dataset,
    is_weights,
    join_components,
)
from lorasweep.features.adapters.matrix import matrix_of
from lorasweep.features.adapters.stack import Stack
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import abbreviate
from lorasweep.features.datasets.columns import to_matrices
from lorasweep.features.datasets.ranks import own_ranks
from lorasweep.features.datasets.shapes import rank_columns, read_shapes
from lorasweep.features.datasets.sources import DatasetRequest, Source, find_dataset
from lorasweep.features.layers.pairing import pair_layers, rank_column
from lorasweep.features.representations import Representation
from lorasweep.trainables.models.model_input import ModelInput, canonical_layers

_MOST_ROWS = 256
_MOST_NUMBERS = 1 << 24
"""Of the adapters that are looked at together: 64 MB."""


class Adapter(NamedTuple):
    """One of those that were given: the how-manieth, and its path or row.

    Attributes:
        compatible: bases that it may be of, where it is not certain of which.
    """

    place: int
    name: str
    compatible: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """An adapter that cannot be judged, and why."""

    adapter: Adapter
    reason: str


@dataclass(frozen=True)
class Stacked:
    """Adapters that can be judged, in a stack's first rows."""

    adapters: list[Adapter]
    stack: Stack


Found = Problem | Stacked


@dataclass(frozen=True)
class Given:
    """What was named, found but not read.

    Attributes:
        files: of adapters.
        datasets: of several adapters each, with what they were called.
        closed: what may hold adapters and cannot be looked into -> why.
    """

    files: list[Path]
    datasets: list[tuple[str, Source]]
    closed: dict[str, str] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Adapters in all."""
        rows = sum(source.open().num_rows for _, source in self.datasets)
        return len(self.files) + len(self.closed) + rows


def find_adapters(given: Sequence[str], memo: Path) -> Given:
    """Adapter files, folders of them, and datasets.

    Of a folder it is every file that may be an adapter's, also what an import passes over: whoever
    screens uploads must not miss one that has an odd name or place.

    Raises:
        UserError: one is nothing of this.
    """
    found = Given([], [])
    for name in given:
        place = Path(name)
        inside = list(find_candidates(place)) if place.is_dir() else []
        paths = [candidate.path for candidate in inside if not candidate.problem]
        found.files.extend(dict.fromkeys(join_components(paths).values()))
        found.closed.update((str(path), problem) for path, _, problem in inside if problem)
        if not place.is_dir() and (is_weights(name) or matrix_of(place)):
            found.files.append(place)
        elif not place.is_dir() or is_dataset(place):
            found.datasets.append((name, find_dataset(DatasetRequest(name), memo)))
        elif not inside:
            raise UserError(f"{place} holds no adapter")
    return found


def read_adapters(
    given: Given, read: ModelInput, item: Representation, lora_rank: int | None
) -> Iterator[Found]:
    """Every adapter that was named once, those that cannot be judged with their problem.

    Arguments:
        read: what a model reads of them.
        item: its representation.
        lora_rank: see `matrix_shape`, of datasets.
    """
    yield from _Files(read, item).read(given.files)
    for place, (path, reason) in enumerate(given.closed.items(), len(given.files)):
        yield Problem(Adapter(place, path), reason)
    first = len(given.files) + len(given.closed)
    for name, source in given.datasets:
        yield from _Rows(name, source, read, item, lora_rank).read(first)
        first += source.open().num_rows


def _most_rows(read: ModelInput, rank: int) -> int:
    numbers = sum(max(rank, own) * (m + n) for m, n, own in read.layers.values())
    return max(1, min(_MOST_ROWS, _MOST_NUMBERS // numbers))


class _Files:
    """Collects files' layers in stacks, one for each rank above that of the training data."""

    def __init__(self, read: ModelInput, item: Representation) -> None:
        self._read, self._item = read, item
        self._open: dict[int, tuple[Stack, list[Adapter]]] = {}

    def read(self, files: Sequence[Path]) -> Iterator[Found]:
        """See `read_adapters`."""
        for place, path in enumerate(files):
            try:
                rank, full = self._add(place, path)
            except BadAdapterError as error:
                yield Problem(Adapter(place, str(path)), error.reason)
                continue
            if full:
                stack, adapters = self._open.pop(rank)
                yield Stacked(adapters, stack)
        for stack, adapters in self._open.values():
            if adapters:
                yield Stacked(adapters, stack)

    def _add(self, place: int, path: Path) -> tuple[int, bool]:
        """Put a file into a stack; returns which, and whether it is full now.

        Raises:
            BadAdapterError: it cannot be judged.
        """
        adapter = self._open_file(path)
        shapes = adapter.split_shapes()
        largest = max(rank for _, _, rank in shapes.values())
        unread = {k for layer in self._read.layers for k in adapter.unread.get(layer, ())}
        reason = self._read.problem(self._item, shapes, adapter.base, largest)
        reason = reason or _more_than_product(self._read, unread, dora=adapter.dora)
        if reason:
            raise BadAdapterError(path, reason)
        rank = _rank_above(self._read, shapes)
        most = _most_rows(self._read, rank)
        if rank not in self._open:
            self._open[rank] = self._read.stack(most, rank), []
        stack, adapters = self._open[rank]
        stack.read(len(adapters), adapter, frozenset(self._read.layers))
        reason = self._read.unknown_scale(self._item, stack, len(adapters))
        if reason:
            raise BadAdapterError(path, reason)
        adapters.append(Adapter(place, str(path), _uncertain(adapter.base)))
        return rank, len(adapters) == most

    def _open_file(self, path: Path) -> AdapterFile:
        """Open an adapter; a model of version 0.1 has the names of then."""
        adapter = open_adapter(path, self._read.lokr_rank)
        if self._read.layers.keys() <= adapter.shapes.keys():
            return adapter
        earlier = open_adapter(path, self._read.lokr_rank, earlier_names=True)
        return max(
            adapter, earlier, key=lambda of: len(self._read.layers.keys() & of.shapes.keys())
        )


def _more_than_product(read: ModelInput, unread: Collection[str], *, dora: bool) -> str | None:
    """Why B·A is not an adapter's whole update, if that was not so in training.

    Arguments:
        unread: what was ignored of the layers that are read, see `AdapterFile.unread`.
    """
    if dora and not read.dora:
        return "is of DoRA, whose update is more than B·A, and the training data had none"
    strange = sorted(set(unread) - set(read.unread))
    if strange:
        return (
            f"changes layers by more than B·A ({abbreviate(strange)}), and the training data had "
            "none of that"
        )
    return None


def _uncertain(base: Base) -> tuple[str, ...]:
    """Names of a base that may be one of several."""
    return base.names if len(base.names) > 1 else ()


def _rank_above(read: ModelInput, shapes: Mapping[str, LayerShape]) -> int:
    """The largest rank of an adapter's layers, if one is larger than in training; else 0."""
    there = read.layers.keys() & shapes.keys()
    pairs = [(shapes[name][2], read.layers[name][2]) for name in there]
    return max(rank for rank, _ in pairs) if any(rank > own for rank, own in pairs) else 0


# Datasets


class _Rows:
    """A dataset's adapters, some at a time."""

    def __init__(
        self, name: str, source: Source, read: ModelInput, item: Representation, rank: int | None
    ) -> None:
        self._name, self._read, self._item = name, read, item
        self._table = source.open()
        tensors, scales = read_shapes(source, rank)
        self._layers = canonical_layers(pair_layers(tensors, scales))
        self._shapes = {name: layer.shape for name, layer in self._layers.items()}
        self._base = guess_base(self._shapes, {}, {})
        spelled = {name: rank_column(layer.name) for name, layer in self._layers.items()}
        columns = set(rank_columns(self._table.schema.names, list(tensors)))
        self._ranks = {name: column for name, column in spelled.items() if column in columns}

    def read(self, first: int) -> Iterator[Found]:
        """See `read_adapters`; the first one's place is given."""
        own = [self._shapes[name][2] for name in self._read.layers if name in self._shapes]
        largest = max(own, default=0)
        most = _most_rows(self._read, largest)
        read = [name for name in self._read.layers if name in self._shapes]
        for top in range(0, self._table.num_rows, most):
            rows = range(top, min(top + most, self._table.num_rows))
            names = self._values("path", rows) or [f"{self._name}[{row}]" for row in rows]
            ranks = self._values("rank", rows) or [largest] * len(rows)
            said = self._values("base", rows)
            bases = [None if text is None else Base.parse(str(text)) for text in said] or [
                self._base
            ] * len(rows)
            adapters = [
                Adapter(first + row, name, _uncertain(base or self._base))
                for row, name, base in zip(rows, names, bases)
            ]
            of_layers = self._own_ranks(read, rows)
            reasons = self._problems(of_layers, ranks, bases)
            dora = self._values("dora", rows) or [False] * len(rows)
            unread = self._values("unread_tensors", rows) or [()] * len(rows)
            reasons = [
                reason or _more_than_product(self._read, kinds or (), dora=bool(of_dora))
                for reason, kinds, of_dora in zip(reasons, unread, dora)
            ]
            if None in reasons:
                fits = [i for i, reason in enumerate(reasons) if reason is None]
                beyond = any(
                    (values[fits] > self._read.layers[name][2]).any()
                    for name, values in of_layers.items()
                )
                stack = self._read.stack(len(rows), largest if beyond else 0)
                fine = self._fill(stack, rows)
                for name, values in of_layers.items():
                    stack.ranks[name][:] = np.minimum(values, stack.down[name].shape[1])
                for i, reason in enumerate(reasons):
                    if reason is None:
                        reasons[i] = (
                            self._read.unknown_scale(self._item, stack, i)
                            if fine[i]
                            else "has NaN or infinite numbers"
                        )
                kept = [i for i, reason in enumerate(reasons) if reason is None]
                if kept:
                    stack.select(kept)
                    yield Stacked([adapters[i] for i in kept], stack)
            yield from (Problem(one, reason) for one, reason in zip(adapters, reasons) if reason)

    def _own_ranks(self, layers: Sequence[str], rows: range) -> dict[str, np.ndarray]:
        """Layer -> (rows,) ranks of before padding; where the dataset has none, its own."""
        found = {}
        for name in layers:
            stored = self._shapes[name][2]
            if name in self._ranks:
                column = self._ranks[name]
                batches = self._table.read(rows.start, rows.stop, [column])
                ranks = np.concatenate([own_ranks(column, b.column(0)) for b in batches])
                found[name] = np.clip(ranks, 1, stored)
            else:
                found[name] = np.full(len(rows), stored)
        return found

    def _problems(
        self, own: dict[str, np.ndarray], largest: Sequence[int], bases: Sequence[Any]
    ) -> list[str | None]:
        """Of every row; looked up once for rows that are alike."""
        known: dict[tuple[Any, ...], str | None] = {}
        reasons = []
        for i, (rank, base) in enumerate(zip(largest, bases)):
            ranks = [int(values[i]) for values in own.values()]
            key = (rank, base, *ranks)
            if key not in known:
                shapes = dict(self._shapes)
                shapes.update((n, (*shapes[n][:2], r)) for n, r in zip(own, ranks))
                of = self._base if base is None else base
                known[key] = self._read.problem(self._item, shapes, of, rank)
            reasons.append(known[key])
        return reasons

    def _fill(self, stack: Stack, rows: range) -> np.ndarray:
        """Copy the layers that are read; returns which rows are finite."""
        fine = np.ones(len(rows), bool)
        for name in self._read.layers.keys() & self._layers.keys():
            layer = self._layers[name]
            outputs, inputs, rank = layer.shape
            down = self._matrices(layer.down, rows, (rank, inputs))
            up = self._matrices(layer.up, rows, (outputs, rank))
            # Adapters that have more than the stack are not among those that can be judged.
            most = stack.down[name].shape[1]
            stack.down[name][:, :rank], stack.up[name][:, :, :rank] = down[:, :most], up[..., :most]
            parts = [down, up]
            if layer.scale:
                parts.append(self._matrices(layer.scale, rows, (1, 1)))
                stack.scale[name][:] = parts[-1].reshape(-1)
            for part in parts:
                fine &= np.isfinite(part).reshape(len(fine), -1).all(axis=1)
        return fine

    def _matrices(self, column: str, rows: range, shape: tuple[int, int]) -> np.ndarray:
        batches = self._table.read(rows.start, rows.stop, [column])
        return np.concatenate([to_matrices(batch.column(0), shape) for batch in batches])

    def _values(self, column: str, rows: range) -> list[Any]:
        """Empty if there is no such column."""
        if column not in self._table.schema.names:
            return []
        batches = self._table.read(rows.start, rows.stop, [column])
        return [value for batch in batches for value in batch.column(0).to_pylist()]
