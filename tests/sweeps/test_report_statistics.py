"""The report's statistics by independent paths: SciPy, scikit-learn, brute force."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from lorasweep.sweep.report.bootstrap import NOT_PREDICTED, Scores, hierarchical_bootstrap
from lorasweep.sweep.report.cells import Estimate
from lorasweep.sweep.report.compare_runs import growth_ends
from lorasweep.sweep.report.intervals import (
    accuracy_interval,
    difference_interval,
    exact_interval,
    interval,
)
from lorasweep.sweep.report.statistics import (
    bootstrap_p,
    compare,
    holm,
    is_distinguishable,
    seeds_p,
    sign_flip_p,
    signed_rank_p,
    smallest_sign_flip_p,
    welch_p,
)
from lorasweep.trainables.data.splits import SplitRule


def make_scores(accuracies, seeds=6, n=200, n_classes=3, rng_seed=0):
    """Predictions that are right with the given probabilities."""
    rng = np.random.default_rng(rng_seed)
    truth = rng.integers(0, n_classes, n)
    right = rng.random((len(accuracies), seeds, n)) < np.array(accuracies)[:, None, None]
    wrong = (truth + rng.integers(1, n_classes, right.shape)) % n_classes
    return Scores(truth, np.where(right, truth, wrong), n_classes)


def test_every_replicate_is_the_experiment_on_drawn_seeds_and_adapters():
    """The same draws, adapter by adapter and with scikit-learn."""
    scores = make_scores([0.8, 0.4], seeds=4, n=30)
    found = hierarchical_bootstrap(scores, replicates=5, seed=7)
    rng = np.random.default_rng(7)
    adapters = rng.integers(0, 30, size=(5, 30))
    seeds = rng.integers(0, 4, size=(5, 4))
    for b in range(5):
        rows, drawn = adapters[b], seeds[b]
        for pair in range(2):
            runs = [scores.predictions[pair, seed][rows] for seed in drawn]
            accuracy = np.mean([(run == scores.truth[rows]).mean() for run in runs])
            f1 = np.mean([f1_score(scores.truth[rows], run, average="macro") for run in runs])
            assert found.accuracy[b, pair] == pytest.approx(accuracy, abs=1e-12)
            assert found.macro_f1[b, pair] == pytest.approx(f1, abs=1e-12)


def test_the_interval_is_wider_than_that_of_seeds_alone_and_about_binomial():
    """With classifiers that agree on which adapters are hard, seeds tell nothing about new ones."""
    scores = make_scores([0.7], seeds=1, n=400)
    copies = Scores(scores.truth, np.repeat(scores.predictions, 8, axis=1), 3)
    low, high = interval(hierarchical_bootstrap(copies, replicates=4000).accuracy[:, 0])
    mean = copies.accuracy().mean()
    half = 1.96 * np.sqrt(mean * (1 - mean) / 400)
    assert copies.accuracy().std() == 0
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)
    assert (high + low) / 2 == pytest.approx(mean, abs=0.01)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for trial in range(120):
        scores = make_scores([0.6], seeds=5, n=80, rng_seed=trial)
        low, high = interval(hierarchical_bootstrap(scores, replicates=300).accuracy[:, 0])
        covered += low <= 0.6 <= high
    assert 0.88 <= covered / 120 <= 1.0


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (61, 61), (3, 12), (150, 151)])
def test_the_exact_interval_is_scipys(hits, n):
    expected = stats.binomtest(hits, n).proportion_ci(0.95, "exact")
    assert exact_interval(hits, n) == pytest.approx((expected.low, expected.high))


def test_all_right_is_no_certainty():
    for hits, low in ((61, 0.941), (5, 0.478)):
        drawn = np.ones(100)
        assert accuracy_interval(1.0, hits, drawn) == (pytest.approx(low, abs=1e-3), 1.0)
    assert accuracy_interval(0.5, 100, np.linspace(0.4, 0.6, 1001)) == pytest.approx((0.405, 0.595))
    same = difference_interval(61, np.zeros(100))
    assert same == pytest.approx((-exact_interval(0, 61)[1], exact_interval(0, 61)[1]))
    assert difference_interval(61, np.linspace(-0.1, 0.1, 1001)) == pytest.approx((-0.095, 0.095))


@pytest.mark.parametrize("n", [12, 20, 61, 150])
@pytest.mark.parametrize("truth", [0.3, 0.5, 0.8, 0.9, 0.95, 0.99])
def test_the_interval_of_one_fit_covers_its_truth(n, truth):
    """Exactly, over all counts of hits; the bootstrap of one fit is binomial, too."""
    covered = bare = 0.0
    for hits in range(n + 1):
        drawn = stats.binom.ppf(np.linspace(0, 1, 402)[1:-1], n, hits / n) / n
        low, high = accuracy_interval(hits / n, n, drawn)
        covered += stats.binom.pmf(hits, n, truth) * (low - 1e-9 <= truth <= high + 1e-9)
        low, high = interval(drawn)
        bare += stats.binom.pmf(hits, n, truth) * (low - 1e-9 <= truth <= high + 1e-9)
    assert covered > 0.92
    assert covered >= bare
    if (n, truth) == (12, 0.99):
        assert bare < 0.2  # what the bootstrap alone would say


@pytest.mark.parametrize("n", [5, 12, 20, 61, 150])
@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5, 0.8])
def test_guesses_are_seldom_above_chance(n, chance):
    """Exactly, over all counts of hits of one fit: the lower end of its interval decides."""
    above = 0.0
    for hits in range(n + 1):
        drawn = stats.binom.ppf(np.linspace(0, 1, 402)[1:-1], n, hits / n) / n
        low, _ = accuracy_interval(hits / n, n, drawn)
        above += stats.binom.pmf(hits, n, chance) * (low > chance)
    assert above <= 0.05


def test_equal_scores_of_a_replicate_are_exactly_equal():
    scores = make_scores([0.7, 0.7], seeds=7, n=61)
    accuracy = hierarchical_bootstrap(scores, replicates=3000).accuracy
    differences = np.abs(accuracy[:, 0] - accuracy[:, 1])
    assert (differences == 0).sum() > 10
    # What is not equal differs by one answer at least.
    assert differences[differences > 0].min() == pytest.approx(1 / (7 * 61))


def test_welchs_test_is_scipys_and_knows_what_does_not_vary():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.8, 0.02, 5), rng.normal(0.7, 0.05, 8)
    expected = stats.ttest_ind(first, second, equal_var=False).pvalue
    assert welch_p(first, second) == pytest.approx(expected)
    assert welch_p(first, second[:1]) is None
    # By hand: each variance times 1/n + overlap, as in `seeds_p`.
    parts = np.var(first, ddof=1) * (1 / 5 + 0.3), np.var(second, ddof=1) * (1 / 8 + 0.2)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 4 + parts[1] ** 2 / 7)
    t = (first.mean() - second.mean()) / np.sqrt(sum(parts))
    corrected = welch_p(first, second, (0.3, 0.2))
    assert corrected == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    assert corrected > expected
    assert welch_p(np.full(3, 0.5), np.full(4, 0.5)) == 1
    assert welch_p(np.full(3, 0.5), np.full(4, 0.6)) == 0


def test_comparisons_agree_with_scipy():
    scores = make_scores([0.75, 0.6], seeds=10)
    bootstrap = hierarchical_bootstrap(scores)
    first, second = scores.accuracy()
    result = compare(first, second, bootstrap.accuracy[:, 0] - bootstrap.accuracy[:, 1])
    assert result.difference == pytest.approx((first - second).mean())
    assert result.p_seeds == pytest.approx(stats.ttest_1samp(first - second, 0).pvalue)
    assert result.p_wilcoxon == pytest.approx(stats.wilcoxon(first, second).pvalue)
    assert result.effect == pytest.approx((first - second).mean() / np.std(first - second, ddof=1))
    assert result.low < result.difference < result.high
    differences = bootstrap.accuracy[:, 0] - bootstrap.accuracy[:, 1]
    assert (result.low, result.high) == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    assert 0 < result.p_adapters < 0.01


@pytest.mark.parametrize("n", [2, 5, 10, 13, 20])
@pytest.mark.parametrize("ties", [False, True])
def test_the_signed_rank_test_is_scipys(n, ties):
    rng = np.random.default_rng(n)
    differences = rng.integers(-3, 5, n) / 61 if ties else rng.normal(0.3, 1, n)
    differences[0] = 2 / 61
    moved = differences[differences != 0]
    assert signed_rank_p(differences) == pytest.approx(stats.wilcoxon(moved).pvalue)
    assert signed_rank_p(np.zeros(n)) is None


def test_equal_scores_are_not_distinguishable():
    same = np.full(5, 0.5)
    result = compare(same, same, np.zeros(100))
    assert (result.difference, result.p_adapters) == (0, 1)
    assert (result.p_seeds, result.p_wilcoxon, result.effect) == (None, None, None)
    alone = compare(np.array([0.5]), np.array([0.4]), np.full(100, 0.1))
    assert alone.p_seeds is None


def test_bootstrap_p_values_are_never_0():
    assert bootstrap_p(np.full(999, 0.1)) == pytest.approx(2 / 1000)
    assert bootstrap_p(np.linspace(-1, 1, 1000)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_step_down_procedure(seed):
    """Rejecting at α by hand, hypothesis by hypothesis, for every α that matters."""
    p = list(np.random.default_rng(seed).random(7) ** 3)
    adjusted = holm(p)
    alphas = [value + delta for value in adjusted for delta in (-1e-9, 1e-9)]
    for alpha in [alpha for alpha in alphas if alpha < 1]:
        rejected, order = set(), np.argsort(p)
        for step, i in enumerate(order):
            if p[i] > alpha / (len(p) - step):
                break
            rejected.add(int(i))
        assert rejected == {i for i, value in enumerate(adjusted) if value <= alpha}
    assert holm([0.01, None, 0.04]) == [0.02, None, 0.04]


def test_with_a_split_each_only_tested_adapters_count():
    """Replicates by hand: drawn seeds' tested adapters, as often as they are drawn."""
    rng = np.random.default_rng(1)
    whole = make_scores([0.8, 0.5], seeds=3, n=40)
    tested = rng.random((3, 40)) < 0.4
    predictions = np.where(tested, whole.predictions, NOT_PREDICTED)
    scores = Scores(whole.truth, predictions, 3, tested)
    for pair in range(2):
        for seed in range(3):
            mask = tested[seed]
            right = whole.predictions[pair, seed, mask] == whole.truth[mask]
            assert scores.accuracy()[pair, seed] == pytest.approx(right.mean())
    found = hierarchical_bootstrap(scores, replicates=6, seed=3)
    rng = np.random.default_rng(3)
    adapters, seeds = rng.integers(0, 40, size=(6, 40)), rng.integers(0, 3, size=(6, 3))
    for b in range(6):
        for pair in range(2):
            right = drawn = 0
            f1 = []
            for seed in seeds[b]:
                rows = adapters[b][tested[seed][adapters[b]]]
                predicted = whole.predictions[pair, seed, rows]
                right, drawn = right + (predicted == whole.truth[rows]).sum(), drawn + len(rows)
                f1.append(f1_score(whole.truth[rows], predicted, average="macro"))
            assert found.accuracy[b, pair] == pytest.approx(right / drawn, abs=1e-12)
            assert found.macro_f1[b, pair] == pytest.approx(np.mean(f1), abs=1e-12)


