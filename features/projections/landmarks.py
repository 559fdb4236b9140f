"""The landmarks' layers, as files that workers map into memory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lorasweep.features.datasets.columns import to_matrices
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.datasets.sources import Source
from lorasweep.features.layers.pairing import Layer

from .kernel import FactorBatch
from .plan import Landmarks


def write_landmarks(
    source: Source, scan: DatasetScan, layers: Sequence[Layer], landmarks: Landmarks, folder: Path
) -> None:
    """Write the landmarks' layers as arrays that can be mapped into memory.

    They are for one pass: what an interrupted one left may be torn, and is written again. Rows are
    taken out of the dataset's files where they lie: of float32 columns little else is read.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kept = np.delete(np.arange(scan.num_rows), scan.bad_rows)
    rows = kept[list(landmarks.samples)]
    reader = source.open()
    for i, layer in enumerate(layers):
        for side, name in (("down", layer.down), ("up", layer.up), ("scale", layer.scale)):
            if name is None:
                continue
            shape = (1, 1) if side == "scale" else scan.tensors[name]
            pieces, first = [], 0
            for batch in reader.read(0, scan.num_rows, [name]):
                own = rows[(rows >= first) & (rows < first + batch.num_rows)] - first
                pieces.append(to_matrices(batch.column(0), shape)[own])
                first += batch.num_rows
            np.save(_path(folder, i, side), np.concatenate(pieces))


def read_landmarks(folder: Path, index: int, layer: Layer, device: torch.device) -> FactorBatch:
    """Layer `index` of the landmarks; on a CPU they stay where they are mapped."""

    def part(side: str) -> torch.Tensor:
        # Private pages, since torch has no tensors that cannot be written.
        return torch.from_numpy(np.load(_path(folder, index, side), mmap_mode="c")).to(device)

    scale = None if layer.scale is None else part("scale").reshape(-1)
    return FactorBatch(part("down"), part("up"), scale)


def _path(folder: Path, index: int, side: str) -> Path:
    return folder / f"{index:05}-{side}.npy"
