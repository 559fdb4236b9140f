"""One shard of the feature stage: reading its matrices, evaluating and writing them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cache import CacheEntry
from .columns import to_matrices
from .core.memory import fetch_ahead, keep_freed_memory
from .layers import Layer
from .representations import Unit, get_representation
from .representations.evaluate import evaluate_each, matrix_batch
from .sources import Source

if TYPE_CHECKING:
    import torch

_BATCH_ENTRIES = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Entries evaluated together: enough to make the cost of a call negligible and keep a GPU busy,
few enough that the arrays of a batch stay in a CPU's cache, or take a few GB of a GPU."""

_GROUPS_AHEAD = 4
"""Groups of layer tensors that are on their way from the disk while one is evaluated."""

_Group = tuple[tuple[int, int], list[str]]
"""The shape of some layer tensors, and those evaluated together."""


@dataclass
class ShardTask:
    """Computes and writes one shard of every representation; runs in a Ray worker.

    Attributes:
        source: the dataset's files.
        tensors: layer tensor -> (m, n).
        layers: the layers they make up.
        bad_rows: rows to leave out.
        root: the feature cache.
        weights: the dataset's weights digest.
        wanted: references of the stored representations to compute. A worker finds them by itself:
            a user's own cannot travel as an object.
        count: shards in all.
    """

    source: Source
    tensors: dict[str, tuple[int, int]]
    layers: list[Layer]
    bad_rows: list[int]
    root: Path
    weights: str
    wanted: list[str]
    count: int

    @cached_property
    def _entries(self) -> list[CacheEntry]:
        found = [get_representation(reference) for reference in self.wanted]
        return [CacheEntry(self.root, self.weights, item) for item in found]

    def _columns_of(self, unit: Unit) -> list[str]:
        if unit is Unit.TENSOR:
            return list(self.tensors)
        return [layer.name for layer in self.layers]

    def warm_up(self) -> None:
        """Import torch and load the compiled loops, by evaluating a tiny matrix."""
        import torch

        keep_freed_memory()
        items = [entry.item for entry in self._entries if entry.item.unit is Unit.TENSOR]
        evaluate_each(matrix_batch(torch.zeros(1, 2, 3), items), items, {})

    def __call__(self, span: dict[str, Any]) -> dict[str, Any]:
        """{"shard", "start", "stop"} -> what was done, for the driver."""
        import torch

        torch.set_num_threads(1)
        index, start, stop = int(span["shard"]), int(span["start"]), int(span["stop"])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        bad = [row - start for row in self.bad_rows if start <= row < stop]
        keep = np.delete(np.arange(stop - start), bad)
        origin = _origin(device)
        todo = [e for e in self._entries if not e.has_shard(index, self.count, len(keep), origin)]
        failed: dict[str, str] = {}
        values: dict[str, dict[str, np.ndarray]] = {entry.item.name: {} for entry in todo}
        kept = keep if bad else None
        for unit, batches in ((Unit.TENSOR, self._matrices), (Unit.LAYER, self._updates)):
            of_unit = [entry.item for entry in todo if entry.item.unit is unit]
            if not of_unit:
                continue
            for columns, rows, make in batches(start, stop, kept, device):
                wanted = [item for item in of_unit if item.name not in failed]
                if not wanted:
                    break
                for name, result in evaluate_each(make(wanted), wanted, failed).items():
                    for column, part in zip(columns, np.split(result, len(columns))):
                        whole = values[name].setdefault(
                            column, np.empty((len(keep), part.shape[1]), np.float32)
                        )
                        whole[rows] = part
        for entry in todo:
            if entry.item.name not in failed:
                made = values.pop(entry.item.name)
                ordered = {column: made[column] for column in self._columns_of(entry.item.unit)}
                entry.write_shard(index, self.count, ordered, origin)
        return {
            "shard": index,
            "rows": len(keep),
            **origin,
            "failed": list(failed),
            "reasons": list(failed.values()),
        }

    def _matrices(
        self, start: int, stop: int, keep: np.ndarray | None, device: torch.device
    ) -> Iterator[tuple[list[str], slice, Any]]:
        """All layer tensors of a shard, those of one shape together.

        Arguments:
            keep: which of the rows to keep, counted from `start`; None for all.

        Yields:
            layer tensors, rows within the shard, and what makes the batch that some
            representations want of them.
        """
        most = _BATCH_ENTRIES[device.type]
        total = stop - start if keep is None else len(keep)
        shapes: dict[tuple[int, int], list[str]] = {}
        for tensor, shape in self.tensors.items():
            shapes.setdefault(shape, []).append(tensor)
        groups = []
        for (m, n), alike in shapes.items():
            count = max(1, most // max(1, total * m * n))
            groups += [((m, n), alike[i : i + count]) for i in range(0, len(alike), count)]
        for (m, n), layers, columns in self._columns(groups, start, stop, keep):
            step = max(1, most // (m * n))
            for top in range(0, total, step):
                rows = slice(top, min(top + step, total))
                matrices = _stack(columns, rows, (m, n), device)
                yield layers, rows, partial(matrix_batch, matrices)

    def _updates(
        self, start: int, stop: int, keep: np.ndarray | None, device: torch.device
    ) -> Iterator[tuple[list[str], slice, Any]]:
        """The same of all layers of a shard; their files' pages are still in memory."""
        import torch

        from .updates import UpdateBatch

        most = _BATCH_ENTRIES[device.type]
        total = stop - start if keep is None else len(keep)
        shapes: dict[tuple[int, int, int], list[Layer]] = {}
        for layer in self.layers:
            shapes.setdefault(layer.shape, []).append(layer)
        for (outputs, inputs, rank), alike in shapes.items():
            entries = rank * (outputs + inputs)
            count = max(1, most // max(1, total * entries))
            step = max(1, most // entries)
            for i in range(0, len(alike), count):
                layers = alike[i : i + count]
                down, up, scale = (
                    self._read(shape, names, start, stop, keep)
                    for shape, names in (
                        ((rank, inputs), [layer.down for layer in layers]),
                        ((outputs, rank), [layer.up for layer in layers]),
                        ((1, 1), [layer.scale for layer in layers if layer.scale]),
                    )
                )
                for top in range(0, total, step):
                    rows = slice(top, min(top + step, total))
                    a = _stack(down, rows, (rank, inputs), device)
                    b = _stack(up, rows, (outputs, rank), device)
                    names = [layer.name for layer in layers]
                    scales = iter(scale)
                    s = torch.cat(
                        [
                            _stack([next(scales)], rows, (1, 1), device).reshape(-1)
                            if layer.scale
                            else torch.ones(rows.stop - top, device=device)
                            for layer in layers
                        ]
                    )
                    yield names, rows, lambda wanted, batch=UpdateBatch(names, a, b, s): batch

    def _columns(
        self, groups: list[_Group], start: int, stop: int, keep: np.ndarray | None
    ) -> Iterator[tuple[tuple[int, int], list[str], list[list[np.ndarray]]]]:
        """Each group's shape, layer tensors and columns, read a few groups ahead of their use."""
        ahead: deque[Any] = deque()
        for shape, layers in groups:
            ahead.append((shape, layers, self._read(shape, layers, start, stop, keep)))
            if len(ahead) > _GROUPS_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def _read(
        self,
        shape: tuple[int, int],
        columns: list[str],
        start: int,
        stop: int,
        keep: np.ndarray | None,
    ) -> list[list[np.ndarray]]:
        """The pieces, one after the other, of each column's (rows, m, n) float32.

        What lies in a memory-mapped file is on its way from the disk when this returns.
        """
        batches = list(_open_reader(self.source).read(start, stop, columns))
        found = [[to_matrices(b.column(i), shape) for b in batches] for i in range(len(columns))]
        fetch_ahead(piece for pieces in found for piece in pieces)
        if keep is None:
            return found
        return [[np.concatenate(pieces)[keep]] for pieces in found]


def _copy_rows(pieces: list[np.ndarray], start: int, out: np.ndarray) -> None:
    """Fill `out` with the rows from `start` on of arrays that lie one after the other."""
    filled = 0
    for piece in pieces:
        part = piece[start : start + len(out) - filled]
        out[filled : filled + len(part)] = part
        filled += len(part)
        start = max(start - len(piece), 0)


def _stack(
    columns: list[list[np.ndarray]], rows: slice, shape: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """(columns · rows, m, n) float32 on the device: some rows of several columns."""
    batch = _empty((len(columns), rows.stop - rows.start, *shape), device)
    for own, pieces in zip(batch.numpy(), columns):
        _copy_rows(pieces, rows.start, own)
    return batch.reshape(-1, *shape).to(device, non_blocking=True)


def _origin(device: torch.device) -> dict[str, Any]:
    """What the last bits of a feature depend on besides its matrix."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "dtype": "float32",
        "torch": torch.__version__,
    }


def _empty(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Host memory for a batch; locked in place if it has to travel, so that nobody waits for it."""
    import torch

    return torch.empty(shape, pin_memory=device.type == "cuda")


_OPEN: dict[str, Any] = {}


def _open_reader(source: Source) -> Any:
    """The reader a worker process keeps: opening parses the headers of every record batch."""
    if _OPEN.get("files") != source.files:
        _OPEN.update(files=source.files, reader=source.open())
    return _OPEN["reader"]
