"""Loops over updates' factors on the CPU, compiled by Numba; `sketches` has the same in torch."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import numpy as np

from .jit import compiled

_LANES = 8
"""Rows folded side by side: place and sign of a channel are read once for all of them, and what
they are added to, one cache line, is read and written at once."""


@compiled(error_model="numpy")
def fold(values, places, signs, folded):
    """Add up the channels of every row, each with its sign, at their places.

    Arguments:
        values: (rows, channels) float32 or float64.
        places: (channels,) int64, below D.
        signs: (channels,) float64.
        folded: (rows, D) float64, written.
    """
    rows, channels = values.shape
    sums = np.empty((folded.shape[1], _LANES))
    for start in range(0, rows, _LANES):
        sums[:] = 0.0
        # Past the end of the rows, the last ones again.
        first = max(min(start, rows - _LANES), 0)
        if rows >= _LANES:
            own = values[first : first + _LANES]
            for channel in range(channels):
                total, sign = sums[places[channel]], signs[channel]
                for lane in range(_LANES):
                    total[lane] += sign * own[lane, channel]
        else:
            for channel in range(channels):
                total, sign = sums[places[channel]], signs[channel]
                for lane in range(rows):
                    total[lane] += sign * values[lane, channel]
        for lane in range(min(_LANES, rows)):
            for place in range(folded.shape[1]):
                folded[first + lane, place] = sums[place, lane]


@compiled(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def row_sums(values, sums):
    """(rows, channels) float32; (rows,) float64 is written."""
    for i in range(values.shape[0]):
        total = 0.0
        for channel in range(values.shape[1]):
            total += np.float64(values[i, channel])
        sums[i] = total
