"""Paired tests: how sure a difference is.

Two sources of chance are kept apart. A *seed* decides initial weights, batch order and dropout;
where all seeds of a run share one split, a test over seeds alone says how sure we are about this
split's numbers, not about new adapters. The hierarchical bootstrap draws seeds and test adapters
anew together and so covers both. But a few seeds drawn again vary less than others would: what is
called distinguishable has to pass a test over seeds, too. Where every seed has a split of its own,
training sets overlap, and that test is corrected for it. Folds count as seeds, and are corrected
alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bootstrap import REPLICATES, Floats
from .intervals import interval

ALPHA = 0.05
_MOST_EXACT = 13
_MOST_FLIPPED = 16
_NO_SPREAD = 1e-12
_BLOCK = 1000


def bootstrap_p(differences: Floats) -> float:
    """Two-sided p-value of a difference: twice the smaller share of replicates on one side of 0.

    Counting the observed experiment as one more replicate keeps it above 0.
    """
    count = len(differences)
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (count + 1)))


def sign_flip_p(differences: Floats, replicates: int = REPLICATES) -> float:
    """Return the two-sided p-value that groups' differences are as likely positive as negative.

    Signs of whole groups are flipped: all ways for up to 16 groups, else as many as `replicates`
    drawn ones, the observed one counted with them. It holds where both methods vary alike over
    groups (Winkler et al., NeuroImage, 2014).

    Arguments:
        differences: (n_groups,).
    """
    n = len(differences)
    observed = abs(differences.sum()) - 1e-9
    if n <= _MOST_FLIPPED:
        signs = 1 - 2 * (np.arange(2 ** max(n - 1, 0))[:, None] >> np.arange(n) & 1)
        return float((np.abs(signs @ differences) >= observed).mean())
    rng = np.random.default_rng(0)
    as_far = 0
    for start in range(0, replicates, _BLOCK):
        block = min(_BLOCK, replicates - start)
        signs = rng.integers(0, 2, size=(block, n)) * 2 - 1
        as_far += int((np.abs(signs @ differences) >= observed).sum())
    return (as_far + 1) / (replicates + 1)


def smallest_sign_flip_p(n_groups: int) -> float:
    """Return the smallest p-value that groups' signs can give."""
    return 2.0 ** (1 - n_groups)


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
    """Two lists of scores, compared seed by seed, or fold by fold.

    Attributes:
        difference: mean of first − second.
        low, high: 95 % interval of the hierarchical bootstrap.
        p_adapters: over new adapters: of the hierarchical bootstrap, which draws seeds, too; with
            groups, of flips of groups' signs; None where too few values are left out to test any.
        p_seeds: of a paired t-test over seeds, see `seeds_p`; None with one seed or if the
            differences do not vary.
        n_paired: how many scores each has.
        p_wilcoxon: of a Wilcoxon signed-rank test over seeds; None with one seed, if the
            differences do not vary, or if training sets overlap: it takes them as independent.
        effect: Cohen's d of the differences over seeds (their mean over their sample standard
            deviation); None if they do not vary.
    """

    difference: float
    low: float
    high: float
    p_adapters: float | None
    p_seeds: float | None
    p_wilcoxon: float | None
    effect: float | None
    n_paired: int


def seeds_p(differences: Floats, overlap: float | None) -> float | None:
    """Two-sided p-value of Student's t-test that differences by seed or fold have mean 0.

    Where every seed or fold has a split of its own, the differences are not independent, since
    training sets overlap: their variance is multiplied by 1/n + n_test/n_train instead of 1/n
    (Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning, 2003).

    Arguments:
        differences: (n_paired,).
        overlap: n_test/n_train; None where all seeds share a split.

    Returns:
        None with one score or if the differences do not vary.
    """
    from scipy import stats

    n = len(differences)
    spread = float(differences.std(ddof=1)) if n > 1 else 0.0
    if spread <= _NO_SPREAD:
        return None
    t = float(differences.mean()) / (spread * np.sqrt(1 / n + (overlap or 0.0)))
    return float(2 * stats.t.sf(abs(t), n - 1))


