"""A batch of matrices and the quantities its representations share, each computed once.

What needs every entry of a matrix (sorting, summing up, transforming) is done by `_Block`, a few
matrices at a time while they are in the processor's cache; what is worked out from that, a few
numbers per matrix, by `MatrixBatch`, for all matrices together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from . import kernels

EPSILON = 1e-8
HISTOGRAM_BINS = 50
LARGEST_MAGNITUDES = 10
QUANTILES = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
SINGULAR_VALUE_CUTOFF = 1e-6
"""Singular values below this fraction of the largest are rounding noise of float32 weights."""

_BLOCK_ENTRIES = 1 << 18
"""Of a block on the CPU: a megabyte, about what a core's own cache holds."""


class _Block:
    """Some matrices of a batch, and all that needs their entries. Keeps what later steps reuse.

    Arguments:
        matrices: (rows, m, n) float32.
    """

    quantities = ("order", "histogram", "moments", "absolute_sums", "gram", "spectrum")

    def __init__(self, matrices: Tensor) -> None:
        self.rows, m, n = matrices.shape
        self.size = m * n
        # Nothing but the two sums tells a matrix from its transpose, and rows are quicker if long.
        self.tall = m > n
        self.wide = matrices
        if self.tall:
            turned = matrices.reshape(self.rows, 1, m) if n == 1 else matrices.mT
            self.wide = turned.contiguous()

    def compute(self, quantities: Collection[str]) -> None:
        """Compute some quantities now, and drop what they were made from."""
        for name in self.quantities:
            if name in quantities and not (name == "gram" and self.wide.shape[1] == 1):
                getattr(self, name)
        self.__dict__.pop("_sorted", None)
        self.__dict__.pop("_centred", None)

    @cached_property
    def _sorted(self) -> Tensor:
        """(rows, m·n) float32, ascending."""
        return kernels.sort_rows(self.wide.reshape(self.rows, self.size))

    @cached_property
    def order(self) -> Tensor:
        """(rows, 3 + 2·len(QUANTILES)) float32: minimum, maximum, lower median, and the entries
        on either side of every quantile."""
        return kernels.take_columns(self._sorted, _order_columns(self.size))

    @cached_property
    def histogram(self) -> Tensor:
        """(rows, HISTOGRAM_BINS) float64."""
        return kernels.histogram(self._sorted, HISTOGRAM_BINS)

    @cached_property
    def scale(self) -> Tensor:
        """(rows,) float64 power of two that, times the scaled matrix, gives the matrix."""
        largest = torch.maximum(self.order[:, 1], -self.order[:, 0])
        exponent = torch.frexp(largest).exponent.clamp(-126, 126)
        return torch.ldexp(torch.ones_like(largest, dtype=torch.float64), exponent)

    @cached_property
    def _centred(self) -> tuple[Tensor, Tensor]:
        rows = self.wide.reshape(self.rows, self.size)
        return kernels.moments(rows, self.scale.reciprocal())

    @cached_property
    def moments(self) -> Tensor:
        """(rows, 5) float64: of the scaled entries, the mean, and of the deviations c from it,
        Σ|c|, Σc², Σc³ and Σc⁴."""
        return self._centred[0]

    @cached_property
    def absolute_sums(self) -> Tensor:
        """(rows, 2) float64: largest column sum and largest row sum of absolute values."""
        sums = kernels.absolute_sums(self.wide)
        return sums.flip(1) if self.tall else sums

    @cached_property
    def gram(self) -> Tensor:
        """(rows, r, r) float64 with r = min(m, n): W·Wᵀ or Wᵀ·W, its lower triangle."""
        return kernels.gram(self.wide)

    @cached_property
    def spectrum(self) -> Tensor:
        """(rows, LARGEST_MAGNITUDES + 2) float64: of the scaled matrices' |FFT2|, the largest,
        descending, the mean and the population standard deviation."""
        deviations = self._centred[1].reshape(self.wide.shape)
        return kernels.summarise_spectrum(deviations, self.moments[:, 0], LARGEST_MAGNITUDES)


