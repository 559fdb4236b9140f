"""What every trial keeps in memory, whichever classifier it fits."""

from __future__ import annotations

from .base import DataSize

FLOAT = 4
"""Bytes of a feature."""

GPU_CONTEXT_BYTES = 1 << 30
"""Set aside for what every process keeps on a GPU besides its tensors: the CUDA context, the
kernels' code, cuBLAS's workspace, the allocator's fragments."""

_COLUMNS_AT_A_TIME = 256
_PROCESS_BYTES = 768 << 20
"""The interpreter and the libraries of a trial worker, which take most of it."""


def data_bytes(size: DataSize) -> int:
    """Bytes of the three splits and the labels."""
    return size.n_samples * (size.n_features * FLOAT + 8)


def base_host_bytes(size: DataSize) -> int:
    """Bytes of main memory of a worker that has just prepared a trial's data.

    The process; the matrix, and its validation and test splits, which are copied out of it and take
    less; a few columns of it in float64, three times.
    """
    columns = 3 * 8 * size.n_samples * min(size.n_features, _COLUMNS_AT_A_TIME)
    return 2 * data_bytes(size) + columns + _PROCESS_BYTES