def test_whole_groups_are_drawn():
    """Replicates by hand: the adapters of drawn groups, as often as a group is drawn."""
    whole = make_scores([0.8, 0.5], seeds=2, n=30)
    groups = np.random.default_rng(5).integers(0, 7, 30)
    scores = Scores(whole.truth, whole.predictions, 3, groups=groups)
    assert scores.n_independent == len(set(groups.tolist()))
    found = hierarchical_bootstrap(scores, replicates=6, seed=3)
    rng = np.random.default_rng(3)
    drawn, seeds = rng.integers(0, 7, size=(6, 7)), rng.integers(0, 2, size=(6, 2))
    for b in range(6):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn[b]])
        for cell in range(2):
            right = [
                (whole.predictions[cell, s, rows] == whole.truth[rows]).mean() for s in seeds[b]
            ]
            assert found.accuracy[b, cell] == pytest.approx(np.mean(right), abs=1e-12)
    right = whole.predictions == whole.truth
    expected = [(right[0] * 1.0 - right[1])[:, groups == g].mean(axis=0).sum() for g in range(7)]
    assert scores.group_differences(0, 1) == pytest.approx(expected)


@pytest.mark.parametrize("n", [2, 7, 12])
def test_sign_flips_are_scipys(n):
    differences = np.random.default_rng(n).normal(0.5, 1, n)
    expected = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flip_p(differences) == pytest.approx(expected)
    assert sign_flip_p(np.ones(n)) == pytest.approx(smallest_sign_flip_p(n))


