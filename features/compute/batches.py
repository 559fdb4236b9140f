"""Reading layer tensors and layers of a dataset as batches, each number once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from lorasweep.features.common.memory import fetch_ahead
from lorasweep.features.datasets.columns import to_matrices
from lorasweep.features.datasets.ranks import padded_shapes
from lorasweep.features.datasets.sources import Source
from lorasweep.features.layers.pairing import Layer
from lorasweep.features.representations import Representation, Unit
from lorasweep.features.representations.evaluate import (
    PaddedMatrices,
    evaluate,
    evaluate_each,
    matrix_batch,
)

if TYPE_CHECKING:
    import torch

    from lorasweep.features.numerics.matrix_batch import MatrixBatch
    from lorasweep.features.numerics.update_batch import UpdateBatch

_BATCH_ENTRIES = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Entries evaluated together: enough to make the cost of a call negligible and keep a GPU busy,
few enough that the arrays of a batch stay in a CPU's cache, or take a few GB of a GPU."""

_GROUPS_AHEAD = 4
"""Groups of columns that are on their way from the disk while one is evaluated."""

_Columns = list[list[np.ndarray]]
"""The pieces, one after the other, of each column's (rows, m, n) float32."""


class Table(Protocol):
    """Whatever holds columns of layer tensors and scales."""

    def read(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Record batches that together hold the given columns of rows start … stop−1, in order."""


class Batch(NamedTuple):
    """Some rows of some columns.

    Attributes:
        unit: what the columns are.
        columns: names of layer tensors or of layers.
        rows: which rows, counted from the first that was asked for.
        make: what makes the batch that some representations want.
        padded: the tensors with the shapes they had before they were padded; None: none was.
    """

    unit: Unit
    columns: list[str]
    rows: slice
    make: Callable[[list[Representation]], MatrixBatch | UpdateBatch]
    padded: PaddedMatrices | None = None

    def evaluate(self, wanted: list[Representation]) -> dict[str, torch.Tensor]:
        """Evaluate on what adapters were before padding; see `evaluate`."""
        if self.padded is not None:
            return self.padded.evaluate(wanted)
        return evaluate(self.make(wanted), wanted)

    def evaluate_each(
        self, wanted: list[Representation], failed: dict[str, str]
    ) -> dict[str, np.ndarray]:
        """Evaluate on what adapters were before padding; see `evaluate_each`."""
        if self.padded is not None:
            return self.padded.evaluate_each(wanted, failed)
        return evaluate_each(self.make(wanted), wanted, failed)


class _Part(NamedTuple):
    """Columns of one shape."""

    shape: tuple[int, int]
    names: list[str]


class _Group(NamedTuple):
    """What is evaluated together: one part, or the layers whose down and up projections and scales
    the three parts are."""

    parts: tuple[_Part, ...]
    layers: list[Layer]

    @property
    def entries(self) -> int:
        """Numbers of one row."""
        return sum(m * n * len(names) for (m, n), names in self.parts)


@dataclass(frozen=True)
class DatasetBatches:
    """A dataset's columns, to be read as batches.

    Attributes:
        open: a reader of the dataset; see `open_reader`.
        tensors: layer tensor -> (m, n).
        layers: the layers they make up.
        padded: layer tensor -> the column of its own ranks, where adapters are padded.
    """

    open: Callable[[], Table]
    tensors: dict[str, tuple[int, int]]
    layers: list[Layer]
    padded: dict[str, str] = field(default_factory=dict)

    def read(
        self,
        start: int,
        stop: int,
        keep: np.ndarray | None,
        units: Collection[Unit],
        device: torch.device,
    ) -> Iterator[Batch]:
        """Rows start … stop−1 of everything of some units.

        Where layers are asked for, their tensors are read for them and for themselves at once.

        Arguments:
            keep: which of the rows to keep, counted from `start`; None for all.
        """
        total = stop - start if keep is None else len(keep)
        most = _BATCH_ENTRIES[device.type]
        groups = self._groups(units, max(1, most // max(1, total)))
        for group, columns in self._ahead(groups, start, stop, keep):
            step = max(1, most // group.entries)
            # Layers' updates are the same with padding; what is of single tensors is not.
            shapes = [
                self._shapes(part, start, stop, keep) if Unit.TENSOR in units else None
                for part in group.parts[:2]
            ]
            for top in range(0, total, step):
                rows = slice(top, min(top + step, total))
                if group.layers:
                    yield from self._of_layers(group, columns, shapes, rows, units, device)
                else:
                    shape, names = group.parts[0]
                    matrices = _stack(columns[0], rows, shape, device)
                    yield _of_tensors(names, rows, matrices, shapes[0])

    def _groups(self, units: Collection[Unit], most: int) -> list[_Group]:
        """Alike columns, of at most so many numbers a row."""
        layers = self.layers if Unit.LAYER in units else []
        paired = {name for layer in layers for name in (layer.down, layer.up)}
        tensors = self.tensors if Unit.TENSOR in units else {}
        groups = []
        for shape, names in _by_shape({n: s for n, s in tensors.items() if n not in paired}):
            count = max(1, most // (shape[0] * shape[1]))
            parts = [_Part(shape, names[i : i + count]) for i in range(0, len(names), count)]
            groups += [_Group((part,), []) for part in parts]
        for (outputs, inputs, rank), alike in _by_shape({layer: layer.shape for layer in layers}):
            count = max(1, most // (rank * (outputs + inputs)))
            for i in range(0, len(alike), count):
                some = alike[i : i + count]
                parts = [
                    _Part((rank, inputs), [layer.down for layer in some]),
                    _Part((outputs, rank), [layer.up for layer in some]),
                    _Part((1, 1), [layer.scale for layer in some if layer.scale]),
                ]
                groups.append(_Group(tuple(parts), some))
        return groups

    def _of_layers(
        self,
        group: _Group,
        columns: list[_Columns],
        shapes: list[np.ndarray | None],
        rows: slice,
        units: Collection[Unit],
        device: torch.device,
    ) -> Iterator[Batch]:
        from lorasweep.features.numerics.update_batch import UpdateBatch

        factors: list[torch.Tensor] = []
        for (shape, names), own, before in zip(group.parts[:2], columns[:2], shapes):
            factors.append(_stack(own, rows, shape, device))
            if Unit.TENSOR in units:
                matrices = factors[-1].reshape(-1, *self.tensors[names[0]])
                yield _of_tensors(names, rows, matrices, before)
        names = [layer.name for layer in group.layers]
        scale = _scales(group.layers, columns[2], rows, device)
        batch = UpdateBatch(names, factors[0], factors[1], scale)
        yield Batch(Unit.LAYER, names, rows, lambda wanted: batch)

    def _ahead(
        self, groups: list[_Group], start: int, stop: int, keep: np.ndarray | None
    ) -> Iterator[tuple[_Group, list[_Columns]]]:
        """Each group and its parts' columns, read a few groups ahead of their use."""
        ahead: deque[tuple[_Group, list[_Columns]]] = deque()
        for group in groups:
            ahead.append((group, [self._read(part, start, stop, keep) for part in group.parts]))
            if len(ahead) > _GROUPS_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def _shapes(
        self, part: _Part, start: int, stop: int, keep: np.ndarray | None
    ) -> np.ndarray | None:
        """(columns, rows, 2) the shapes before padding; None: nothing is padded."""
        columns = {name: self.padded[name] for name in part.names if name in self.padded}
        if not columns:
            return None
        wanted = sorted(set(columns.values()))
        batches = list(self.open().read(start, stop, wanted))
        tensors = {name: self.tensors[name] for name in part.names}
        shapes = padded_shapes(tensors, columns, batches)
        return shapes if shapes is None or keep is None else shapes[:, keep]

    def _read(self, part: _Part, start: int, stop: int, keep: np.ndarray | None) -> _Columns:
        """What lies in a memory-mapped file is on its way from the disk when this returns."""
        shape, names = part
        batches = list(self.open().read(start, stop, names)) if names else []
        found = [[to_matrices(b.column(i), shape) for b in batches] for i in range(len(names))]
        fetch_ahead(piece for pieces in found for piece in pieces)
        if keep is None:
            return found
        return [[np.concatenate(pieces)[keep]] for pieces in found]


def _of_tensors(
    names: list[str], rows: slice, matrices: torch.Tensor, shapes: np.ndarray | None
) -> Batch:
    """A batch of tensors, with the shapes (columns, all rows, 2) before they were padded."""
    whole = Batch(Unit.TENSOR, names, rows, partial(matrix_batch, matrices))
    if shapes is None:
        return whole
    return whole._replace(padded=PaddedMatrices(matrices, shapes[:, rows].reshape(-1, 2)))


def _by_shape(shapes: dict[Any, Any]) -> Iterator[tuple[Any, list[Any]]]:
    """Each shape and those that have it."""
    found: dict[Any, list[Any]] = {}
    for name, shape in shapes.items():
        found.setdefault(shape, []).append(name)
    yield from found.items()


def _scales(
    layers: list[Layer], columns: _Columns, rows: slice, device: torch.device
) -> torch.Tensor:
    """(layers · rows,) float32 s, 1 for layers without a column of it."""
    import torch

    given = iter(columns)
    parts = [
        _stack([next(given)], rows, (1, 1), device).reshape(-1)
        if layer.scale
        else torch.ones(rows.stop - rows.start, device=device)
        for layer in layers
    ]
    return torch.cat(parts)


def _copy_rows(pieces: list[np.ndarray], start: int, out: np.ndarray) -> None:
    """Fill `out` with the rows from `start` on of arrays that lie one after the other."""
    filled = 0
    for piece in pieces:
        part = piece[start : start + len(out) - filled]
        out[filled : filled + len(part)] = part
        filled += len(part)
        start = max(start - len(piece), 0)


def _stack(
    columns: _Columns, rows: slice, shape: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """(columns · rows, m, n) float32 on the device: some rows of several columns."""
    batch = _empty((len(columns), rows.stop - rows.start, *shape), device)
    for own, pieces in zip(batch.numpy(), columns):
        _copy_rows(pieces, rows.start, own)
    return batch.reshape(-1, *shape).to(device, non_blocking=True)


def _empty(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Host memory for a batch; locked in place if it has to travel, so that nobody waits for it."""
    import torch

    return torch.empty(shape, pin_memory=device.type == "cuda")


_OPEN: dict[str, Any] = {}


def open_reader(source: Source) -> Any:
    """The reader a worker process keeps: opening parses the headers of every record batch."""
    if _OPEN.get("files") != source.files:
        _OPEN.update(files=source.files, reader=source.open())
    return _OPEN["reader"]
