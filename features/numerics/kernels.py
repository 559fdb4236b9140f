"""The few bulk operations, one per shared quantity, on any torch device and fast on the CPU.

On the CPU, compiled loops and NumPy's vectorised sort do the work; elsewhere torch's own
operations, on whole batches; the host waits once, to choose ill-conditioned matrices. Nothing here
knows of representations.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import compiled

_WELL_CONDITIONED = 1e-8
"""Least λ_min/λ_max of W·Wᵀ whose roots are as good as singular values: float64 eigenvalues are
off by about 1e-16·λ_max, so the roots keep a relative error below 1e-7."""

_LARGEST_SIDE_BY_SIDE = 64
"""Largest rank whose eigenvalues the compiled loops find, eight times as fast as LAPACK at 16 and
three times at 64; beyond, what they keep of several matrices at once outgrows the cache."""


def is_native(values: Tensor) -> bool:
    """Whether the compiled loops and NumPy can work on a tensor's memory."""
    return values.device.type == "cpu"


def sort_rows(values: Tensor) -> Tensor:
    """(batch, N) float32 -> the same, each row ascending."""
    if is_native(values):
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def take_columns(rows: Tensor, columns: Tensor) -> Tensor:
    """(batch, N), (k,) column numbers -> (batch, k)."""
    if is_native(rows):
        taken = torch.empty((len(rows), len(columns)), dtype=rows.dtype)
        compiled.take_columns(rows.numpy(), columns.numpy(), taken.numpy())
        return taken
    return rows.index_select(1, columns.to(rows.device))


def histogram(ascending: Tensor, bins: int) -> Tensor:
    """Counts over equal bins from the smallest to the largest entry of each row.

    The edges are numpy.histogram's: half-open bins, the last one closed; if all entries are
    equal, one bin holds them all.

    Arguments:
        ascending: (batch, N) float32, sorted.

    Returns:
        (batch, bins) float64.
    """
    if is_native(ascending):
        counts = torch.empty((len(ascending), bins), dtype=torch.float64)
        compiled.histogram(ascending.numpy(), counts.numpy())
        return counts
    low, high = ascending[:, :1].double(), ascending[:, -1:].double()
    inner = torch.arange(1, bins, dtype=torch.float64, device=ascending.device)
    edges = inner * ((high - low) / bins) + low
    # x < edge holds for float32 x exactly when x < the smallest float32 that is ≥ edge.
    nearest = edges.float()
    upward = torch.nextafter(nearest, torch.full_like(nearest, torch.inf))
    nearest = torch.where(nearest.double() < edges, upward, nearest)
    below = torch.searchsorted(ascending, nearest).double()
    ends = torch.zeros_like(low), torch.full_like(low, ascending.shape[1])
    return torch.cat([ends[0], below, ends[1]], 1).diff(dim=1)


