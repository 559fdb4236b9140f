"""Adapters of a dataset as the files they would be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lorasweep.features.datasets.columns import to_matrices
from lorasweep.features.datasets.shapes import read_shapes
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset


def read_rows(dataset: Path, rows: Iterable[int]) -> list[dict[str, np.ndarray]]:
    """Some adapters' layer tensors, as matrices."""
    source = find_dataset(DatasetRequest(str(dataset)), dataset)
    tensors, _ = read_shapes(source, None)
    batches = list(source.open().read(0, source.open().num_rows, list(tensors)))
    columns = {
        name: np.concatenate([to_matrices(batch.column(name), shape) for batch in batches])
        for name, shape in tensors.items()
    }
    return [{name: values[row] for name, values in columns.items()} for row in rows]


def write_rows(dataset: Path, rows: Iterable[int], folder: Path) -> list[Path]:
    """Some adapters as `.safetensors` files, one each; their paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(rows)
    paths = [folder / f"row-{row:05}.safetensors" for row in rows]
    for path, tensors in zip(paths, read_rows(dataset, rows)):
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)
    return paths
