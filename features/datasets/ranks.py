"""The ranks that adapters had before a dataset padded their layers to one.

A column `<layer>.rank` says of each adapter how many rows of the layer's A and columns of its B are
its own; the others are zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import xxhash

from lorasweep.features.common.errors import UserError
from lorasweep.features.layers.pairing import Layer, is_down, pair_layers, rank_column

from .columns import flat_values, matrix_shape


def own_ranks(column: str, array: pa.Array) -> np.ndarray:
    """(rows,) int64 of a column of ranks.

    Raises:
        UserError: it holds no whole numbers, or lacks some.
    """
    if not pa.types.is_integer(array.type):
        raise UserError(f"column {column!r} holds {array.type}; a layer's ranks are whole numbers")
    if array.null_count:
        raise UserError(f"column {column!r} has missing values")
    return array.to_numpy(zero_copy_only=False).astype(np.int64)


def own_shapes(tensor: str, shape: tuple[int, int], ranks: np.ndarray) -> np.ndarray:
    """(rows, 2) the shapes (m, n) that a layer tensor had before it was padded.

    Arguments:
        shape: (m, n) it is stored with.
        ranks: (rows,) of its layer.
    """
    shapes = np.tile(np.asarray(shape, np.int64), (len(ranks), 1))
    shapes[:, 0 if is_down(tensor) else 1] = ranks
    return shapes


class RankScan:
    """What a look at a whole dataset finds in its columns of ranks.

    Arguments:
        columns: of ranks, in sorted order. One of a layer of which a tensor is missing, or of which
            the two do not fit each other, is passed over.
        tensors: the dataset's layer tensors.
        lora_rank: see `matrix_shape`.
    """

    def __init__(
        self, columns: Sequence[str], tensors: Sequence[str], lora_rank: int | None
    ) -> None:
        self.columns = list(columns)
        self._tensors, self._lora_rank = tensors, lora_rank
        self._layers: dict[str, Layer] | None = None
        self._hashers = {column: xxhash.xxh3_128() for column in columns}
        self._padded: set[str] = set()

    def update(self, batch: pa.RecordBatch, first_row: int) -> None:
        """Look at some rows.

        Raises:
            UserError: a rank is none, or numbers beyond it are not zero.
        """
        if not self.columns or not batch.num_rows:
            return
        if self._layers is None:
            shapes = {
                name: matrix_shape(name, flat_values(batch.column(name))[1], self._lora_rank)
                for name in self._tensors
            }
            self._layers = {rank_column(layer.name): layer for layer in pair_layers(shapes)}
        for column in self.columns:
            if column in self._layers:
                self._look(column, self._layers[column], batch, first_row)

    def _look(self, column: str, layer: Layer, batch: pa.RecordBatch, first_row: int) -> None:
        ranks, most = own_ranks(column, batch.column(column)), layer.shape[2]
        wrong = np.flatnonzero((ranks < 1) | (ranks > most))
        if len(wrong):
            row = int(wrong[0])
            raise UserError(
                f"column {column!r}, row {first_row + row} is {ranks[row]}; the layer's ranks are "
                f"from 1 to {most}"
            )
        self._hashers[column].update(ranks.tobytes())
        smaller = [int(rank) for rank in np.unique(ranks) if rank < most]
        if not smaller:
            return
        self._padded.add(column)
        outputs, inputs, _ = layer.shape
        for tensor, shape in ((layer.down, (most, inputs)), (layer.up, (outputs, most))):
            matrices = flat_values(batch.column(tensor))[0].reshape(-1, *shape)
            for rank in smaller:
                mine = np.flatnonzero(ranks == rank)
                rest = (matrices[:, rank:] if is_down(tensor) else matrices[..., rank:])[mine]
                # What is not finite is told elsewhere.
                beyond = (np.isfinite(rest) & (rest != 0)).any(axis=(1, 2))
                if beyond.any():
                    row = first_row + int(mine[beyond.argmax()])
                    raise UserError(
                        f"column {tensor!r}, row {row} has numbers beyond its rank, which column "
                        f"{column!r} says is {rank}"
                    )

    def padded(self) -> dict[str, str]:
        """The columns by which an adapter is padded -> a hash of their ranks. One that says the
        rank of the tensors for all adapters is none: it says nothing."""
        return {c: self._hashers[c].hexdigest() for c in self.columns if c in self._padded}


def padded_shapes(
    tensors: Mapping[str, tuple[int, int]],
    columns: Mapping[str, str],
    batches: Collection[pa.RecordBatch],
) -> np.ndarray | None:
    """(tensors, rows, 2) the shapes that some tensors had before they were padded; None: none was.

    Arguments:
        tensors: layer tensor -> (m, n) it is stored with.
        columns: layer tensor -> the column of its ranks, of those that have one.
        batches: record batches that together hold these columns.
    """
    rows = sum(batch.num_rows for batch in batches)
    shapes = np.empty((len(tensors), rows, 2), np.int64)
    for own, (name, shape) in zip(shapes, tensors.items()):
        column = columns.get(name)
        if column is None:
            own[:] = shape
        else:
            ranks = [own_ranks(column, batch.column(column)) for batch in batches]
            own[:] = own_shapes(name, shape, np.concatenate(ranks))
    whole = np.array(list(tensors.values()))[:, None]
    return None if (shapes == whole).all() else shapes
