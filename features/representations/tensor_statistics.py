"""The nine representations of the original experiment: statistics of a layer tensor's entries.

Each maps every (m, n) matrix to a fixed number of values. ε = 1e-8 guards divisions and
logarithms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .base import EPSILON, Compute, Representation, representation, view

if TYPE_CHECKING:
    from torch import Tensor

    from lorasweep.features.numerics.matrix_batch import MatrixBatch


def _of_the_nine(name: str, values: Sequence[str]) -> Callable[[Compute], Representation]:
    return representation(name, version=1, values=values, default=True)


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}_{i}" for i in range(1, count + 1)]


def _columns(*columns: Tensor) -> Tensor:
    """Put (batch,) and (batch, k) tensors side by side."""
    import torch

    return torch.cat([c if c.ndim == 2 else c[:, None] for c in columns], dim=1)


def _entropy(weights: Tensor) -> Tensor:
    """(batch, k) nonnegative weights -> (batch,): −Σ p ln(p + ε), p = weights/(Σ weights + ε)."""
    p = weights / (weights.sum(1, keepdim=True) + EPSILON)
    return -(p * (p + EPSILON).log()).sum(1)


@_of_the_nine("simple_stats", ("frobenius", "mean", "std", "max", "min"))
def simple_stats(w: MatrixBatch) -> Tensor:
    """Frobenius norm, mean, sample std, max, min."""
    return _columns(w.frobenius, w.mean, w.std, w.maximum, w.minimum)


@_of_the_nine(
    "rank_based",
    ("q01", "q05", "q10", "q25", "q50", "q75", "q90", "q95", "q99", "iqr", "q01_to_q99"),
)
def rank_based(w: MatrixBatch) -> Tensor:
    """Nine quantiles, the interquartile range and the 1–99 % range."""
    q = w.quantiles((0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99))
    return _columns(q, q[:, 5] - q[:, 3], q[:, 8] - q[:, 0])


@_of_the_nine("stats", ("mean", "std", "median", "min", "max", "skewness", "kurtosis"))
def stats(w: MatrixBatch) -> Tensor:
    """Mean, sample std, lower median, min, max, skewness, kurtosis (not excess)."""
    return _columns(w.mean, w.std, w.lower_median, w.minimum, w.maximum, w.skewness, w.kurtosis)


@_of_the_nine(
    "spectral",
    (
        *_numbered("sigma", 10),
        *_numbered("share", 10),
        *_numbered("gap", 9),
        "entropy",
        "condition",
        "sum",
    ),
)
def spectral(w: MatrixBatch) -> Tensor:
    """The first 10 singular values S (zero-padded) and what they look like.

    S; S/(ΣS + ε); the 9 gaps (Sᵢ − Sᵢ₊₁)/(Sᵢ + ε); entropy of S/(ΣS + ε); condition number
    σ₁/(σ_q + ε) with q = min(m, n, 10); ΣS.
    """
    from torch.nn.functional import pad

    values = w.singular_values[:, :10]
    smallest = values[:, -1]
    s = pad(values, (0, 10 - values.shape[1]))
    total = s.sum(1)
    gaps = (s[:, :-1] - s[:, 1:]) / (s[:, :-1] + EPSILON)
    condition = s[:, 0] / (smallest + EPSILON)
    return _columns(s, s / (total[:, None] + EPSILON), gaps, _entropy(s), condition, total)


@_of_the_nine(
    "matrix_norms",
    (
        "frobenius",
        "nuclear",
        "spectral",
        "max_column_sum",
        "max_row_sum",
        "nuclear_ratio",
        "spectral_ratio",
    ),
)
def matrix_norms(w: MatrixBatch) -> Tensor:
    """Frobenius, nuclear, spectral, ‖W‖₁, ‖W‖∞; nuclear and spectral relative to Frobenius."""
    nuclear, largest = w.singular_values.sum(1), w.singular_values[:, 0]
    unit = w.frobenius + EPSILON
    return _columns(
        w.frobenius,
        nuclear,
        largest,
        w.column_sum_norm,
        w.row_sum_norm,
        nuclear / unit,
        largest / unit,
    )


@_of_the_nine(
    "distribution",
    (
        "q05",
        "q10",
        "q25",
        "q50",
        "q75",
        "q90",
        "q95",
        "iqr",
        "mean_absolute_deviation",
        "variation",
        "skewness",
        "kurtosis",
    ),
)
def distribution(w: MatrixBatch) -> Tensor:
    """Seven quantiles, IQR, mean absolute deviation, coefficient of variation, skew, kurtosis."""
    q = w.quantiles((0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95))
    variation = w.std / (w.mean.abs() + EPSILON)
    return _columns(
        q, q[:, 4] - q[:, 2], w.mean_absolute_deviation, variation, w.skewness, w.kurtosis
    )


@_of_the_nine("frequency", (*_numbered("magnitude", 10), "mean", "std", "max", "energy_share"))
def frequency(w: MatrixBatch) -> Tensor:
    """Of M = |FFT2(W)|: the 10 largest, mean, population std, max, energy share of the 10."""
    top = w.largest_magnitudes
    energy = top.square().sum(1) / (w.spectral_energy + EPSILON)
    return _columns(top, w.mean_magnitude, w.std_magnitude, top[:, 0], energy)


@_of_the_nine("info_theoretic", ("entropy", "relative_entropy"))
def info_theoretic(w: MatrixBatch) -> Tensor:
    """Entropy of the 50-bin histogram of the entries, and the same relative to ln 50."""
    from math import log

    entropy = _entropy(w.histogram)
    return _columns(entropy, entropy / log(w.histogram.shape[1]))


ensemble = view(
    "ensemble",
    (spectral, matrix_norms, distribution, frequency, info_theoretic),
    default=True,
)
