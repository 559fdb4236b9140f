"""One shard of inner products with the landmarks; runs in a Ray worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lorasweep.features.common.hardware import assigned_device
from lorasweep.features.common.memory import keep_freed_memory
from lorasweep.features.compute.batches import open_reader
from lorasweep.features.compute.cache import CacheEntry
from lorasweep.features.compute.shard import origin_of
from lorasweep.features.datasets.columns import to_matrices
from lorasweep.features.datasets.sources import Source
from lorasweep.features.layers.pairing import Layer

from .kernel import FactorBatch, Kernel, layer_products
from .landmarks import read_landmarks

COLUMN = "adapter"
"""The one column of what is about whole adapters."""


@dataclass
class ProductEntry:
    """Destination of the inner products of a config's layers with some landmarks.

    Attributes:
        mean_squares: name of a layer -> by which its inner products are divided; 0: it is left out.
        columns: (n_landmarks,) places of its landmarks among those of the pass; None: all of them.
        where: where they go.
    """

    mean_squares: dict[str, float]
    columns: NDArray[np.int64] | None
    where: CacheEntry


@dataclass
class ProductTask:
    """Computes and writes one shard for every choice of layers and landmarks.

    Attributes:
        source: the dataset's files.
        tensors: layer tensor -> (m, n).
        layers: all that some config has.
        bad_rows: rows to leave out.
        landmarks: folder of the landmarks' layers.
        num_landmarks: how many they are.
        kernel: inner product of a layer.
        entries: of one set of landmarks, or each with its own of them.
        count: shards in all.
    """

    source: Source
    tensors: dict[str, tuple[int, int]]
    layers: list[Layer]
    bad_rows: list[int]
    landmarks: Path
    num_landmarks: int
    kernel: Kernel
    entries: list[ProductEntry]
    count: int

    def warm_up(self) -> None:
        """What is imported here is all that is needed."""
        keep_freed_memory()

    def __call__(self, span: dict[str, Any]) -> dict[str, Any]:
        """{"shard", "start", "stop"} -> what was done, for the driver."""
        torch.set_num_threads(1)
        index, start, stop = int(span["shard"]), int(span["start"]), int(span["stop"])
        device = assigned_device()
        bad = [row - start for row in self.bad_rows if start <= row < stop]
        keep = np.delete(np.arange(stop - start), bad)
        here = origin_of(device)
        todo = [
            (entry, self._zeros(entry, len(keep), device))
            for entry in self.entries
            if not entry.where.has_shard(index, self.count, len(keep), here)
        ]
        for i, layer in enumerate(self.layers):
            sums = [item for item in todo if item[0].mean_squares.get(layer.name)]
            if not sums:
                continue
            if sums[0][0].columns is None:  # all have the same landmarks, and so the same weight
                weight = 1 / sums[0][0].mean_squares[layer.name]
                for top, products in self._products(i, layer, start, stop, keep, device, weight):
                    for _, total in sums:
                        total[top : top + len(products)] += products
            else:
                for top, products in self._products(i, layer, start, stop, keep, device, 1.0):
                    for entry, total in sums:
                        own = products[:, torch.from_numpy(entry.columns).to(device)]
                        weight = 1 / entry.mean_squares[layer.name]
                        total[top : top + len(own)].add_(own, alpha=weight)
        for entry, products in todo:
            entry.where.write_shard(index, self.count, {COLUMN: products.cpu().numpy()}, here)
        return {"shard": index, "rows": len(keep)}

    def _zeros(self, entry: ProductEntry, rows: int, device: torch.device) -> torch.Tensor:
        count = self.num_landmarks if entry.columns is None else len(entry.columns)
        return torch.zeros(rows, count, device=device)

    def _products(
        self,
        index: int,
        layer: Layer,
        start: int,
        stop: int,
        keep: np.ndarray,
        device: torch.device,
        weight: float,
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """First row and (rows, landmarks) float32 of one layer, one piece after the other."""
        own = FactorBatch(
            self._read(layer.down, self.tensors[layer.down], start, stop, keep, device),
            self._read(layer.up, self.tensors[layer.up], start, stop, keep, device),
            None
            if layer.scale is None
            else self._read(layer.scale, (1, 1), start, stop, keep, device).reshape(-1),
        )
        others = read_landmarks(self.landmarks, index, layer, device)
        return layer_products(self.kernel, own, others, weight)

    def _read(
        self,
        column: str,
        shape: tuple[int, int],
        start: int,
        stop: int,
        keep: np.ndarray,
        device: torch.device,
    ) -> torch.Tensor:
        batches = open_reader(self.source).read(start, stop, [column])
        rows = np.concatenate([to_matrices(batch.column(0), shape) for batch in batches])
        return torch.from_numpy(rows[keep]).to(device)


def origin_here() -> dict[str, Any]:
    """What the last bits of coordinates depend on: they are computed by the driver."""
    return origin_of(torch.device("cpu"))