def moments(rows: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Scale rows, split them into mean and deviations, and add up the deviations' powers.

    Arguments:
        rows: (batch, N) float32.
        unit: (batch,) float64 powers of two, what each row is multiplied by, so that its largest
            entry is around 1.

    Returns:
        (batch, 5) float64: mean, Σ|c|, Σc², Σc³, Σc⁴; and (batch, N) float32: the deviations c.
    """
    if is_native(rows):
        sums = torch.empty((len(rows), 5), dtype=torch.float64)
        deviations = torch.empty_like(rows)
        compiled.moments(rows.numpy(), unit.numpy(), deviations.numpy(), sums.numpy())
        return sums, deviations
    scaled = rows * unit.float()[:, None]
    mean = scaled.sum(1, keepdim=True, dtype=torch.float64) / rows.shape[1]
    # Subtracting the float64 mean as two float32 parts keeps the deviations accurate where
    # they are much smaller than the mean.
    upper = mean.float()
    c = (scaled - upper).sub_((mean - upper).float())
    square = c * c
    powers = (c.abs(), square, square * c, square * square)
    totals = [power.sum(1, keepdim=True, dtype=torch.float64) for power in powers]
    return torch.cat([mean, *totals], 1), c


def absolute_sums(matrices: Tensor) -> Tensor:
    """(batch, m, n) float32 -> (batch, 2) float64: the largest column and row sum of |W|."""
    if is_native(matrices):
        sums = torch.empty((len(matrices), 2), dtype=torch.float64)
        compiled.absolute_sums(matrices.numpy(), sums.numpy())
        return sums
    absolute = matrices.abs()
    return torch.stack([absolute.sum(dim, dtype=torch.float64).amax(1) for dim in (1, 2)], 1)


def singular_values(matrices: Tensor, products: Tensor) -> Tensor:
    """Roots of the eigenvalues of W·Wᵀ in float64.

    Squaring doubles the digits that a small singular value lacks, so ill-conditioned matrices
    are done again from their QR factor.

    Arguments:
        matrices: (batch, m, n) float32.
        products: their `gram`.

    Returns:
        (batch, min(m, n)) float64, descending.
    """
    squares = eigenvalues(products)
    values = squares.clamp(min=0).sqrt()
    if matrices.device.type == "meta":
        return values
    poor = (squares[:, -1] < _WELL_CONDITIONED * squares[:, 0]).nonzero()[:, 0]
    tall = matrices[poor].double()
    tall = tall if tall.shape[1] >= tall.shape[2] else tall.mT
    values[poor] = torch.linalg.svdvals(torch.linalg.qr(tall, mode="r").R)
    return values


def eigenvalues(products: Tensor) -> Tensor:
    """(batch, r, r) float64, positive semidefinite, lower triangles -> (batch, r), descending."""
    if is_native(products) and products.shape[1] <= _LARGEST_SIDE_BY_SIDE:
        values = torch.empty(products.shape[:2], dtype=torch.float64)
        if compiled.eigenvalues(products.numpy(), values.numpy()):
            return values
    return torch.linalg.eigvalsh(products).flip(1)


def gram(wide: Tensor) -> Tensor:
    """(batch, r, n) float32, r ≤ n -> (batch, r, r) float64, W·Wᵀ; only the lower triangle."""
    if is_native(wide):
        products = torch.empty((*wide.shape[:2], wide.shape[1]), dtype=torch.float64)
        compiled.gram(wide.numpy(), products.numpy())
        return products
    doubled = wide.double()
    return doubled @ doubled.mT


def summarise_spectrum(deviations: Tensor, mean: Tensor, largest: int) -> Tensor:
    """Largest magnitudes, mean and std of |FFT2(W)|, from half the spectrum.

    The mean only enters the zero frequency, as m·n·mean; transforming the deviations from it
    keeps its rounding noise out of all others.

    The transform of a real matrix is conjugate symmetric: along the axis of the real transform,
    every column but the first (and, for an even length, the last) stands for two.

    Arguments:
        deviations: (batch, m, n) float32, entries minus `mean`, of magnitude around 1.
        mean: (batch,) float64.
        largest: how many of the largest magnitudes are wanted.

    Returns:
        (batch, largest + 2) float64, of all N = m·n magnitudes: the largest, descending and
        zero-padded, their mean, and their population standard deviation (divides by N).
    """
    batch, m, n = deviations.shape
    zero = m * n * mean.abs()
    even = n > 1 and n % 2 == 0
    half = torch.fft.rfft2(deviations)  # (batch, m, n // 2 + 1)
    if is_native(half):
        summary = torch.empty((batch, largest + 2), dtype=torch.float64)
        compiled.summarise_half_spectrum(
            half.contiguous().numpy(), zero.numpy(), even, summary.numpy()
        )
        return summary
    return _summarise_magnitudes(half.abs(), zero, even, largest)


def _summarise_magnitudes(half: Tensor, zero: Tensor, even: bool, k: int) -> Tensor:
    """The same of half the magnitudes, in torch.

    Arguments:
        half: (batch, m, h) float32, overwritten.
        zero: (batch,) float64, the magnitude at frequency zero.
        even: whether the last column stands for itself only, as the first does.
    """
    batch, _, h = half.shape
    half[:, 0, 0] = zero.float()
    stop = h - 1 if even else h
    twice = half[:, :, 1:stop].reshape(batch, -1)
    once = torch.cat([half[:, :, :1], half[:, :, stop:]], 2).reshape(batch, -1)
    size, wide = 2 * twice.shape[1] + once.shape[1], torch.float64
    mean = (2 * twice.sum(1, dtype=wide) + once.sum(1, dtype=wide)) / size
    squares = [(part - mean[:, None].float()).square().sum(1, dtype=wide) for part in (twice, once)]
    std = ((2 * squares[0] + squares[1]) / size).sqrt()
    # The k largest of the whole need only ⌈k/2⌉ of those that count twice.
    pairs = twice.topk(min((k + 1) // 2, twice.shape[1]), dim=1).values
    singles = once.topk(min(k, once.shape[1]), dim=1).values
    candidates = torch.cat([pairs, pairs, singles], 1).sort(dim=1, descending=True).values
    missing = max(k - candidates.shape[1], 0)
    largest = torch.nn.functional.pad(candidates[:, :k].double(), (0, missing))
    return torch.cat([largest, mean[:, None], std[:, None]], 1)