def test_many_groups_are_drawn_signs():
    differences = np.random.default_rng(0).normal(0.3, 1, 17)
    signs = 1 - 2 * (np.arange(2**16)[:, None] >> np.arange(17) & 1)
    expected = (np.abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    assert sign_flip_p(differences) == pytest.approx(expected, abs=0.01)
    assert sign_flip_p(np.full(40, 0.1)) == pytest.approx(1 / 20_001)


def grouped(rng, groups, unequal, correlation, seeds, accuracy, gain=0.0, runs=1):
    """(runs, G) differences of groups and (runs, seeds) of two methods that vary alike over groups.

    A method is right about an adapter where a normal deviate of group, adapter and seed is small
    enough; `correlation` is that of two adapters of a group.
    """
    sizes = np.resize([2, 4, 8, 16] if unequal else [8], groups)
    index = np.repeat(np.arange(groups), sizes)
    right = []
    for better in (gain, 0.0):
        shared = rng.normal(0, np.sqrt(correlation), (runs, 1, groups))[:, :, index]
        own = rng.normal(0, np.sqrt(0.7 * (1 - correlation)), (runs, 1, len(index)))
        seed = rng.normal(0, np.sqrt(0.3 * (1 - correlation)), (runs, seeds, len(index)))
        right.append(shared + own + seed < stats.norm.ppf(min(accuracy + better, 0.99)))
    difference = right[0].astype(np.float64) - right[1]
    by_group = np.stack([difference.mean(axis=1)[:, index == g].sum(axis=1) for g in range(groups)])
    return by_group.T, difference.mean(axis=2)


def told_apart(by_group, by_seed):
    """The share of runs in which the report's rule tells two seeded methods apart."""
    n_seeds = by_seed.shape[1]
    return np.mean([
        is_distinguishable(
            varies=n_seeds > 1, n_paired=n_seeds,
            p_adapters=sign_flip_p(of, replicates=400), p_seeds=seeds_p(seeds, None),
        )
        for of, seeds in zip(by_group, by_seed)
    ])  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_methods_are_seldom_told_apart_where_groups_are_alike(seeds):
    rng = np.random.default_rng(seeds)
    found = told_apart(*grouped(rng, 12, True, 0.5, seeds, 0.8, runs=400))
    assert found <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("accuracy", [0.5, 0.9])
@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("groups", [8, 15, 30])
def test_false_positives_by_group(groups, unequal, correlation, accuracy):
    for seeds in (1, 3, 10):
        rng = np.random.default_rng(seeds)
        drawn = grouped(rng, groups, unequal, correlation, seeds, accuracy, runs=2000)
        assert told_apart(*drawn) <= 0.06


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("groups", "least"), [(8, 0.35), (15, 0.60), (30, 0.85)])
def test_power_by_group(groups, least):
    rng = np.random.default_rng(groups)
    drawn = grouped(rng, groups, False, 0.2, 3, 0.5, gain=0.25, runs=2000)
    assert told_apart(*drawn) >= least


