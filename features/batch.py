"""A batch of matrices and the quantities its representations share, each computed once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from . import kernels

EPSILON = 1e-8
HISTOGRAM_BINS = 50
SINGULAR_VALUE_CUTOFF = 1e-6
"""Singular values below this fraction of the largest are rounding noise of float32 weights."""


class MatrixBatch:
    """A (batch, m, n) float32 tensor with lazily computed, cached shared quantities.

    Everything works on any torch device and never waits for it. Per-matrix quantities are float64
    of shape (batch,) or (batch, k), so that neither tiny nor huge weights under- or overflow:
    bulk arithmetic is done in float32 on matrices scaled by a power of two (an exact operation)
    to a largest entry between 1/2 and 1, and its results are scaled back in float64.

    Arguments:
        matrices: (batch, m, n) float32, finite, m, n ≥ 1.
    """

    def __init__(self, matrices: Tensor) -> None:
        if matrices.ndim != 3 or matrices.dtype != torch.float32:
            raise ValueError(f"need (batch, m, n) float32, got {matrices.shape} {matrices.dtype}")
        self.matrices = matrices
        self.batch, self.m, self.n = matrices.shape
        self.size = self.m * self.n

    # Order statistics

    @cached_property
    def sorted_values(self) -> Tensor:
        """(batch, m·n) float32, ascending."""
        return kernels.sort_rows(self.matrices.reshape(self.batch, self.size))

    @cached_property
    def minimum(self) -> Tensor:
        """(batch,) smallest entry."""
        return self.sorted_values[:, 0].double()

    @cached_property
    def maximum(self) -> Tensor:
        """(batch,) largest entry."""
        return self.sorted_values[:, -1].double()

    @cached_property
    def lower_median(self) -> Tensor:
        """(batch,) entry of rank ⌊(N−1)/2⌋, what `torch.median` returns."""
        return self.sorted_values[:, (self.size - 1) // 2].double()

    def quantiles(self, fractions: Sequence[float]) -> Tensor:
        """(batch, len(fractions)): linear interpolation at position q·(N−1)."""
        device = self.matrices.device
        positions = torch.tensor(fractions, dtype=torch.float64, device=device) * (self.size - 1)
        low = positions.floor()
        index = low.long()
        values = self.sorted_values
        below = values[:, index].double()
        above = values[:, (index + 1).clamp(max=self.size - 1)].double()
        return below + (above - below) * (positions - low)

    # Scaled matrices

    @cached_property
    def scale(self) -> Tensor:
        """(batch,) float64 power of two that, times the scaled matrix, gives the matrix."""
        largest = torch.maximum(self.maximum, -self.minimum).float()
        exponent = torch.frexp(largest).exponent.clamp(-126, 126)
        return torch.ldexp(torch.ones_like(largest, dtype=torch.float64), exponent)

    @cached_property
    def scaled(self) -> Tensor:
        """(batch, m, n) float32: the matrices divided by `scale`."""
        return self.matrices * self.scale.reciprocal().float()[:, None, None]

    # Moments

    @cached_property
    def _centred(self) -> tuple[Tensor, Tensor]:
        """Of the scaled matrices: means (batch,) float64, deviations (batch, m·n) float32."""
        return kernels.centre(self.scaled.reshape(self.batch, self.size))

    @cached_property
    def _power_sums(self) -> tuple[Tensor, ...]:
        """Of the scaled matrices' deviations c, (batch,) each: Σ|c|, Σc², Σc³, Σc⁴."""
        return kernels.power_sums(self._centred[1])

    @cached_property
    def mean(self) -> Tensor:
        """(batch,) mean entry."""
        return self._centred[0] * self.scale

    @cached_property
    def std(self) -> Tensor:
        """(batch,) sample standard deviation (N−1); 0 for a single entry."""
        return (self._power_sums[1] / max(self.size - 1, 1)).sqrt() * self.scale

    @cached_property
    def sum_of_squares(self) -> Tensor:
        """(batch,) Σx²."""
        mean, squares = self._centred[0], self._power_sums[1]
        return (squares + self.size * mean * mean) * self.scale**2

    @cached_property
    def frobenius(self) -> Tensor:
        """(batch,) Frobenius norm."""
        return self.sum_of_squares.sqrt()

    @cached_property
    def mean_absolute_deviation(self) -> Tensor:
        """(batch,) mean |x − mean|."""
        return self._power_sums[0] / self.size * self.scale

    @cached_property
    def skewness(self) -> Tensor:
        """(batch,) mean of ((x − mean)/(std + ε))³."""
        return self._power_sums[2] / self.size * self._standard_unit**3

    @cached_property
    def kurtosis(self) -> Tensor:
        """(batch,) mean of ((x − mean)/(std + ε))⁴; 3 for a normal distribution."""
        return self._power_sums[3] / self.size * self._standard_unit**4

    @cached_property
    def _standard_unit(self) -> Tensor:
        return self.scale / (self.std + EPSILON)

    # Norms and spectra

    @cached_property
    def column_sum_norm(self) -> Tensor:
        """(batch,) ‖W‖₁: the largest column sum of absolute values."""
        return self._absolute.sum(1, dtype=torch.float64).amax(1) * self.scale

    @cached_property
    def row_sum_norm(self) -> Tensor:
        """(batch,) ‖W‖∞: the largest row sum of absolute values."""
        return self._absolute.sum(2, dtype=torch.float64).amax(1) * self.scale

    @cached_property
    def _absolute(self) -> Tensor:
        return self.scaled.abs()

    @cached_property
    def singular_values(self) -> Tensor:
        """(batch, min(m, n)) descending; rounding noise is set to 0."""
        if min(self.m, self.n) == 1:
            return self.frobenius[:, None]
        values = kernels.singular_values(self.scaled if self.m <= self.n else self.scaled.mT)
        noise = values < SINGULAR_VALUE_CUTOFF * values[:, :1]
        return values.masked_fill(noise, 0.0) * self.scale[:, None]

    @cached_property
    def spectrum(self) -> kernels.SpectrumSummary:
        """Of M = |FFT2(W)|, all m·n magnitudes: the 10 largest, mean and population std."""
        mean, deviations = self._centred
        shaped = deviations.reshape(self.batch, self.m, self.n)
        scaled = kernels.summarise_spectrum(shaped, mean, largest=10)
        scale = self.scale
        return kernels.SpectrumSummary(
            scaled.largest * scale[:, None], scaled.mean * scale, scaled.std * scale
        )

    @cached_property
    def spectral_energy(self) -> Tensor:
        """(batch,) ΣM² = N·Σx² (Parseval)."""
        return self.sum_of_squares * self.size

    # Histogram

    @cached_property
    def histogram(self) -> Tensor:
        """(batch, 50) float64 counts over equal bins from minimum to maximum, the last closed.

        The edges are numpy.histogram's; a constant matrix has all its mass in one bin.
        """
        low, high = self.minimum[:, None], self.maximum[:, None]
        device = self.matrices.device
        inner = torch.arange(1, HISTOGRAM_BINS, dtype=torch.float64, device=device)
        edges = inner * ((high - low) / HISTOGRAM_BINS) + low
        below = kernels.count_below(self.sorted_values, edges).double()
        ends = torch.zeros_like(low), torch.full_like(low, self.size)
        return torch.cat([ends[0], below, ends[1]], 1).diff(dim=1)
