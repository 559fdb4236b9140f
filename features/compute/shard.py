"""One shard of the feature stage: reading its matrices, evaluating and writing them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lorasweep.features.common.hardware import assigned_device, hardware_of
from lorasweep.features.common.memory import keep_freed_memory
from lorasweep.features.datasets.sources import Source
from lorasweep.features.layers.pairing import Layer
from lorasweep.features.representations import Representation, Unit, get_representation
from lorasweep.features.representations.evaluate import evaluate_each, matrix_batch

from .batches import DatasetBatches, open_reader
from .cache import CacheEntry

if TYPE_CHECKING:
    import torch


@dataclass
class ShardTask:
    """Computes and writes one shard of every representation; runs in a Ray worker.

    Attributes:
        source: the dataset's files.
        tensors: layer tensor -> (m, n).
        layers: the layers they make up.
        padded: layer tensor -> the column of its own ranks, where adapters are padded.
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
    padded: dict[str, str]
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
        """Import torch and load the compiled loops, by evaluating a tiny matrix and layer."""
        import torch

        from lorasweep.features.numerics.update_batch import UpdateBatch

        keep_freed_memory()
        items: dict[Unit, list[Representation]] = {unit: [] for unit in Unit}
        for entry in self._entries:
            items[entry.item.unit].append(entry.item)
        matrices = torch.zeros(1, 2, 3)
        evaluate_each(matrix_batch(matrices, items[Unit.TENSOR]), items[Unit.TENSOR], {})
        layer = UpdateBatch(["layer"], matrices, matrices.mT.contiguous())
        evaluate_each(layer, items[Unit.LAYER], {})

    def __call__(self, span: dict[str, Any]) -> dict[str, Any]:
        """{"shard", "start", "stop"} -> what was done, for the driver."""
        import torch

        torch.set_num_threads(1)
        index, start, stop = int(span["shard"]), int(span["start"]), int(span["stop"])
        device = assigned_device()
        bad = [row - start for row in self.bad_rows if start <= row < stop]
        keep = np.delete(np.arange(stop - start), bad)
        origin = origin_of(device)
        todo = [e for e in self._entries if not e.has_shard(index, self.count, len(keep), origin)]
        failed: dict[str, str] = {}
        values: dict[str, dict[str, np.ndarray]] = {entry.item.name: {} for entry in todo}
        units = {entry.item.unit for entry in todo}
        batches = DatasetBatches(
            partial(open_reader, self.source), self.tensors, self.layers, self.padded
        )
        for batch in batches.read(start, stop, keep if bad else None, units, device):
            wanted = [
                entry.item
                for entry in todo
                if entry.item.unit is batch.unit and entry.item.name not in failed
            ]
            if not wanted:
                continue
            for name, result in batch.evaluate_each(wanted, failed).items():
                for column, part in zip(batch.columns, np.split(result, len(batch.columns))):
                    whole = values[name].setdefault(
                        column, np.empty((len(keep), part.shape[1]), np.float32)
                    )
                    whole[batch.rows] = part
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


def origin_of(device: torch.device) -> dict[str, Any]:
    """What the last bits of a feature depend on besides its matrix."""
    import torch

    return {**vars(hardware_of(device)), "dtype": "float32", "torch": torch.__version__}