def test_the_test_over_seeds_is_corrected_for_overlapping_training_sets():
    differences = np.array([0.02, 0.05, -0.01, 0.04, 0.03])
    assert seeds_p(differences, None) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    # By hand: variance 0.00053, 1/5 + 2/7, t = 0.026 / sqrt(0.00053 · 0.485714…).
    t = 0.026 / np.sqrt(np.var(differences, ddof=1) * (1 / 5 + 2 / 7))
    assert seeds_p(differences, 2 / 7) == pytest.approx(2 * (1 - stats.t.cdf(t, 4)))
    assert seeds_p(differences, 2 / 7) > seeds_p(differences, None)
    assert seeds_p(differences[:1], None) is None
    assert seeds_p(np.full(4, 0.1), 0.3) is None


def equally_good(rng, seeds, seeded, n=80):
    """Two rows with the same expected accuracy: adapters are hard or easy for both, every seed of a
    seeded row has luck of its own; correct or not, as classes 0 and 1."""
    ease = rng.normal(0.8, 1.2, n)
    rows = []
    for is_seeded in seeded:
        luck = (rng.normal(0, 0.25, seeds) if is_seeded else np.zeros(1))[:, None]
        own = rng.normal(0, 0.8, n)  # what a row finds hard; drawn anew with the adapters
        right = rng.random((len(luck), n)) < 1 / (1 + np.exp(-(ease + own + luck)))
        rows.append(np.broadcast_to(right, (seeds, n)))
    return Scores(np.ones(n, dtype=np.int64), np.array(rows).astype(np.int64), 2)


