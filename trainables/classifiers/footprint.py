"""What every trial keeps in memory, whichever classifier it fits."""

from __future__ import annotations

FLOAT = 4
"""Bytes of a feature."""

_COLUMNS_AT_A_TIME = 256
_PROCESS_BYTES = 768 << 20
"""The interpreter and the libraries of a trial worker, which take most of it."""


def data_bytes(n_samples: int, n_features: int) -> int:
    """Bytes of the three standardised splits and the labels."""
    return n_samples * (n_features * FLOAT + 8)


def base_host_bytes(n_samples: int, n_features: int) -> int:
    """Bytes of main memory of a worker that has just prepared a trial's data.

    The process; the matrix as it is read and its three splits, which exist side by side for a
    moment; a few columns of it in float64, three times.
    """
    columns = 3 * 8 * n_samples * min(n_features, _COLUMNS_AT_A_TIME)
    return 2 * data_bytes(n_samples, n_features) + columns + _PROCESS_BYTES
