"""Arrow columns to matrices, through their buffers: no Python object per number."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lorasweep.features.common.errors import UserError
from lorasweep.features.layers.pairing import is_down


class RaggedColumnError(ValueError):
    """Rows of one column have different shapes; `row` is the first that differs (in the array)."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


def flat_values(array: pa.Array) -> tuple[np.ndarray, tuple[int, ...]]:
    """The numbers of a (nested) list column and the shape every row has.

    Arguments:
        array: any nesting of lists, large lists and fixed-size lists (or `datasets`' ArrayND
            extension) over floating-point numbers; without nulls.

    Returns:
        a view of all values, (n_rows · entries,), in their own dtype, and the shape of a row.

    Raises:
        RaggedColumnError: rows differ in shape, or one is null.
        TypeError: the column does not hold floating-point numbers.
    """
    shape: list[int] = []
    rows = len(array)
    per_row = 1
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        kind = array.type
        if array.null_count:
            first = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise RaggedColumnError(first // per_row, "is null")
        if pa.types.is_fixed_size_list(kind):
            length = kind.list_size
            array = array.values.slice(array.offset * length, len(array) * length)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            offsets = array.offsets.to_numpy()
            lengths = np.diff(offsets)
            length = int(lengths[0]) if len(lengths) else 0
            different = np.flatnonzero(lengths != length)
            if len(different):
                at = int(different[0])
                raise RaggedColumnError(
                    at // per_row, f"has a list of {lengths[at]} where others have {length}"
                )
            array = array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))
        else:
            break
        shape.append(length)
        per_row *= max(length, 1)
    if not pa.types.is_floating(kind):
        raise TypeError(f"holds {kind}, not floating-point numbers")
    values = array.to_numpy(zero_copy_only=True)
    assert len(values) == rows * int(np.prod(shape, dtype=np.int64))
    return values, tuple(shape)


def matrix_shape(column: str, shape: tuple[int, ...], lora_rank: int | None) -> tuple[int, int]:
    """(m, n) of a layer tensor whose rows have the given list shape.

    A flat list of N is 1×N or, with a rank R, R×N/R for down and N/R×R for up.

    Raises:
        UserError: it is no matrix, or R does not divide N.
    """
    if len(shape) == 2 and min(shape) > 0:
        return shape[0], shape[1]
    if len(shape) != 1 or shape[0] == 0:
        raise UserError(f"column {column!r} has rows of shape {list(shape)}; need matrices")
    n = shape[0]
    if lora_rank is None:
        return 1, n
    if n % lora_rank:
        raise UserError(f"column {column!r} has {n} numbers a row: no multiple of rank {lora_rank}")
    return (lora_rank, n // lora_rank) if is_down(column) else (n // lora_rank, lora_rank)


def to_matrices(array: pa.Array, shape: tuple[int, int]) -> np.ndarray:
    """(n_rows, m, n) float32 of a layer tensor's column; without a copy where it is float32."""
    values, _ = flat_values(array)
    return values.astype(np.float32, copy=False).reshape(len(array), *shape)


def matrix_type(m: int, n: int) -> pa.DataType:
    """Arrow type of an m×n matrix: fixed-size lists need no offsets."""
    return pa.list_(pa.list_(pa.float32(), n), m)


def matrix_column(matrices: np.ndarray) -> pa.Array:
    """(rows, m, n) float32 -> a column of matrices."""
    _, m, n = matrices.shape
    rows = pa.FixedSizeListArray.from_arrays(pa.array(matrices.reshape(-1)), n)
    return pa.FixedSizeListArray.from_arrays(rows, m)
