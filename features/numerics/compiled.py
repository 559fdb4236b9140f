"""Loops over matrices on the CPU, compiled by Numba: one pass where array operations need many.

Called by `kernels`, which has the same in torch for other devices. Each row is worked on while it
is in the first-level cache; sums are float64. The machine code is kept beside this file, or in
Numba's cache folder, where that is read-only: only the first process ever waits for it.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import numpy as np

from .jit import compiled

# Reductions may be reordered, which is what lets them use vector instructions; all is finite.
_compiled = compiled(error_model="numpy", fastmath={"reassoc", "contract", "nsz", "nnan"})


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


_LANES = 32
"""Matrices whose eigenvalues are worked out side by side: enough to hide how long a division takes,
few enough for the processor's cache. A constant, so that loops need no code for remainders."""

_SMALLEST = 1e-290
"""Matrices with smaller entries are not scaled up further, which would overflow."""

_NONZERO = 1e-75
"""Stands for smaller numbers where they are divided by: its square does not underflow, and beside
numbers around 1 it is nothing."""

_MOST_STEPS = 40
"""Per eigenvalue; it usually takes two or three."""

_UNCOUPLED = 2.0**-106
"""An off-diagonal is neglected if its square is below this part of its neighbours' product on the
diagonal, as in LAPACK: with a smaller part, two equal eigenvalues could swap places for ever."""


@_compiled
def eigenvalues(matrices, values):
    """Eigenvalues of symmetric positive semidefinite matrices.

    Householder reflections and a QL iteration, as in LAPACK, but with matrices side by side along
    the last axis (the lanes): the steps of one matrix depend on each other, those of many do not,
    so that all loops over lanes become vector instructions.

    Arguments:
        matrices: (batch, r, r) float64; what is above the diagonal is not read.
        values: (batch, r) float64, written: descending, off by a few roundings of the largest.

    Returns:
        Whether all converged; if not, `values` is not complete.
    """
    batch, r, _ = matrices.shape
    a = np.empty((r, r, _LANES))
    diagonal, squares = np.empty((r, _LANES)), np.empty((r, _LANES))
    scales = np.empty(_LANES)
    bits = scales.view(np.int64)
    for start in range(0, batch, _LANES):
        for lane in range(_LANES):
            # Past the end of the batch, its last matrix again.
            matrix = matrices[min(start + lane, batch - 1)]
            scales[lane] = _SMALLEST
            for i in range(r):
                scales[lane] = max(scales[lane], matrix[i, i])
            # The exponent alone: the power of two below. No entry exceeds the largest of the
            # diagonal, so all scaled ones are below 2.
            bits[lane] &= 0x7FF0000000000000
            unit = 1.0 / scales[lane]
            for i in range(r):
                for j in range(i + 1):
                    a[i, j, lane] = matrix[i, j] * unit
        _tridiagonalise(a, diagonal, squares)
        if not _iterate(diagonal, squares):
            return False
        _sort_descending(diagonal)
        for lane in range(min(_LANES, batch - start)):
            for i in range(r):
                values[start + lane, i] = diagonal[i, lane] * scales[lane]
    return True


@_compiled
def _tridiagonalise(a, diagonal, squares):
    """Make matrices tridiagonal by Householder reflections, from the last row up.

    With v = u ± ‖u‖·e the reflection I − v·vᵀ/h, h = ‖v‖²/2, takes a row u to a multiple of the
    unit vector e; A becomes A − v·wᵀ − w·vᵀ with q = A·v/h and w = q − (qᵀv/2h)·v
    (Golub and Van Loan, Matrix Computations, 8.3.1).

    Arguments:
        a: (r, r, lanes) float64, lower triangles, overwritten.
        diagonal: (r, lanes) float64, written.
        squares: (r, lanes) float64, written but for the last row: squares of the off-diagonals.
    """
    r = a.shape[0]
    q = np.empty((r, _LANES))
    inverse, dot = np.empty(_LANES), np.empty(_LANES)
    for i in range(r - 1, 0, -1):
        v, square = a[i], squares[i - 1]
        for lane in range(_LANES):
            diagonal[i, lane] = v[i, lane]
            square[lane] = 0.0
        for j in range(i):
            for lane in range(_LANES):
                square[lane] += v[j, lane] * v[j, lane]
        if i == 1:
            break
        for lane in range(_LANES):
            end = v[i - 1, lane]
            norm = np.sqrt(square[lane])
            norm = norm if end >= 0 else -norm
            # A row of nothing but tiny entries is not reflected but dropped.
            h = square[lane] + end * norm
            inverse[lane] = 1.0 / h if square[lane] > _NONZERO**2 else 0.0
            v[i - 1, lane] = end + norm
            dot[lane] = 0.0
        for j in range(i):
            row, out, x = a[j], q[j], v[j]
            for lane in range(_LANES):
                out[lane] = row[j, lane] * x[lane]
            for k in range(j):
                for lane in range(_LANES):
                    out[lane] += row[k, lane] * v[k, lane]
                    q[k, lane] += row[k, lane] * x[lane]
        for j in range(i):
            for lane in range(_LANES):
                q[j, lane] *= inverse[lane]
                dot[lane] += q[j, lane] * v[j, lane]
        for j in range(i):
            row, w, x = a[j], q[j], v[j]
            for lane in range(_LANES):
                w[lane] -= 0.5 * inverse[lane] * dot[lane] * x[lane]
            for k in range(j + 1):
                for lane in range(_LANES):
                    row[k, lane] -= x[lane] * q[k, lane] + w[lane] * v[k, lane]
    for lane in range(_LANES):
        diagonal[0, lane] = a[0, 0, lane]