def compare(
    first: Floats,
    second: Floats,
    replicates: Floats,
    overlap: float | None = None,
    ends: tuple[float, float] | None = None,
    p_adapters: float | None = None,
    mean: float | None = None,
) -> Comparison:
    """Compare scores that are paired by seed or fold.

    Arguments:
        first, second: (n_paired,).
        replicates: bootstrap replicates of the difference of their means.
        overlap: see `seeds_p`.
        ends: 95 % interval of the difference; None: that of the replicates.
        p_adapters: the p-value over adapters; None: that of the replicates.
        mean: difference of pooled folds; None: that of the scores' means.
    """
    differences = first - second
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    varies = spread > _NO_SPREAD
    low, high = ends or interval(replicates)
    effect = float(differences.mean()) / spread if varies else None
    mean = float(differences.mean()) if mean is None else mean
    mean = 0.0 if abs(mean) < 1e-12 else mean  # equal scores, but for their last bits
    return Comparison(
        difference=mean,
        low=low,
        high=high,
        p_adapters=bootstrap_p(replicates) if p_adapters is None else p_adapters,
        p_seeds=seeds_p(differences, overlap),
        p_wilcoxon=signed_rank_p(differences) if varies and overlap is None else None,
        effect=effect,
        n_paired=len(differences),
    )


def is_distinguishable(
    *, varies: bool, n_paired: int, p_adapters: float | None, p_seeds: float | None
) -> bool:
    """Return whether a difference shows over seeds and adapters, and over seeds by themselves.

    Both are asked, since a bootstrap of a few seeds understates how much seeds vary. One seed says
    nothing about others. Where no seed changes either score, test adapters alone decide. Folds
    count as seeds, for every classifier.

    Arguments:
        varies: whether seeds or folds give one of the two several scores.
        n_paired: how many scores there are.
        p_adapters: adjusted p-value over adapters; None where nothing is tested.
        p_seeds: that of the test over seeds; None if the differences do not vary.
    """
    if p_adapters is None:
        return False
    if not varies:
        return p_adapters < ALPHA
    return n_paired > 1 and p_adapters < ALPHA and (p_seeds is None or p_seeds < ALPHA)


def welch_p(
    first: Floats, second: Floats, overlaps: tuple[float | None, float | None] = (None, None)
) -> float | None:
    """Two-sided p-value of Welch's t-test of two runs' scores; None with one score in either.

    Scores that do not vary at all differ for sure, or are equal for sure.

    Arguments:
        overlaps: of either run, see `seeds_p`.
    """
    from scipy import stats

    if min(len(first), len(second)) < 2:
        return None
    if max(np.ptp(first), np.ptp(second)) < 1e-12:
        return float(abs(first[0] - second[0]) < 1e-12)
    sizes = [len(first), len(second)]
    parts = [
        float(values.var(ddof=1)) * (1 / len(values) + (overlap or 0.0))
        for values, overlap in zip((first, second), overlaps)
    ]
    freedom = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, sizes))
    t = float(first.mean() - second.mean()) / np.sqrt(sum(parts))
    return float(2 * stats.t.sf(abs(t), freedom))


def signed_rank_p(differences: Floats) -> float | None:
    """Two-sided p-value of Wilcoxon's signed-rank test; None if all differences are 0.

    Exact, over all assignments of signs, for up to 13 differences that are not 0, ties included:
    SciPy's, which is used above, takes a third of a second for it.
    """
    from scipy import stats

    moved = differences[np.abs(differences) > 1e-12]
    if len(moved) == 0:
        return None
    if len(moved) > _MOST_EXACT:
        return float(stats.wilcoxon(moved).pvalue)
    # Differences of shares that are equal on paper differ in their last bits.
    ranks = stats.rankdata(np.abs(moved).round(12))
    signs = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
    sums = signs @ ranks
    distance = np.abs(sums - sums.mean())
    return float((distance >= abs(ranks[moved > 0].sum() - sums.mean()) - 1e-9).mean())
