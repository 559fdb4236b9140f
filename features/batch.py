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
    what is done in float32 is done on matrices scaled by a power of two (an exact operation)
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
        below = values.index_select(1, index).double()
        above = values.index_select(1, (index + 1).clamp(max=self.size - 1)).double()
        return below + (above - below) * (positions - low)

    # Scale

    @cached_property
    def largest(self) -> Tensor:
        """(batch,) largest absolute entry."""
        return torch.maximum(self.maximum, -self.minimum)

    @cached_property
    def scale(self) -> Tensor:
        """(batch,) power of two that brings the largest entry between 1/2 and 1 if divided by."""
        exponent = torch.frexp(self.largest).exponent.clamp(-126, 126)
        return torch.ldexp(torch.ones_like(self.largest), exponent)

    # Moments

    @cached_property
    def _moments(self) -> kernels.Moments:
        """Of the scaled matrices."""
        return kernels.moments(
            self.matrices.reshape(self.batch, self.size), self.scale.reciprocal()
        )

    @cached_property
    def mean(self) -> Tensor:
        """(batch,) mean entry."""
        return self._moments.mean * self.scale

    @cached_property
    def std(self) -> Tensor:
        """(batch,) sample standard deviation (N−1); 0 for a single entry."""
        return (self._moments.second / max(self.size - 1, 1)).sqrt() * self.scale

    @cached_property
    def sum_of_squares(self) -> Tensor:
        """(batch,) Σx²."""
        mean, squares = self._moments.mean, self._moments.second
        return (squares + self.size * mean * mean) * self.scale**2

    @cached_property
    def frobenius(self) -> Tensor:
        """(batch,) Frobenius norm."""
        return self.sum_of_squares.sqrt()

    @cached_property
    def mean_absolute_deviation(self) -> Tensor:
        """(batch,) mean |x − mean|."""
        return self._moments.absolute / self.size * self.scale

    @cached_property
    def skewness(self) -> Tensor:
        """(batch,) mean of ((x − mean)/(std + ε))³."""
        return self._moments.third / self.size * self._standard_unit**3

    @cached_property
    def kurtosis(self) -> Tensor:
        """(batch,) mean of ((x − mean)/(std + ε))⁴; 3 for a normal distribution."""
        return self._moments.fourth / self.size * self._standard_unit**4

    @cached_property
    def _standard_unit(self) -> Tensor:
        return self.scale / (self.std + EPSILON)

    # Norms and spectra

    @cached_property
    def column_sum_norm(self) -> Tensor:
        """(batch,) ‖W‖₁: the largest column sum of absolute values."""
        return self._absolute_sums[0]

    @cached_property
    def row_sum_norm(self) -> Tensor:
        """(batch,) ‖W‖∞: the largest row sum of absolute values."""
        return self._absolute_sums[1]

    @cached_property
    def _absolute_sums(self) -> tuple[Tensor, Tensor]:
        if self.n == 1:  # one long row is quicker than many of one entry
            rows, columns = kernels.absolute_sums(self.matrices.reshape(self.batch, 1, self.m))
            return columns, rows
        return kernels.absolute_sums(self.matrices)

    @cached_property
    def singular_values(self) -> Tensor:
        """(batch, min(m, n)) descending; rounding noise is set to 0."""
        if min(self.m, self.n) == 1:
            return self.frobenius[:, None]
        values = kernels.singular_values(self.matrices)
        return values.masked_fill(values < SINGULAR_VALUE_CUTOFF * values[:, :1], 0.0)

    @cached_property
    def spectrum(self) -> kernels.SpectrumSummary:
        """Of M = |FFT2(W)|, all m·n magnitudes: the 10 largest, mean and population std."""
        shaped = self._moments.deviations.reshape(self.matrices.shape)
        scaled = kernels.summarise_spectrum(shaped, self._moments.mean, largest=10)
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
        """(batch, 50) float64 counts over equal bins from minimum to maximum, the last closed."""
        return kernels.histogram(self.sorted_values, HISTOGRAM_BINS)
