"""Predictions of several methods, and the experiment replicated with other seeds and adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

REPLICATES = 20_000
"""Replicates of a bootstrap, at least."""
REPLICATES_PER_TEST = 40
"""Times the comparisons of a family, at least: the smallest p-value there is, 2/(replicates + 1),
is then below 0.05 after Holm's correction."""
F1_REPLICATES = 2000
NOT_PREDICTED = -1
_BLOCK = 1000


@dataclass(frozen=True)
class Scores:
    """Predictions of classifiers for the test adapters.

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
        """Groups that one fit is tested on, or adapters where there are no groups."""
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
