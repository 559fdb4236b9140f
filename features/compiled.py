"""Loops over matrices on the CPU, compiled by Numba: one pass where array operations need many.

Called by `kernels`, which has the same in torch for other devices. Each row is worked on while it
is in the first-level cache; sums are float64. The machine code is kept beside this file (or in
Numba's cache folder, where that is read-only), so only the first process ever waits for it.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import numpy as np
from numba import njit

# Reductions may be reordered, which is what lets them use vector instructions; all is finite.
_compiled = njit(cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "nnan"})


@_compiled
def take_columns(rows, columns, taken):
    """(batch, N) float32, (k,) int64 column numbers; (batch, k) float32 is written."""
    for i in range(rows.shape[0]):
        for j in range(columns.size):
            taken[i, j] = rows[i, columns[j]]


@_compiled
def moments(rows, unit, deviations, sums):
    """Mean and deviations of scaled rows, and the deviations' power sums.

    Arguments:
        rows: (batch, N) float32.
        unit: (batch,) float64, what each row is multiplied by.
        deviations: (batch, N) float32, written.
        sums: (batch, 5) float64, written: mean, Σ|c|, Σc², Σc³, Σc⁴.
    """
    for i in range(rows.shape[0]):
        row, out, scale = rows[i], deviations[i], unit[i]
        total = 0.0
        for j in range(row.size):
            total += np.float64(row[j])
        middle = total / row.size
        absolute, second, third, fourth = 0.0, 0.0, 0.0, 0.0
        for j in range(row.size):
            c = (np.float64(row[j]) - middle) * scale
            out[j] = np.float32(c)
            square = c * c
            absolute += abs(c)
            second += square
            third += square * c
            fourth += square * square
        sums[i, 0], sums[i, 1] = middle * scale, absolute
        sums[i, 2], sums[i, 3], sums[i, 4] = second, third, fourth


@_compiled
def absolute_sums(matrices, sums):
    """(batch, m, n) float32; (batch, 2) float64 is written: largest column and row sum of |W|."""
    batch, m, n = matrices.shape
    column_sums = np.empty(n)
    for i in range(batch):
        column_sums[:] = 0.0
        largest = 0.0
        for k in range(m):
            row = matrices[i, k]
            total = 0.0
            for j in range(n):
                value = np.float64(abs(row[j]))
                column_sums[j] += value
                total += value
            largest = max(largest, total)
        sums[i, 0], sums[i, 1] = _maximum(column_sums), largest


@_compiled
def _maximum(values):
    """The largest entry, by folding `values` (which is overwritten) in halves: unlike a running
    maximum, that has no dependency from one entry to the next."""
    length = values.size
    while length > 1:
        half = (length + 1) // 2
        for j in range(length - half):
            other = values[half + j]
            values[j] = other if other > values[j] else values[j]
        length = half
    return values[0]


@_compiled
def histogram(ascending, counts):
    """Counts over equal bins from the smallest to the largest entry, the last one closed.

    All inner edges of a row are searched in step, each halving its own range, so that the loop
    over edges has neither branches nor dependencies.

    Arguments:
        ascending: (batch, N) float32, sorted.
        counts: (batch, bins) float64, written.
    """
    n, bins = ascending.shape[1], counts.shape[1]
    below = np.empty(bins - 1, np.int32)
    edges = np.empty(bins - 1, np.float32)
    bits = edges.view(np.int32)
    for i in range(ascending.shape[0]):
        row = ascending[i]
        low, high = np.float64(row[0]), np.float64(row[n - 1])
        width = (high - low) / bins
        for j in range(bins - 1):
            edge = (j + 1) * width + low
            edges[j] = np.float32(edge)
            # x < edge holds for float32 x exactly when x < the smallest float32 ≥ edge; the next
            # float32 has the next integer's bits.
            if np.float64(edges[j]) < edge:
                bits[j] += 1 if edges[j] >= 0 else -1
        below[:] = 0
        length = n
        while length > 0:
            half = (length + 1) // 2
            for j in range(bins - 1):
                # `below[j]` entries are known to lie below the edge; of the next `length`, look
                # at the one in the middle.
                middle = below[j] + np.int32(half)
                below[j] = middle if row[middle - 1] < edges[j] else below[j]
            length -= half
        previous = np.int32(0)
        for j in range(bins - 1):
            counts[i, j] = below[j] - previous
            previous = below[j]
        counts[i, bins - 1] = n - previous


@_compiled
def gram(matrices, products):
    """The lower triangle of W·Wᵀ, summed up in float64.

    Arguments:
        matrices: (batch, r, n) float32.
        products: (batch, r, r) float64, written below and on the diagonal.
    """
    _, r, n = matrices.shape
    for i in range(matrices.shape[0]):
        rows, product = matrices[i], products[i]
        for p in range(r):
            # Four columns at a time read row p once for all; past the diagonal, the last again.
            for q in range(0, p + 1, 4):
                q1, q2, q3 = min(q + 1, p), min(q + 2, p), min(q + 3, p)
                s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
                for k in range(n):
                    x = np.float64(rows[p, k])
                    s0 += x * np.float64(rows[q, k])
                    s1 += x * np.float64(rows[q1, k])
                    s2 += x * np.float64(rows[q2, k])
                    s3 += x * np.float64(rows[q3, k])
                product[p, q], product[p, q1] = s0, s1
                product[p, q2], product[p, q3] = s2, s3


@_compiled
def summarise_half_spectrum(spectrum, zero, even, summary):
    """Largest values, mean and population std of the magnitudes of a conjugate-symmetric spectrum.

    Arguments:
        spectrum: (batch, m, h) complex64: the half that a real transform computes.
        zero: (batch,) float64, the magnitude at frequency zero.
        even: whether the last column stands for itself only, as the first does.
        summary: (batch, k + 2) float64, written: the k largest, descending and zero-padded, the
            mean and the population standard deviation.
    """
    _, m, h = spectrum.shape
    k = summary.shape[1] - 2
    paired = h - 2 if even else h - 1
    # Of those that count twice, the k largest of the whole need only half as many.
    twice = np.empty(m * paired, np.float32)
    once = np.empty(m * (h - paired), np.float32)
    pairs = np.empty((k + 1) // 2, np.float32)
    top = np.empty(k, np.float32)
    whole = once.size + 2 * twice.size
    for i in range(spectrum.shape[0]):
        total, squares = 0.0, 0.0
        for row in range(m):
            values = spectrum[i, row]
            part = twice[row * paired : (row + 1) * paired]
            for j in range(paired):
                re, im = values[j + 1].real, values[j + 1].imag
                part[j] = np.sqrt(re * re + im * im)
            re, im = values[0].real, values[0].imag
            once[row] = np.sqrt(re * re + im * im)
            if even:
                re, im = values[h - 1].real, values[h - 1].imag
                once[m + row] = np.sqrt(re * re + im * im)
        once[0] = zero[i]
        for j in range(twice.size):
            value = np.float64(twice[j])
            total += value
            squares += value * value
        total, squares = 2 * total, 2 * squares
        for j in range(once.size):
            value = np.float64(once[j])
            total += value
            squares += value * value
        mean = total / whole
        summary[i, k] = mean
        summary[i, k + 1] = np.sqrt(max(squares / whole - mean * mean, 0.0))

        _find_largest(twice, np.float32(mean), pairs)
        for j in range(k):
            top[j] = pairs[j // 2]
        for j in range(once.size):
            _insert(top, once[j])
        summary[i, :k] = top


@_compiled
def _find_largest(values, mean, top):
    """The largest of some nonnegative values, descending and zero-padded.

    Arguments:
        values: (n,) float32.
        mean: about their mean.
        top: (k,) float32, written.
    """
    # Inserting is slow, counting is fast: so first find a bound that few values reach, starting
    # from what normal noise would have.
    low, high = np.float32(0.0), np.float32(np.inf)
    bound = mean * np.float32(0.8 * np.sqrt(2.0 * np.log(max(values.size / (2 * top.size), 2.0))))
    for _ in range(6):
        reached = 0
        for j in range(values.size):
            reached += values[j] >= bound
        if reached < top.size:
            high = bound
            bound = (low + high) / 2
            continue
        low = bound
        if reached <= 3 * top.size:
            break
        bound = (low + high) / 2 if high < np.inf else low * np.float32(1.3)
    top[:] = 0.0
    for start in range(0, values.size, 32):
        stop = min(start + 32, values.size)
        reached = 0
        for j in range(start, stop):
            reached += values[j] >= low
        if reached:
            for j in range(start, stop):
                if values[j] >= low:
                    _insert(top, values[j])


@_compiled
def _insert(top, value):
    """Insert a value into the descending `top`, from which the smallest falls out."""
    if value <= top[-1]:
        return
    at = top.size - 1
    while at > 0 and top[at - 1] < value:
        top[at] = top[at - 1]
        at -= 1
    top[at] = value