@_compiled
def _iterate(diagonal, squares):
    """Make tridiagonal matrices diagonal by QL steps without roots.

    All lanes go on until the last has converged; what more steps do to the others is another
    similarity transformation. The step is Pal's, Walker's and Kahan's (Parlett, The Symmetric
    Eigenvalue Problem, 8.15), with Wilkinson's shift.

    Arguments:
        diagonal: (r, lanes) float64, about 1 or smaller; the eigenvalues are written.
        squares: (r, lanes) float64: squares of the off-diagonals (the last is for scratch).

    Returns:
        Whether all converged.
    """
    r = diagonal.shape[0]
    shift, gamma = np.empty(_LANES), np.empty(_LANES)
    p, sine = np.empty(_LANES), np.empty(_LANES)
    last = r - 1  # what comes after is decoupled in all lanes
    for first in range(r - 1):
        steps = 0
        while _are_coupled(diagonal, squares, first):
            if steps == _MOST_STEPS:
                return False
            steps += 1
            while last > first + 1 and not _are_coupled(diagonal, squares, last - 1):
                last -= 1
            for lane in range(_LANES):
                d, square = diagonal[first, lane], squares[first, lane]
                half = 0.5 * (diagonal[first + 1, lane] - d)
                root = np.sqrt(half * half + square) + _NONZERO
                away = square / (root + abs(half))
                shift[lane] = d - away if half >= 0 else d + away
                g = diagonal[last, lane] - shift[lane]
                g = g if abs(g) > _NONZERO else _NONZERO
                gamma[lane], p[lane], sine[lane] = g, g * g, 0.0
            for i in range(last - 1, first - 1, -1):
                for lane in range(_LANES):
                    d, square = diagonal[i, lane], squares[i, lane]
                    r2 = p[lane] + square
                    squares[i + 1, lane] = sine[lane] * r2
                    c, s = p[lane] / r2, square / r2
                    g = c * (d - shift[lane]) - s * gamma[lane]
                    g = g if abs(g) > _NONZERO else _NONZERO
                    diagonal[i + 1, lane] = gamma[lane] + (d - g)
                    gamma[lane], p[lane], sine[lane] = g, g * g / c, s
            for lane in range(_LANES):
                squares[first, lane] = sine[lane] * p[lane]
                diagonal[first, lane] = shift[lane] + gamma[lane]
    return True


@_compiled
def _are_coupled(diagonal, squares, i):
    """Whether in any lane the off-diagonal between i and i + 1 matters, beside its neighbours on
    the diagonal and beside 1, about the size of a matrix's largest entry."""
    count = 0
    for lane in range(_LANES):
        bound = _UNCOUPLED * (1.0 + abs(diagonal[i, lane] * diagonal[i + 1, lane]))
        count += squares[i, lane] > bound
    return count > 0


@_compiled
def _sort_descending(rows):
    """Sort (r, lanes) in place along the first axis, by exchanging neighbours."""
    for end in range(rows.shape[0] - 1, 0, -1):
        for i in range(end):
            for lane in range(_LANES):
                x, y = rows[i, lane], rows[i + 1, lane]
                rows[i, lane], rows[i + 1, lane] = max(x, y), min(x, y)
