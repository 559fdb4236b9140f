"""95 % intervals: of bootstrap replicates, and exact ones where those have too little spread."""

from __future__ import annotations

import numpy as np

from .bootstrap import Floats

CONFIDENCE = 0.95
_FEW = 8
"""Adapters that are right, or that are wrong, below which a bootstrap understates the spread."""
NO_SPREAD = 1e-12


def interval(replicates: Floats) -> tuple[float, float]:
    """The central 95 % of bootstrap replicates (percentile interval)."""
    low, high = np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def accuracy_interval(mean: float, n: int, replicates: Floats) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy.

    A bootstrap of adapters that are all right has no spread, and with few that are wrong it has too
    little. There the interval reaches at least as far as the exact one of a binomial share (Clopper
    and Pearson, Biometrika, 1934).

    Arguments:
        mean: the accuracy, a mean over fits, 0 to 1.
        n: independent test adapters of a fit; with groups, their groups.
        replicates: bootstrap replicates of the mean.
    """
    low, high = interval(replicates)
    if n * min(mean, 1 - mean) >= _FEW:
        return low, high
    exact_low, exact_high = exact_interval(mean * n, n)
    return min(low, exact_low), max(high, exact_high)


def exact_interval(hits: float, n: int) -> tuple[float, float]:
    """Return Clopper and Pearson's 95 % interval of a share; `hits` may be a mean over fits."""
    from scipy import stats

    tail = (1 - CONFIDENCE) / 2
    low = float(stats.beta.ppf(tail, hits, n - hits + 1)) if hits > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, n - hits)) if hits < n else 1.0
    return low, high


def difference_interval(n: int, replicates: Floats) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two paired accuracies.

    Where the two differ on no adapter, the interval is as wide as what the exact one of a share
    without a hit allows either of them to be better by.

    Arguments:
        n: independent test adapters of a fit; with groups, their groups.
        replicates: bootstrap replicates of the difference.
    """
    low, high = interval(replicates)
    if np.ptp(replicates) > NO_SPREAD:
        return low, high
    _, reach = exact_interval(0, n)
    return max(-1.0, low - reach), min(1.0, high + reach)
