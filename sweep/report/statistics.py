"""How sure the results are: intervals and paired tests.

Two sources of chance are kept apart. A *seed* decides initial weights, batch order and dropout;
where all seeds of a run share one split, a test over seeds alone says how sure we are about this
split's numbers, not about new adapters. The hierarchical bootstrap draws seeds and test adapters
anew together and so covers both. But a few seeds drawn again vary less than others would: what is
called distinguishable has to pass a test over seeds, too. Where every seed has a split of its own,
training sets overlap, and that test is corrected for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REPLICATES = 20_000
"""Of the bootstrap, at least."""
REPLICATES_PER_TEST = 40
"""Times the comparisons of a family, at least: the smallest p-value there is, 2/(replicates + 1),
is then below 0.05 after Holm's correction."""
F1_REPLICATES = 2000
CONFIDENCE = 0.95
ALPHA = 0.05
NOT_PREDICTED = -1
_MOST_EXACT = 13
_NO_SPREAD = 1e-12
_BLOCK = 1000
_MOST_FLIPPED = 16
_FEW = 5
"""Adapters that are right, or that are wrong, below which a bootstrap understates the spread."""


@dataclass(frozen=True)
class Scores:
    """What classifiers predicted for the test adapters.

    Attributes:
        truth: (n_test,) class indices.
        predictions: (n_pairs, n_seeds, n_test) predicted class indices; n_pairs counts whatever is
            compared, (config, representation) cells for instance.
        n_classes: number of classes.
        tested: (n_seeds, n_test) which adapters a seed's split tests, where it does not test all;
            the others' predictions are `NOT_PREDICTED`.
        groups: (n_test,) index of every adapter's group, where adapters of a group are alike and
            are drawn together; None: each is independent.
    """

    truth: NDArray[np.int64]
    predictions: NDArray[np.int64]
    n_classes: int
    tested: NDArray[np.bool_] | None = None
    groups: NDArray[np.int64] | None = None

    @property
    def n_independent(self) -> int:
        """What one fit is tested on: its groups, or its adapters where there are none."""
        tested: Any = slice(None) if self.tested is None else self.tested[0]
        if self.groups is not None:
            return len(np.unique(self.groups[tested]))
        return len(self.truth[tested])

    def group_differences(self, first: int, second: int) -> Floats:
        """Return (n_groups,) by how many adapters the first is better; mean over seeds."""
        assert self.groups is not None
        right = (self.predictions[[first, second]] == self.truth).astype(np.float64)
        by_adapter = (right[0] - right[1]).mean(axis=0)
        return np.bincount(self.groups, weights=by_adapter).astype(np.float64)

    def accuracy(self) -> Floats:
        """(n_pairs, n_seeds)."""
        right = self.predictions == self.truth
        if self.tested is None:
            return right.mean(axis=2)
        return right.sum(axis=2) / self.tested.sum(axis=1)


@dataclass(frozen=True)
class Bootstrap:
    """Means over seeds, in replicates of the experiment with other seeds and test adapters.

    Every replicate draws the same seeds and adapters for all cells, so differences are paired.

    Attributes:
        accuracy: (replicates, n_pairs).
        macro_f1: (f1_replicates, n_pairs).
    """

    accuracy: Floats
    macro_f1: Floats


def hierarchical_bootstrap(
    scores: Scores,
    *,
    replicates: int = REPLICATES,
    f1_replicates: int = F1_REPLICATES,
    seed: int = 0,
) -> Bootstrap:
    """Draw seeds and test adapters, or their groups, with replacement and independently.

    The two are crossed, every seed being tested on every adapter: Owen, "The pigeonhole bootstrap",
    Annals of Applied Statistics, 2007.

    Arguments:
        f1_replicates: macro F1 takes longer and enters no test, so fewer do.
    """
    rng = np.random.default_rng(seed)
    n_pairs, n_seeds, n_test = scores.predictions.shape
    groups = scores.groups
    n_drawn = n_test if groups is None else int(groups.max()) + 1
    tested = scores.tested
    if tested is None and groups is not None:  # a replicate's groups have another number
        tested = np.ones((n_seeds, n_test), dtype=bool)
    flat = scores.predictions.reshape(n_pairs * n_seeds, n_test)
    correct = flat == scores.truth
    accuracy, macro_f1 = [], []
    done = 0
    while done < replicates:
        block = min(_BLOCK, replicates - done)
        adapters = _draw_counts(rng, block, n_drawn)
        if groups is not None:
            adapters = adapters[:, groups]
        seeds = _draw_counts(rng, block, n_seeds)
        # Whole numbers up to the one division, so that equal scores are exactly equal.
        hits = _over_seeds(_totals(adapters, correct), seeds)
        if tested is None:
            drawn: Any = n_seeds * n_test
        else:  # the same for all cells
            drawn = _over_seeds(_totals(adapters, tested), seeds)
        accuracy.append(hits / drawn)
        if done < f1_replicates:
            f1 = _macro_f1(adapters, scores, flat)
            macro_f1.append(_over_seeds(f1, seeds) / n_seeds)
        done += block
    return Bootstrap(np.concatenate(accuracy), np.concatenate(macro_f1)[:f1_replicates])


def _draw_counts(rng: np.random.Generator, replicates: int, n: int) -> Floats:
    """(replicates, n) how often each of n is drawn in n draws."""
    drawn = rng.integers(0, n, size=(replicates, n))
    drawn += n * np.arange(replicates)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=replicates * n)
    return counts.reshape(replicates, n).astype(np.float64)