@cache
def _order_columns(size: int) -> Tensor:
    """The ranks that `_Block.order` takes of `size` sorted entries."""
    columns = [0, size - 1, (size - 1) // 2]
    for low, _ in _quantile_ranks(size):
        columns += [low, min(low + 1, size - 1)]
    return torch.tensor(columns)


def _quantile_ranks(size: int) -> list[tuple[int, float]]:
    """Where each quantile lies among `size` sorted entries, at position q·(size − 1): the rank
    below, and the fraction of the way to the next."""
    positions = [q * (size - 1) for q in QUANTILES]
    return [(int(position), position - int(position)) for position in positions]


class MatrixBatch:
    """A (batch, m, n) float32 tensor with lazily computed, cached shared quantities.

    Everything works on any torch device. Per-matrix quantities are float64 of shape (batch,) or
    (batch, k), so that neither tiny nor huge weights under- or overflow: what is done in float32
    is done on matrices scaled by a power of two (an exact operation) to a largest entry between
    1/2 and 1, and its results are scaled back in float64.

    Arguments:
        matrices: (batch, m, n) float32, finite, m, n ≥ 1.
        quantities: quantities of `_Block` to compute at once; others are computed when asked for.
    """

    def __init__(self, matrices: Tensor, quantities: Collection[str] = ()) -> None:
        if matrices.ndim != 3 or matrices.dtype != torch.float32:
            raise ValueError(f"need (batch, m, n) float32, got {matrices.shape} {matrices.dtype}")
        self.matrices = matrices
        self.batch, self.m, self.n = matrices.shape
        self.size = self.m * self.n
        rows = self.batch
        if kernels.is_native(matrices):
            rows = max(1, _BLOCK_ENTRIES // max(1, self.size))
        self._blocks = []
        for part in matrices.split(max(1, rows)):
            block = _Block(part)
            block.compute(quantities)
            self._blocks.append(block)
        self._gathered: dict[str, Tensor] = {}

    @property
    def used(self) -> frozenset[str]:
        """The quantities of `_Block` that were asked for so far."""
        return frozenset(self._gathered)

    def _gather(self, name: str) -> Tensor:
        """A quantity of all blocks, one after the other."""
        if name not in self._gathered:
            parts: list[Any] = [getattr(block, name) for block in self._blocks]
            self._gathered[name] = torch.cat(parts)
        return self._gathered[name]

    # Order statistics

    @cached_property
    def minimum(self) -> Tensor:
        """(batch,) smallest entry."""
        return self._gather("order")[:, 0].double()

    @cached_property
    def maximum(self) -> Tensor:
        """(batch,) largest entry."""
        return self._gather("order")[:, 1].double()

    @cached_property
    def lower_median(self) -> Tensor:
        """(batch,) entry of rank ⌊(N−1)/2⌋, what `torch.median` returns."""
        return self._gather("order")[:, 2].double()

    @cached_property
    def _quantiles(self) -> Tensor:
        """(batch, len(QUANTILES)): linear interpolation at position q·(N−1)."""
        neighbours = self._gather("order")[:, 3:].double()
        below, above = neighbours[:, 0::2], neighbours[:, 1::2]
        way = [fraction for _, fraction in _quantile_ranks(self.size)]
        return below + (above - below) * torch.tensor(way, dtype=below.dtype, device=below.device)

    def quantiles(self, fractions: Sequence[float]) -> Tensor:
        """(batch, len(fractions)): some of QUANTILES."""
        return self._quantiles[:, [QUANTILES.index(fraction) for fraction in fractions]]

    @cached_property
    def histogram(self) -> Tensor:
        """(batch, 50) float64 counts over equal bins from minimum to maximum, the last closed."""
        return self._gather("histogram")

    # Moments

    @cached_property
    def _scale(self) -> Tensor:
        """(batch,) power of two that brings the largest entry between 1/2 and 1 if divided by."""
        return self._gather("scale")

    @cached_property
    def _moments(self) -> tuple[Tensor, ...]:
        """Of the scaled matrices: mean, Σ|c|, Σc², Σc³, Σc⁴."""
        return self._gather("moments").unbind(1)

    @cached_property
    def mean(self) -> Tensor:
        """(batch,) mean entry."""
        return self._moments[0] * self._scale

    @cached_property
    def std(self) -> Tensor:
        """(batch,) sample standard deviation (N−1); 0 for a single entry."""
        return (self._moments[2] / max(self.size - 1, 1)).sqrt() * self._scale

    @cached_property
    def sum_of_squares(self) -> Tensor:
        """(batch,) Σx²."""
        mean, squares = self._moments[0], self._moments[2]
        return (squares + self.size * mean * mean) * self._scale**2

    @cached_property
    def frobenius(self) -> Tensor:
        """(batch,) Frobenius norm."""
        return self.sum_of_squares.sqrt()

    @cached_property
    def mean_absolute_deviation(self) -> Tensor:
        """(batch,) mean |x − mean|."""
        return self._moments[1] / self.size * self._scale

    @cached_property
    def skewness(self) -> Tensor:
        """(batch,) mean of ((x − mean)/(std + ε))³."""
        return self._moments[3] / self.size * self._standard_unit**3

    @cached_property
    def kurtosis(self) -> Tensor:
        """(batch,) mean of ((x − mean)/(std + ε))⁴; 3 for a normal distribution."""
        return self._moments[4] / self.size * self._standard_unit**4

    @cached_property
    def _standard_unit(self) -> Tensor:
        return self._scale / (self.std + EPSILON)

    # Norms and spectra

    @cached_property
    def column_sum_norm(self) -> Tensor:
        """(batch,) ‖W‖₁: the largest column sum of absolute values."""
        return self._gather("absolute_sums")[:, 0]

    @cached_property
    def row_sum_norm(self) -> Tensor:
        """(batch,) ‖W‖∞: the largest row sum of absolute values."""
        return self._gather("absolute_sums")[:, 1]

    @cached_property
    def singular_values(self) -> Tensor:
        """(batch, min(m, n)) descending; rounding noise is set to 0."""
        if min(self.m, self.n) == 1:
            return self.frobenius[:, None]
        values = kernels.singular_values(self.matrices, self._gather("gram"))
        return values.masked_fill(values < SINGULAR_VALUE_CUTOFF * values[:, :1], 0.0)

    @cached_property
    def _spectrum(self) -> Tensor:
        return self._gather("spectrum") * self._scale[:, None]

    @cached_property
    def largest_magnitudes(self) -> Tensor:
        """(batch, 10) of M = |FFT2(W)|, all m·n magnitudes: the largest, descending, 0-padded."""
        return self._spectrum[:, :-2]

    @cached_property
    def mean_magnitude(self) -> Tensor:
        """(batch,) mean of M."""
        return self._spectrum[:, -2]

    @cached_property
    def std_magnitude(self) -> Tensor:
        """(batch,) population standard deviation of M (divides by N)."""
        return self._spectrum[:, -1]

    @cached_property
    def spectral_energy(self) -> Tensor:
        """(batch,) ΣM² = N·Σx² (Parseval)."""
        return self.sum_of_squares * self.size
