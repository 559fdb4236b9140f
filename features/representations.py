"""The nine representations: pure functions of a `MatrixBatch`, found by their names.

Each maps every (m, n) matrix to a fixed number of values. ε = 1e-8 guards divisions and
logarithms. Add one by writing a function and decorating it; raise its version when its numbers
change, and everything computed from the old numbers is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from .core.names import check_names

if TYPE_CHECKING:
    from torch import Tensor

    from .batch import MatrixBatch

    Compute = Callable[[MatrixBatch], Tensor]

EPSILON = 1e-8


@dataclass(frozen=True)
class Representation:
    """A named map from a matrix to `width` numbers.

    Attributes:
        name: what users type and results are filed under.
        width: values per layer tensor.
        version: part of cache keys and trial fingerprints.
        compute: (batch, m, n) `MatrixBatch` -> (batch, width) float64; None for a view.
        parts: for a view, the stored representations it puts side by side; else itself alone.
    """

    name: str
    width: int
    version: str
    compute: Compute | None
    parts: tuple[Representation, ...] = ()

    @property
    def stored(self) -> tuple[Representation, ...]:
        """The representations to compute and cache for this one."""
        return self.parts or (self,)


REPRESENTATIONS: dict[str, Representation] = {}
"""Every representation by name, in the order of the documentation."""


def representation(name: str, *, width: int, version: int) -> Callable[[Compute], Compute]:
    """Register a function of a `MatrixBatch` returning (batch, width) float64."""

    def register(compute: Compute) -> Compute:
        REPRESENTATIONS[name] = Representation(name, width, str(version), compute)
        return compute

    return register


def view(name: str, parts: tuple[str, ...]) -> None:
    """Register a representation that is others side by side; it is never computed or stored."""
    of = tuple(REPRESENTATIONS[part] for part in parts)
    version = "+".join(f"{part.name}:{part.version}" for part in of)
    REPRESENTATIONS[name] = Representation(name, sum(p.width for p in of), version, None, of)


def get_representations(names: Sequence[str]) -> list[Representation]:
    """Look representations up by name; unknown or doubled names are a `UserError`."""
    check_names("representation", names, REPRESENTATIONS)
    return [REPRESENTATIONS[name] for name in names]


def stored_representations(wanted: list[Representation]) -> list[Representation]:
    """What must be computed so that all wanted ones can be read, without doubles."""
    return list({part.name: part for item in wanted for part in item.stored}.values())


def _columns(*columns: Tensor) -> Tensor:
    """Put (batch,) and (batch, k) tensors side by side."""
    import torch

    return torch.cat([c if c.ndim == 2 else c[:, None] for c in columns], dim=1)


def _entropy(weights: Tensor) -> Tensor:
    """(batch, k) nonnegative weights -> (batch,): −Σ p ln(p + ε), p = weights/(Σ weights + ε)."""
    p = weights / (weights.sum(1, keepdim=True) + EPSILON)
    return -(p * (p + EPSILON).log()).sum(1)


@representation("simple_stats", width=5, version=1)
def simple_stats(w: MatrixBatch) -> Tensor:
    """Frobenius norm, mean, sample std, max, min."""
    return _columns(w.frobenius, w.mean, w.std, w.maximum, w.minimum)


@representation("rank_based", width=11, version=1)
def rank_based(w: MatrixBatch) -> Tensor:
    """Nine quantiles, the interquartile range and the 1–99 % range."""
    q = w.quantiles((0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99))
    return _columns(q, q[:, 5] - q[:, 3], q[:, 8] - q[:, 0])


@representation("stats", width=7, version=1)
def stats(w: MatrixBatch) -> Tensor:
    """Mean, sample std, lower median, min, max, skewness, kurtosis (not excess)."""
    return _columns(w.mean, w.std, w.lower_median, w.minimum, w.maximum, w.skewness, w.kurtosis)


@representation("spectral", width=32, version=1)
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


@representation("matrix_norms", width=7, version=1)
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


@representation("distribution", width=12, version=1)
def distribution(w: MatrixBatch) -> Tensor:
    """Seven quantiles, IQR, mean absolute deviation, coefficient of variation, skew, kurtosis."""
    q = w.quantiles((0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95))
    variation = w.std / (w.mean.abs() + EPSILON)
    return _columns(
        q, q[:, 4] - q[:, 2], w.mean_absolute_deviation, variation, w.skewness, w.kurtosis
    )


@representation("frequency", width=14, version=1)
def frequency(w: MatrixBatch) -> Tensor:
    """Of M = |FFT2(W)|: the 10 largest, mean, population std, max, energy share of the 10."""
    top = w.largest_magnitudes
    energy = top.square().sum(1) / (w.spectral_energy + EPSILON)
    return _columns(top, w.mean_magnitude, w.std_magnitude, top[:, 0], energy)


@representation("info_theoretic", width=2, version=1)
def info_theoretic(w: MatrixBatch) -> Tensor:
    """Entropy of the 50-bin histogram of the entries, and the same relative to ln 50."""
    from math import log

    entropy = _entropy(w.histogram)
    return _columns(entropy, entropy / log(w.histogram.shape[1]))


view(
    "ensemble",
    parts=("spectral", "matrix_norms", "distribution", "frequency", "info_theoretic"),
)


def evaluate(matrices: Tensor, wanted: list[Representation]) -> dict[str, Tensor]:
    """Compute stored representations of a batch of matrices, sharing all common work.

    Arguments:
        matrices: (batch, m, n) float32, finite.
        wanted: stored representations (not views).

    Returns:
        name -> (batch, width) float32, clipped to float32's range, on the matrices' device.
    """
    import torch

    from .batch import MatrixBatch

    shared = MatrixBatch(matrices, _quantities(tuple(wanted)))
    limit = torch.finfo(torch.float32).max
    values = {}
    for item in wanted:
        assert item.compute is not None, f"{item.name} is a view"
        values[item.name] = item.compute(shared).clamp(-limit, limit).float()
    return values


@cache
def _quantities(wanted: tuple[Representation, ...]) -> frozenset[str]:
    """The shared quantities that some representations ask for, found out on a tiny batch."""
    import torch

    from .batch import MatrixBatch

    tiny = MatrixBatch(torch.ones(1, 2, 2))
    for item in wanted:
        assert item.compute is not None, f"{item.name} is a view"
        # What a representation raises is told when it is evaluated.
        with suppress(Exception):
            item.compute(tiny)
    return tiny.used
