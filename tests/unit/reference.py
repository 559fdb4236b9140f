"""Float64 reference for nine feature representations of a matrix (a test oracle).

One matrix at a time, written to follow the definitions word for word, not for speed.
Inputs are non-empty, finite 2-D matrices whose entries lie within float32 range.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

EPS = 1e-8
BINS = 50
TOP = 10
FLOAT32_MAX = float(np.finfo(np.float32).max)


def mean_deviations_std(w: Array) -> tuple[float, Array, float]:
    """Mean, all deviations from it, and sample standard deviation (0 when N = 1)."""
    x = w.ravel()
    if x.min() == x.max():  # no rounding residue of the mean may pass for spread
        return float(x[0]), np.zeros_like(x), 0.0
    mean = math.fsum(x) / x.size
    deviations = x - mean
    std = math.sqrt(math.fsum(deviations**2) / (x.size - 1))
    return mean, deviations, std


def skewness_kurtosis(w: Array) -> tuple[float, float]:
    """Third and fourth standardised moments, the fourth not as excess."""
    _, deviations, std = mean_deviations_std(w)
    z = deviations / (std + EPS)
    return float(np.mean(z**3)), float(np.mean(z**4))


def quantile(w: Array, q: float) -> float:
    """Quantile by linear interpolation at position q * (N - 1) of the sorted entries."""
    return float(np.quantile(w.ravel(), q, method="linear"))


def singular_values(w: Array) -> Array:
    """All min(m, n) singular values, descending, those below 1e-6 of the first set to 0."""
    sigma = np.linalg.svd(w, compute_uv=False)
    return np.where(sigma < 1e-6 * sigma[0], 0.0, sigma)


def top_ten(values: Array) -> Array:
    """Ten largest values, descending, padded with zeros when there are fewer."""
    largest = np.sort(values.ravel())[::-1][:TOP]
    return np.concatenate([largest, np.zeros(TOP - largest.size)])


def entropy(weights: Array) -> float:
    """Entropy -sum p ln(p + eps) of p = weights / (sum of weights + eps)."""
    p = weights / (weights.sum() + EPS)
    return float(-np.sum(p * np.log(p + EPS)))


def histogram(w: Array) -> Array:
    """Count entries in 50 equal bins from min to max, or in one bin when all are equal."""
    x = w.ravel()
    if x.min() == x.max():
        return np.array([x.size] + [0] * (BINS - 1), dtype=np.float64)
    if np.any(np.diff(np.linspace(x.min(), x.max(), BINS + 1)) <= 0):
        # Bins narrower than float64 spacing (float64-only inputs): same bins, rescaled.
        x = (x - x.min()) / (x.max() - x.min())
    return np.histogram(x, bins=BINS)[0].astype(np.float64)


def frobenius(w: Array) -> float:
    """Square root of the sum of squared entries."""
    return math.sqrt(np.sum(w**2))


def simple_stats(w: Array) -> Array:
    """Width 5: Frobenius norm, mean, standard deviation, max, min."""
    mean, _, std = mean_deviations_std(w)
    return np.array([frobenius(w), mean, std, w.max(), w.min()])


def rank_based(w: Array) -> Array:
    """Width 11: nine quantiles, q(.75) - q(.25), q(.99) - q(.01)."""
    levels = [0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99]
    q = {level: quantile(w, level) for level in levels}
    return np.array([*q.values(), q[0.75] - q[0.25], q[0.99] - q[0.01]])


def stats(w: Array) -> Array:
    """Width 7: mean, standard deviation, lower median, min, max, skewness, kurtosis."""
    mean, _, std = mean_deviations_std(w)
    lower_median = np.sort(w.ravel())[(w.size - 1) // 2]
    return np.array([mean, std, lower_median, w.min(), w.max(), *skewness_kurtosis(w)])


def spectral(w: Array) -> Array:
    """Width 32: ten singular values, normalised, nine gaps, entropy, condition number, sum."""
    sigma = singular_values(w)
    s = top_ten(sigma)
    gaps = (s[:-1] - s[1:]) / (s[:-1] + EPS)
    q = min(sigma.size, TOP)
    condition = s[0] / (s[q - 1] + EPS)
    return np.concatenate([s, s / (s.sum() + EPS), gaps, [entropy(s), condition, s.sum()]])


def matrix_norms(w: Array) -> Array:
    """Width 7: Frobenius, nuclear, spectral, 1-norm, inf-norm, two ratios to Frobenius."""
    sigma = singular_values(w)
    fro, nuclear, largest = frobenius(w), sigma.sum(), sigma[0]
    one_norm = np.abs(w).sum(axis=0).max()  # largest column sum
    inf_norm = np.abs(w).sum(axis=1).max()  # largest row sum
    ratios = [nuclear / (fro + EPS), largest / (fro + EPS)]
    return np.array([fro, nuclear, largest, one_norm, inf_norm, *ratios])


def distribution(w: Array) -> Array:
    """Width 12: seven quantiles, q(.75) - q(.25), MAD about the mean, CV, skewness, kurtosis."""
    mean, deviations, std = mean_deviations_std(w)
    q = {level: quantile(w, level) for level in [0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95]}
    mad = np.mean(np.abs(deviations))
    cv = std / (abs(mean) + EPS)
    return np.array([*q.values(), q[0.75] - q[0.25], mad, cv, *skewness_kurtosis(w)])


def frequency(w: Array) -> Array:
    """Width 14: ten largest FFT magnitudes, their mean, std, max, top-ten energy ratio."""
    magnitude = np.abs(np.fft.fft2(w))
    top = top_ten(magnitude)
    ratio = np.sum(top**2) / (np.sum(magnitude**2) + EPS)
    population_std = np.std(magnitude, ddof=0)
    return np.concatenate([top, [magnitude.mean(), population_std, magnitude.max(), ratio]])


def info_theoretic(w: Array) -> Array:
    """Width 2: histogram entropy H and H / ln 50."""
    h = entropy(histogram(w))
    return np.array([h, h / math.log(BINS)])


def ensemble(w: Array) -> Array:
    """Width 67: spectral, matrix_norms, distribution, frequency, info_theoretic."""
    parts = [spectral, matrix_norms, distribution, frequency, info_theoretic]
    return np.concatenate([part(w) for part in parts])


def as_reference(feature: Callable[[Array], Array]) -> Callable[[np.ndarray], np.ndarray]:
    """Wrap a feature: input converted to float64, output clipped to float32 range."""

    def reference(matrix: np.ndarray) -> np.ndarray:
        """Evaluate the wrapped feature on one 2-D matrix."""
        values = feature(np.asarray(matrix, dtype=np.float64))
        return np.clip(values, -FLOAT32_MAX, FLOAT32_MAX)

    return reference


def flags(*runs: tuple[int, bool]) -> Bools:
    """Spell out runs of (count, value) as one boolean array."""
    return np.concatenate([np.full(count, value, dtype=np.bool_) for count, value in runs])


FEATURES: list[Callable[[Array], Array]] = [
    simple_stats, rank_based, stats, spectral, matrix_norms,
    distribution, frequency, info_theoretic, ensemble,
]  # fmt: skip

REFERENCE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    feature.__name__: as_reference(feature) for feature in FEATURES
}

DIMENSIONLESS: dict[str, np.ndarray] = {
    "simple_stats": flags((5, False)),
    "rank_based": flags((11, False)),
    "stats": flags((5, False), (2, True)),
    "spectral": flags((10, False), (10 + 9 + 1, True), (2, False)),  # condition number: False
    "matrix_norms": flags((5, False), (2, True)),
    "distribution": flags((9, False), (3, True)),
    "frequency": flags((13, False), (1, True)),
    "info_theoretic": flags((2, True)),
}
_PARTS = ["spectral", "matrix_norms", "distribution", "frequency", "info_theoretic"]
DIMENSIONLESS["ensemble"] = np.concatenate([DIMENSIONLESS[name] for name in _PARTS])
