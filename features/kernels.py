"""The few bulk operations, one per shared quantity, fast on the CPU and on any torch device.

On the CPU, NumPy's vectorised sort and partition are several times faster than torch's; elsewhere
torch's own are used. Nothing here knows of representations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_BLOCK_ENTRIES = 1 << 16
"""Entries handled at a time on the CPU, so that temporaries stay in the second-level cache."""


def sort_rows(values: Tensor) -> Tensor:
    """(batch, N) float32 -> the same, each row ascending."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def largest_in_rows(values: Tensor, k: int) -> Tensor:
    """(batch, N) -> (batch, k): the k largest of each row, in no particular order; k ≤ N."""
    n = values.shape[1]
    if k == n:
        return values
    if values.device.type == "cpu":
        return torch.from_numpy(np.partition(values.numpy(), n - k, axis=1)[:, n - k :])
    return values.topk(k, dim=1).values


def count_below(ascending: Tensor, edges: Tensor) -> Tensor:
    """How many entries of each row lie strictly below each edge.

    Arguments:
        ascending: (batch, N) float32, sorted.
        edges: (batch, k) float64, ascending.

    Returns:
        (batch, k) int64.
    """
    # x < edge holds for float32 x exactly when x < the smallest float32 that is ≥ edge.
    nearest = edges.float()
    upward = torch.nextafter(nearest, torch.full_like(nearest, torch.inf))
    return torch.searchsorted(ascending, torch.where(nearest.double() < edges, upward, nearest))


def centre(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, N) float32 -> (batch,) float64 means and (batch, N) float32 deviations from them."""
    mean = rows.sum(1, keepdim=True, dtype=torch.float64) / rows.shape[1]
    # Subtracting the float64 mean as two float32 parts keeps the deviations accurate where
    # they are much smaller than the mean.
    upper = mean.float()
    return mean[:, 0], (rows - upper).sub_((mean - upper).float())


def power_sums(deviations: Tensor) -> tuple[Tensor, ...]:
    """Σ|c|, Σc², Σc³ and Σc⁴ of every row; (batch,) float64 each.

    Arguments:
        deviations: (batch, N) float32 of magnitude at most around 1, so that fourth powers fit.
    """

    def sums(c: Tensor) -> Tensor:
        square = c * c
        terms = (c.abs(), square, square * c, square * square)
        return torch.stack([term.sum(1, dtype=torch.float64) for term in terms])

    return torch.cat([sums(block) for block in _row_blocks(deviations)], 1).unbind()


def singular_values(wide: Tensor) -> Tensor:
    """(batch, r, n) float32, r ≤ n -> (batch, r) float64, descending.

    Of the triangular factor of Wᵀ, in float64: about as fast as the eigenvalues of W·Wᵀ, without
    squaring the condition number, which would spoil gaps between the smallest values.
    """
    factors = [torch.linalg.qr(block.double().mT, mode="r").R for block in _row_blocks(wide)]
    return torch.linalg.svdvals(torch.cat(factors))


class SpectrumSummary(NamedTuple):
    """Of all N = m·n magnitudes of a two-dimensional Fourier transform."""

    largest: Tensor
    """(batch, k) float64, descending, zero-padded where N < k."""
    mean: Tensor
    """(batch,) float64."""
    std: Tensor
    """(batch,) float64, population standard deviation (divides by N)."""


def summarise_spectrum(deviations: Tensor, mean: Tensor, largest: int) -> SpectrumSummary:
    """Largest magnitudes, mean and std of |FFT2(W)|, from half the spectrum.

    The mean only enters the zero frequency, as m·n·mean; transforming the deviations from it
    keeps its rounding noise out of all others.

    The transform of a real matrix is conjugate symmetric: along the axis of the real transform,
    every column but the first (and, for an even length, the last) stands for two.

    Arguments:
        deviations: (batch, m, n) float32, entries minus `mean`, of magnitude around 1.
        mean: (batch,) float64.
        largest: how many of the largest magnitudes are wanted.
    """
    batch, m, n = deviations.shape
    # |FFT2(Wᵀ)| = |FFT2(W)|ᵀ, so the longer axis can be the halved one.
    if m > n:
        deviations = deviations.reshape(batch, 1, m) if n == 1 else deviations.mT
        m, n = n, m
    half = magnitudes(torch.fft.rfft2(deviations))  # (batch, m, n // 2 + 1)
    half[:, 0, 0] = (m * n * mean.abs()).float()
    paired = slice(1, (n + 1) // 2)
    single = [0] if n % 2 or n == 1 else [0, n // 2]
    twice = half[:, :, paired].reshape(batch, -1)
    once = half[:, :, single].reshape(batch, -1)
    wide, size = torch.float64, m * n

    average = (2 * twice.sum(1, dtype=wide) + once.sum(1, dtype=wide)) / size
    squares = [
        (part - average.float()[:, None]).square().sum(1, dtype=wide) for part in (twice, once)
    ]
    std = ((2 * squares[0] + squares[1]) / size).sqrt()

    # The k largest of the whole need only ⌈k/2⌉ of those that count twice.
    pairs = largest_in_rows(twice, min((largest + 1) // 2, twice.shape[1]))
    singles = largest_in_rows(once, min(largest, once.shape[1]))
    candidates = torch.cat([pairs, pairs, singles], 1).sort(dim=1, descending=True).values
    padding = (0, max(largest - candidates.shape[1], 0))
    top = torch.nn.functional.pad(candidates[:, :largest].double(), padding)
    return SpectrumSummary(top, average, std)


def magnitudes(values: Tensor) -> Tensor:
    """Absolute values of complex numbers; float32 for complex64."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.abs(values.numpy()))
    return values.abs()


def _row_blocks(values: Tensor) -> tuple[Tensor, ...]:
    if values.device.type != "cpu":
        return (values,)
    rows = max(1, _BLOCK_ENTRIES // max(1, values[0].numel()))
    return values.split(rows)