def _totals(adapters: Floats, indicator: NDArray[np.bool_]) -> Floats:
    """(replicates, n_test), (cases, n_test) -> (replicates, cases): how many of the drawn."""
    # Counts stay far below 2²⁴, so float32 holds them exactly.
    return (adapters.astype(np.float32) @ indicator.T.astype(np.float32)).astype(np.float64)


def _over_seeds(values: Floats, seeds: Floats) -> Floats:
    """(replicates, n_pairs · n_seeds), (replicates, n_seeds) -> (replicates, n_pairs), summed."""
    replicates, n_seeds = seeds.shape
    return np.einsum("bps,bs->bp", values.reshape(replicates, -1, n_seeds), seeds)


def _macro_f1(adapters: Floats, scores: Scores, flat: NDArray[np.int64]) -> Floats:
    """(replicates, n_pairs · n_seeds), over the classes that occur in truth or prediction."""
    tested: Any = True
    if scores.tested is not None:
        tested = np.tile(scores.tested, (len(scores.predictions), 1))
    f1_sum = np.zeros((len(adapters), len(flat)))
    occurring = np.zeros_like(f1_sum)
    for label in range(scores.n_classes):
        is_class = scores.truth == label
        chosen = flat == label
        found = _totals(adapters[:, is_class], chosen[:, is_class])
        both = _totals(adapters, chosen) + _totals(adapters, np.atleast_2d(is_class & tested))
        occurs = both > 0
        f1_sum += np.divide(2 * found, both, out=np.zeros_like(found), where=occurs)
        occurring += occurs
    return f1_sum / occurring


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
    if np.ptp(replicates) > _NO_SPREAD:
        return low, high
    _, reach = exact_interval(0, n)
    return max(-1.0, low - reach), min(1.0, high + reach)


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
    """Two lists of per-seed scores, compared seed by seed.

    Attributes:
        difference: mean of first − second.
        low, high: 95 % interval of the hierarchical bootstrap.
        p_adapters: over new adapters: of the hierarchical bootstrap, which draws seeds, too; with
            groups, of flips of groups' signs.
        p_seeds: of a paired t-test over seeds, see `seeds_p`; None with one seed or if the
            differences do not vary.
        n_seeds: how many there are.
        p_wilcoxon: of a Wilcoxon signed-rank test over seeds; None with one seed or if the
            differences do not vary.
        effect: Cohen's d of the differences over seeds (their mean over their sample standard
            deviation); None if they do not vary.
    """

    difference: float
    low: float
    high: float
    p_adapters: float
    p_seeds: float | None
    p_wilcoxon: float | None
    effect: float | None
    n_seeds: int


def seeds_p(differences: Floats, overlap: float | None) -> float | None:
    """Two-sided p-value of Student's t-test that per-seed differences have mean 0.

    Where every seed has a split of its own, the differences are not independent, since training
    sets overlap: their variance is multiplied by 1/n + n_test/n_train instead of 1/n (Nadeau and
    Bengio, "Inference for the Generalization Error", Machine Learning, 2003).

    Arguments:
        differences: (n_seeds,).
        overlap: n_test/n_train; None where all seeds share a split.

    Returns:
        None with one seed or if the differences do not vary.
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
) -> Comparison:
    """Compare paired per-seed scores.

    Arguments:
        first, second: (n_seeds,).
        replicates: bootstrap replicates of the difference of their means.
        overlap: see `seeds_p`.
        ends: 95 % interval of the difference; None: that of the replicates.
        p_adapters: the p-value over adapters; None: that of the replicates.
    """
    differences = first - second
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    varies = spread > _NO_SPREAD
    low, high = ends or interval(replicates)
    mean = float(differences.mean())
    mean = 0.0 if abs(mean) < 1e-12 else mean  # equal scores, but for their last bits
    return Comparison(
        difference=mean,
        low=low,
        high=high,
        p_adapters=bootstrap_p(replicates) if p_adapters is None else p_adapters,
        p_seeds=seeds_p(differences, overlap),
        p_wilcoxon=signed_rank_p(differences) if varies else None,
        effect=mean / spread if varies else None,
        n_seeds=len(differences),
    )


def is_distinguishable(
    *, seeded: bool, n_seeds: int, p_adapters: float, p_seeds: float | None
) -> bool:
    """Whether a difference shows over seeds and adapters, and over seeds by themselves.

    Both are asked, since a bootstrap of a few seeds understates how much seeds vary. One seed says
    nothing about others. Where no seed changes either score, test adapters alone decide.

    Arguments:
        seeded: whether seeds change one of the two.
        n_seeds: how many there are.
        p_adapters: adjusted p-value over adapters.
        p_seeds: that of the test over seeds; None if the differences do not vary.
    """
    if not seeded:
        return p_adapters < ALPHA
    return n_seeds > 1 and p_adapters < ALPHA and (p_seeds is None or p_seeds < ALPHA)


def welch_p(first: Floats, second: Floats) -> float | None:
    """Two-sided p-value of Welch's t-test of two runs' scores; None with one seed in either.

    Scores that do not vary at all differ for sure, or are equal for sure.
    """
    from scipy import stats

    if min(len(first), len(second)) < 2:
        return None
    if max(np.ptp(first), np.ptp(second)) < 1e-12:
        return float(abs(first[0] - second[0]) < 1e-12)
    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)


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