def times_told_apart(seeds, seeded, make, overlap=None, trials=300):
    """How often two rows count as distinguishable, of `trials` pairs that `make` draws."""
    rng = np.random.default_rng(seeds)
    found = 0
    for trial in range(trials):
        scores = make(rng)
        replicates = hierarchical_bootstrap(scores, replicates=400, f1_replicates=1, seed=trial)
        first, second = scores.accuracy()
        differences = replicates.accuracy[:, 0] - replicates.accuracy[:, 1]
        test = compare(first, second, differences, overlap)
        found += is_distinguishable(
            varies=seeded, n_paired=seeds, p_adapters=test.p_adapters, p_seeds=test.p_seeds
        )
    return found


def at_most_one_in_twenty(found, trials=300):
    """5 % and two standard errors of the simulation."""
    return found / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


@pytest.mark.parametrize(
    ("seeds", "seeded"),
    [
        (1, (False, False)),
        (3, (False, False)),
        (2, (True, True)),
        (3, (True, True)),
        (10, (True, True)),
        (2, (True, False)),
        (3, (True, False)),
        (10, (True, False)),
    ],
)
def test_equal_rows_are_told_apart_at_most_one_time_in_twenty(seeds, seeded):
    found = times_told_apart(seeds, any(seeded), lambda rng: equally_good(rng, seeds, seeded))
    assert at_most_one_in_twenty(found)


