"""Features that are read from the dataset itself, because a cache of them would be as large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import file_stamp
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.datasets.sources import Source
from lorasweep.features.layers.pairing import Layer
from lorasweep.features.representations import Representation, Unit, get_representation
from lorasweep.features.representations.base import Shape

from .batches import DatasetBatches, open_reader


def read_matrix(
    batches: DatasetBatches,
    item: Representation,
    columns: Sequence[str],
    rows: int,
    keep: np.ndarray | None = None,
) -> np.ndarray:
    """Evaluate a representation of tensors or layers on a dataset, on the CPU.

    Arguments:
        columns: layer tensors or layers, in the order of the result's columns.
        rows: of the dataset.
        keep: which of them are wanted; None for all.

    Returns:
        (n_samples, n_features) float32: columns side by side, parts of a view within each.
    """
    import torch

    parts = list(item.parts) or [item]
    if item.unit is Unit.LAYER:
        shapes: dict[str, Shape] = {layer.name: layer.shape for layer in batches.layers}
    else:
        shapes = dict(batches.tensors)
    edges = np.cumsum([0, *(item.width(shapes[name]) for name in columns)])
    left_edges = dict(zip(columns, edges.tolist()))
    samples = rows if keep is None else len(keep)
    matrix = np.empty((samples, int(edges[-1])), np.float32)
    for batch in batches.read(0, rows, keep, {item.unit}, torch.device("cpu")):
        found = batch.evaluate(parts)
        values = torch.cat([found[part.name] for part in parts], 1).numpy()
        for column, own in zip(batch.columns, np.split(values, len(batch.columns))):
            left = left_edges[column]
            matrix[batch.rows, left : left + own.shape[1]] = own
    return matrix


@dataclass(frozen=True)
class DatasetMatrix:
    """A representation's values for some columns of a dataset.

    Attributes:
        representation: its reference.
        files: the dataset's, in row order, each as [path, size, modification time in ns].
        tensors: layer tensor -> (m, n), of the columns.
        layers: of the columns, if they are layers.
        rows: adapters in the files, those left out included.
        left_out: which rows are no samples.
        padded: layer tensor -> the column of its own ranks, where adapters are padded.
    """

    representation: str
    files: tuple[tuple[str, int, int], ...]
    tensors: dict[str, tuple[int, int]]
    layers: tuple[Layer, ...]
    rows: int
    left_out: tuple[int, ...]
    padded: dict[str, str] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Layers, or layer tensors, in sorted order of their names."""
        return tuple(sorted(layer.name for layer in self.layers)) or tuple(sorted(self.tensors))

    def load(self) -> np.ndarray:
        """(n_samples, n_features) float32: columns side by side, in sorted order of their names.

        Raises:
            UserError: the files are not those that were scanned.
        """
        paths = tuple(Path(path) for path, _, _ in self.files)
        for path, known in zip(paths, self.files):
            if tuple(file_stamp(path)[:3]) != known:
                raise UserError(f"{path} has changed since the run began; start it again")
        source = Source("", paths)
        batches = DatasetBatches(
            partial(open_reader, source), self.tensors, list(self.layers), self.padded
        )
        keep = np.delete(np.arange(self.rows), self.left_out) if self.left_out else None
        item = get_representation(self.representation)
        return read_matrix(batches, item, self.columns, self.rows, keep)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> DatasetMatrix:
        """What `to_json` made."""
        return cls(
            value["representation"],
            tuple((path, size, time) for path, size, time in value["files"]),
            {name: (m, n) for name, (m, n) in value["tensors"].items()},
            tuple(Layer(**{**item, "shape": tuple(item["shape"])}) for item in value["layers"]),
            value["rows"],
            tuple(value["left_out"]),
            value.get("padded", {}),
        )


def dataset_matrix(
    source: Source, scan: DatasetScan, wanted: Representation, columns: Sequence[str]
) -> DatasetMatrix:
    """Where a representation that is not cached is read from.

    Arguments:
        columns: layer tensors or layers.
    """
    chosen = set(columns)
    layers = [x for x in scan.layers if wanted.unit is Unit.LAYER and x.name in chosen]
    names = chosen.union(*((layer.down, layer.up) for layer in layers))
    return DatasetMatrix(
        wanted.reference,
        tuple((str(path), size, time) for path, size, time, *_ in source.stamps),
        {name: shape for name, shape in scan.tensors.items() if name in names},
        tuple(layers),
        scan.num_rows,
        tuple(scan.bad_rows),
        {name: column for name, column in scan.padded.items() if name in names},
    )
