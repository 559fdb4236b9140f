"""One shard of the feature stage: reading its matrices, evaluating and writing them."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .cache import CacheEntry
from .columns import to_matrices
from .core.memory import fetch_ahead, keep_freed_memory
from .representations import Representation, evaluate
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
        layers: layer tensor -> (m, n).
        bad_rows: rows to leave out.
        entries: cache entries to fill.
        count: shards in all.
    """

    source: Source
    layers: dict[str, tuple[int, int]]
    bad_rows: list[int]
    entries: list[CacheEntry]
    count: int

    def warm_up(self) -> None:
        """Import torch and load the compiled loops, by evaluating a tiny matrix."""
        import torch

        keep_freed_memory()
        tiny = torch.zeros(1, 2, 3)
        _evaluate_each(tiny, [entry.item for entry in self.entries], {})

    def __call__(self, span: dict[str, Any]) -> dict[str, Any]:
        """{"shard", "start", "stop"} -> what was done, for the driver."""
        import torch

        torch.set_num_threads(1)
        index, start, stop = int(span["shard"]), int(span["start"]), int(span["stop"])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        bad = [row - start for row in self.bad_rows if start <= row < stop]
        keep = np.delete(np.arange(stop - start), bad)
        todo = [e for e in self.entries if not e.has_shard(index, self.count, len(keep))]
        failed: dict[str, str] = {}
        values = {
            entry.item.name: {
                layer: np.empty((len(keep), entry.item.width), np.float32) for layer in self.layers
            }
            for entry in todo
        }
        for layers, rows, matrices in self._batches(start, stop, keep if bad else None, device):
            wanted = [entry.item for entry in todo if entry.item.name not in failed]
            for name, result in _evaluate_each(matrices, wanted, failed).items():
                for layer, part in zip(layers, np.split(result, len(layers))):
                    values[name][layer][rows] = part
        for entry in todo:
            if entry.item.name not in failed:
                entry.write_shard(index, self.count, values.pop(entry.item.name))
        return {
            "shard": index,
            "rows": len(keep),
            "device": str(device),
            "torch": torch.__version__,
            "failed": list(failed),
            "reasons": list(failed.values()),
        }

    def _batches(
        self, start: int, stop: int, keep: np.ndarray | None, device: torch.device
    ) -> Iterator[tuple[list[str], slice, torch.Tensor]]:
        """All matrices of a shard, those of one shape together.

        Arguments:
            keep: which of the rows to keep, counted from `start`; None for all.

        Yields:
            layer tensors, rows within the shard, and their matrices (layers · rows, m, n).
        """
        most = _BATCH_ENTRIES[device.type]
        total = stop - start if keep is None else len(keep)
        shapes: dict[tuple[int, int], list[str]] = {}
        for layer, shape in self.layers.items():
            shapes.setdefault(shape, []).append(layer)
        groups = []
        for (m, n), alike in shapes.items():
            count = max(1, most // max(1, total * m * n))
            groups += [((m, n), alike[i : i + count]) for i in range(0, len(alike), count)]
        for (m, n), layers, columns in self._columns(groups, start, stop, keep):
            step = max(1, most // (m * n))
            for top in range(0, total, step):
                rows = slice(top, min(top + step, total))
                batch = _empty((len(layers), rows.stop - top, m, n), device)
                for own, pieces in zip(batch.numpy(), columns):
                    _copy_rows(pieces, top, own)
                yield layers, rows, batch.reshape(-1, m, n).to(device, non_blocking=True)

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
        layers: list[str],
        start: int,
        stop: int,
        keep: np.ndarray | None,
    ) -> list[list[np.ndarray]]:
        """The pieces, one after the other, of each layer tensor's (rows, m, n) float32.

        What lies in a memory-mapped file is on its way from the disk when this returns.
        """
        batches = list(_open_reader(self.source).read(start, stop, layers))
        columns = [[to_matrices(b.column(i), shape) for b in batches] for i in range(len(layers))]
        fetch_ahead(piece for pieces in columns for piece in pieces)
        if keep is None:
            return columns
        return [[np.concatenate(pieces)[keep]] for pieces in columns]


def _copy_rows(pieces: list[np.ndarray], start: int, out: np.ndarray) -> None:
    """Fill `out` with the rows from `start` on of arrays that lie one after the other."""
    filled = 0
    for piece in pieces:
        part = piece[start : start + len(out) - filled]
        out[filled : filled + len(part)] = part
        filled += len(part)
        start = max(start - len(piece), 0)


def _empty(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Host memory for a batch; locked in place if it has to travel, so that nobody waits for it."""
    import torch

    return torch.empty(shape, pin_memory=device.type == "cuda")


def _evaluate_each(
    matrices: torch.Tensor, wanted: list[Representation], failed: dict[str, str]
) -> dict[str, np.ndarray]:
    """Evaluate together; if that fails, one by one, to find the one to blame."""
    try:
        together = evaluate(matrices, wanted)
    except Exception:
        # Whatever a representation raises is its own failure, recorded with its traceback.
        together = {}
        for item in wanted:
            try:
                together.update(evaluate(matrices, [item]))
            except Exception:
                failed[item.name] = traceback.format_exc()
    return {name: value.cpu().numpy() for name, value in together.items()}


_OPEN: dict[str, Any] = {}


def _open_reader(source: Source) -> Any:
    """The reader a worker process keeps: opening parses the headers of every record batch."""
    if _OPEN.get("files") != source.files:
        _OPEN.update(files=source.files, reader=source.open())
    return _OPEN["reader"]