def trained_on_splits(rng, seeds, n=120, values=4):
    """Two nearest-centroid classifiers on values that tell the two classes equally well, trained
    on every seed's own split: what one seed trains on, another tests."""
    truth = rng.integers(0, 2, n)
    rows = 0.5 * truth[:, None] + rng.standard_normal((2, n, values))
    predictions = np.full((2, seeds, n), NOT_PREDICTED)
    tested = np.zeros((seeds, n), dtype=bool)
    first = int(rng.integers(1000))
    for seed in range(seeds):
        parts = SplitRule(per_seed=True).split(n, first + seed).parts()
        train, test = parts["train"], parts["test"]
        tested[seed, test] = True
        for row, matrix in enumerate(rows):
            centroids = [matrix[train[truth[train] == c]].mean(axis=0) for c in (0, 1)]
            distances = [((matrix[test] - centroid) ** 2).sum(axis=1) for centroid in centroids]
            predictions[row, seed, test] = np.argmin(distances, axis=0)
    anywhere = tested.any(axis=0)
    return Scores(truth[anywhere], predictions[:, :, anywhere], 2, tested[:, anywhere])


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_so_are_equal_rows_on_splits_of_each_seeds_own(seeds):
    parts = SplitRule(per_seed=True).split(120, 0).parts()
    overlap = len(parts["test"]) / len(parts["train"])
    found = times_told_apart(seeds, True, lambda rng: trained_on_splits(rng, seeds), overlap)
    assert at_most_one_in_twenty(found)


def nearest_centroid(matrix, truth, train, test):
    """Predicted classes of test rows."""
    centroids = [matrix[train[truth[train] == c]].mean(axis=0) for c in (0, 1)]
    distances = [((matrix[test] - centroid) ** 2).sum(axis=1) for centroid in centroids]
    return np.argmin(distances, axis=0)


def told_apart_on_folds(rng, make, seeds, gain=0.0, signal=0.7, by_value=0.0):
    """Tell whether the report's rule tells two nearest-centroid classifiers apart.

    They read other values, which tell two classes equally well but for `gain`.

    Arguments:
        make: n and the rule of the split, of labels.
        by_value: deviation of what adapters of a group share.
    """
    rule, truth = make(rng)
    n, groups = len(truth), rule.test_groups
    rows = np.array([signal + gain, signal])[:, None, None] * (2 * truth[:, None] - 1) / 2
    rows = rows + rng.standard_normal((2, n, 4))
    if groups is not None:
        rows = rows + by_value * rng.standard_normal((2, max(groups) + 1, 4))[:, list(groups)]
    first = int(rng.integers(1_000_000))
    predictions = np.full((2, seeds, n), NOT_PREDICTED)
    by_fold = np.empty((2, seeds, len(rule.folds)))
    tested = trained = 0
    for s in range(seeds):
        for f, fold in enumerate(rule.folds):
            split = rule.split(n, first + s, fold)
            train, test = split.train, split.test
            tested, trained = tested + len(test), trained + len(train)
            for r in range(2):
                predictions[r, s, test] = nearest_centroid(rows[r], truth, train, test)
                by_fold[r, s, f] = (predictions[r, s, test] == truth[test]).mean()
    index = None if groups is None else np.array(groups)
    scores = Scores(truth, predictions, 2, groups=index)
    drawn = hierarchical_bootstrap(scores, replicates=400, f1_replicates=1, seed=first)
    paired = by_fold.reshape(2, -1) if rule.left_out is None else by_fold.mean(axis=1)
    test = compare(
        *paired,
        drawn.accuracy[:, 0] - drawn.accuracy[:, 1],
        tested / trained,
        p_adapters=None if groups is None else sign_flip_p(scores.group_differences(0, 1), 400),
    )
    return is_distinguishable(
        varies=True, n_paired=test.n_paired, p_adapters=test.p_adapters, p_seeds=test.p_seeds
    )


def kfold(rng, n=38, k=5, groups=None):
    truth = rng.permutation(np.arange(n) % 2)
    index = None if groups is None else tuple((np.arange(n) % groups).tolist())
    return SplitRule(per_seed=True, groups=index, strata=tuple(truth.tolist()), k=k), truth


