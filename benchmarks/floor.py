"""The least that the feature stage can cost: one sort and one FFT of every matrix.

Each of as many processes as the stage has takes its share of the dataset's rows. A block of rows
is copied into memory first; only `numpy.sort` and `scipy.fft.rfft2` of it are timed.
"""

from __future__ import annotations

import multiprocessing
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import scipy.fft

from lorasweep.features.datasets.columns import to_matrices
from lorasweep.features.datasets.reader import TableReader

_BLOCK_BYTES = 400_000_000


def measure_floor(dataset: Path, layers: dict[str, tuple[int, int]], processes: int) -> float:
    """Seconds that sorting and transforming every matrix takes the slowest process."""
    rows = TableReader(sorted(dataset.glob("*.arrow"))).num_rows
    edges = np.linspace(0, rows, processes + 1).astype(int)
    spans = [(dataset, layers, int(a), int(b)) for a, b in pairwise(edges)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return max(pool.starmap(_sort_and_transform, spans, chunksize=1))


def _sort_and_transform(
    dataset: Path, layers: dict[str, tuple[int, int]], start: int, stop: int
) -> float:
    reader = TableReader(sorted(dataset.glob("*.arrow")))
    per_row = 4 * sum(m * n for m, n in layers.values())
    step = max(1, min(1024, _BLOCK_BYTES // per_row))
    seconds = 0.0
    for first in range(start, stop, step):
        block = {
            layer: np.concatenate(
                [
                    to_matrices(batch.column(0), shape)
                    for batch in reader.read(first, min(first + step, stop), [layer])
                ]
            ).copy()
            for layer, shape in layers.items()
        }
        began = time.perf_counter()
        for matrices in block.values():
            np.sort(matrices.reshape(len(matrices), -1), axis=1)
            scipy.fft.rfft2(matrices)
        seconds += time.perf_counter() - began
    return seconds
