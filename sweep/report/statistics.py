"""How sure the results are: intervals, paired tests and rankings.

Two sources of chance are kept apart. A *seed* decides initial weights, batch order and dropout;
all seeds of a run share one split, so a test over seeds alone says how sure we are about this
split's numbers, not about new adapters. The hierarchical bootstrap draws seeds and test adapters
anew together and so covers both.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REPLICATES = 2000
CONFIDENCE = 0.95
ALPHA = 0.05


@dataclass(frozen=True)
class Scores:
    """What classifiers predicted for the test adapters.

    Attributes:
        truth: (n_test,) class indices.
        predictions: (n_pairs, n_seeds, n_test) predicted class indices; n_pairs counts whatever is
            compared, (config, representation) pairs for instance.
        n_classes: number of classes.
    """

    truth: NDArray[np.int64]
    predictions: NDArray[np.int64]
    n_classes: int

    def accuracy(self) -> Floats:
        """(n_pairs, n_seeds)."""
        return (self.predictions == self.truth).mean(axis=2)


@dataclass(frozen=True)
class Bootstrap:
    """Means over seeds, in replicates of the experiment with other seeds and test adapters.

    Every replicate draws the same seeds and adapters for all pairs, so differences are paired.

    Attributes:
        accuracy: (replicates, n_pairs).
        macro_f1: (replicates, n_pairs).
    """

    accuracy: Floats
    macro_f1: Floats


def hierarchical_bootstrap(
    scores: Scores, *, replicates: int = REPLICATES, seed: int = 0
) -> Bootstrap:
    """Draw seeds and test adapters with replacement, together.

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993; for two levels of chance,
    Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8.
    """
    rng = np.random.default_rng(seed)
    n_pairs, n_seeds, n_test = scores.predictions.shape
    adapters = rng.multinomial(n_test, np.full(n_test, 1 / n_test), size=replicates)
    weights = adapters.astype(np.float32)
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=replicates) / n_seeds
    flat = scores.predictions.reshape(n_pairs * n_seeds, n_test)

    def totals(indicator: NDArray[np.bool_]) -> Floats:
        """(cases, n_test) -> (replicates, cases): how many of the drawn adapters."""
        return (weights @ indicator.T.astype(np.float32)).astype(np.float64)

    def over_seeds(values: Floats) -> Floats:
        """(replicates, n_pairs · n_seeds) -> (replicates, n_pairs), over the drawn seeds."""
        return np.einsum("bps,bs->bp", values.reshape(replicates, n_pairs, n_seeds), seeds)

    hits = np.zeros((replicates, len(flat)))
    f1_sum, occurring = np.zeros_like(hits), np.zeros_like(hits)
    for label in range(scores.n_classes):
        is_class = scores.truth == label
        chosen = flat == label
        found = totals(chosen & is_class)
        both = totals(chosen) + totals(is_class[None])
        hits += found
        occurs = both > 0
        f1_sum += np.divide(2 * found, both, out=np.zeros_like(found), where=occurs)
        occurring += occurs
    return Bootstrap(over_seeds(hits / n_test), over_seeds(f1_sum / occurring))


def interval(replicates: Floats) -> tuple[float, float]:
    """The central 95 % of bootstrap replicates (percentile interval)."""
    low, high = np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def bootstrap_p(differences: Floats) -> float:
    """Two-sided p-value of a difference: twice the smaller share of replicates on one side of 0.

    Counting the observed experiment as one more replicate keeps it above 0.
    """
    count = len(differences)
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (count + 1)))


def holm(p_values: list[float | None]) -> list[float | None]:
    """Holm's step-down adjustment; undefined p-values stay so and do not count.

    Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    defined = [(p, i) for i, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(sorted(defined)):
        highest = max(highest, min(1.0, (len(defined) - rank) * p))
        adjusted[i] = highest
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """Two lists of per-seed scores on one split, compared seed by seed.

    Attributes:
        difference: mean of first − second.
        low, high: 95 % interval of the hierarchical bootstrap.
        p_bootstrap: of the hierarchical bootstrap: new seeds and new adapters.
        p_seeds: of a paired t-test over seeds: this split only; None if the differences do not
            vary.
        p_wilcoxon: of a Wilcoxon signed-rank test over seeds; None if all differences are 0.
        effect: Cohen's d of the differences over seeds (their mean over their sample standard
            deviation); None if they do not vary.
    """

    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_seeds: float | None
    p_wilcoxon: float | None
    effect: float | None


def compare(first: Floats, second: Floats, replicates: Floats) -> Comparison:
    """Compare paired per-seed scores.

    Arguments:
        first, second: (n_seeds,).
        replicates: bootstrap replicates of the difference of their means.
    """
    from scipy import stats

    differences = first - second
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    varies = spread > 1e-12
    low, high = interval(replicates)
    return Comparison(
        difference=float(differences.mean()),
        low=low,
        high=high,
        p_bootstrap=bootstrap_p(replicates),
        p_seeds=float(stats.ttest_rel(first, second).pvalue) if varies else None,
        p_wilcoxon=(
            float(stats.wilcoxon(differences).pvalue) if np.abs(differences).max() > 1e-12 else None
        ),
        effect=float(differences.mean()) / spread if varies else None,
    )


@dataclass(frozen=True)
class Ranking:
    """Average ranks over seeds and how far apart they must be to count.

    Attributes:
        ranks: (n_pairs,) mean rank, 1 is best; ties share their average.
        critical_difference: ranks further apart than this differ (Nemenyi, α = 0.05).
        p_friedman: of the hypothesis that all rank alike; None if it cannot be computed.
        groups: maximal sets of neighbours in rank that are not distinguishable.
    """

    ranks: Floats
    critical_difference: float
    p_friedman: float | None
    groups: list[list[int]]


def rank_over_seeds(accuracy: Floats) -> Ranking | None:
    """Friedman's test and Nemenyi's critical difference, seeds being the blocks.

    Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", 2006. Blocks here are
    seeds of one split, not data sets: it ranks on this split.

    Arguments:
        accuracy: (n_pairs, n_seeds).

    Returns:
        None with fewer than three pairs or two seeds.
    """
    from scipy import stats

    k, n = accuracy.shape
    if k < 3 or n < 2:
        return None
    ranks = stats.rankdata(-accuracy, axis=0).mean(axis=1)
    quantile = stats.studentized_range.ppf(1 - ALPHA, k, np.inf) / np.sqrt(2)
    critical = float(quantile * np.sqrt(k * (k + 1) / (6 * n)))
    varies = (accuracy != accuracy[0]).any()
    p = float(stats.friedmanchisquare(*accuracy).pvalue) if varies else None
    return Ranking(ranks, critical, p, _groups(ranks, critical))


def _groups(ranks: Floats, critical: float) -> list[list[int]]:
    """Maximal runs, in order of rank, whose ends are at most `critical` apart."""
    order = [int(i) for i in np.argsort(ranks, kind="stable")]
    groups: list[list[int]] = []
    for start in range(len(order)):
        stop = start
        while stop + 1 < len(order) and ranks[order[stop + 1]] - ranks[order[start]] <= critical:
            stop += 1
        if stop > start and (not groups or order[stop] != groups[-1][-1]):
            groups.append(order[start : stop + 1])
    return groups


def all_pairs(scores: Scores, bootstrap: Bootstrap) -> dict[tuple[int, int], Comparison]:
    """Every two of the pairs compared by accuracy."""
    accuracy = scores.accuracy()
    return {
        (i, j): compare(
            accuracy[i], accuracy[j], bootstrap.accuracy[:, i] - bootstrap.accuracy[:, j]
        )
        for i, j in combinations(range(len(accuracy)), 2)
    }