def leave_out(rng, values=10, unequal=True):
    sizes = np.resize([2, 4, 8] if unequal else [4], values)
    of = np.repeat(np.arange(values), sizes)
    truth = rng.permutation(np.arange(len(of)) % 2)
    return SplitRule(
        strata=tuple(truth.tolist()), left_out=tuple(f"{v:03}" for v in of), column="base"
    ), truth


FOLDED = {
    "38 adapters, kfold:5, 5 seeds": (kfold, 5, 0.0),
    "38 adapters, kfold:5, 1 seed": (kfold, 1, 0.0),
    "38 adapters, kfold:10, 3 seeds": (lambda rng: kfold(rng, k=10), 3, 0.0),
    "100 adapters, kfold:5, 3 seeds": (lambda rng: kfold(rng, 100), 3, 0.0),
    "60 adapters of 15 groups, kfold:5, 3 seeds": (lambda rng: kfold(rng, 60, 5, 15), 3, 1.0),
    "8 values left out, 3 seeds": (lambda rng: leave_out(rng, 8), 3, 1.0),
    "20 values left out, 1 seed": (lambda rng: leave_out(rng, 20), 1, 1.0),
}


@pytest.mark.parametrize("case", list(FOLDED)[::5])
def test_so_are_equal_rows_on_folds(case):
    make, seeds, by_value = FOLDED[case]
    rng = np.random.default_rng(seeds)
    found = sum(told_apart_on_folds(rng, make, seeds, by_value=by_value) for _ in range(300))
    assert at_most_one_in_twenty(found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("signal", [0.3, 0.7, 1.5])
@pytest.mark.parametrize("case", FOLDED)
def test_false_positives_by_fold(case, signal):
    make, seeds, by_value = FOLDED[case]
    rng = np.random.default_rng(seeds)
    found = [
        told_apart_on_folds(rng, make, seeds, signal=signal, by_value=by_value) for _ in range(2000)
    ]
    assert np.mean(found) <= 0.06


def test_one_seed_says_nothing_about_others_but_rows_without_seeds_can_be_told_apart():
    sure = {"p_adapters": 0.001, "p_seeds": None}
    assert not is_distinguishable(varies=True, n_paired=1, **sure)
    assert is_distinguishable(varies=False, n_paired=1, **sure)
    assert not is_distinguishable(varies=False, n_paired=3, p_adapters=0.06, p_seeds=0.001)


def test_the_interval_between_two_runs_is_newcombes_where_the_bootstrap_has_no_spread():
    """His method 10, with exact ends: 61 of 61 against 20 of 20, and against a wider bootstrap."""
    first = Estimate(1.0, exact_interval(61, 61)[0], 1.0)
    second = Estimate(1.0, exact_interval(20, 20)[0], 1.0)
    low, high = growth_ends(first, second, np.zeros(100))
    assert (low, high) == pytest.approx((first.low - 1, 1 - second.low))
    wide = np.linspace(-0.5, 0.5, 1001)
    assert growth_ends(first, second, wide) == pytest.approx((-0.475, 0.475))


@pytest.mark.parametrize("truths", [(0.99, 0.95), (0.9, 0.9), (0.5, 0.6)])
def test_the_interval_between_two_runs_covers_the_true_difference(truths):
    rng = np.random.default_rng(0)
    sizes, covered = (61, 20), 0
    for _ in range(400):
        parts = []
        for n, truth in zip(sizes, truths):
            hits = rng.binomial(n, truth)
            drawn = rng.binomial(n, hits / n, 400) / n
            parts.append((Estimate(hits / n, *accuracy_interval(hits / n, n, drawn)), drawn))
        (first, one), (second, other) = parts
        low, high = growth_ends(first, second, one - other)
        covered += low <= truths[0] - truths[1] <= high
    assert covered / 400 > 0.93
