"""Numbers of one (config, method) cell, and of two of them compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lorasweep.trainables.store.standing import Standing

from .bootstrap import Floats
from .intervals import CONFIDENCE, NO_SPREAD
from .runs import Cell
from .statistics import Comparison, is_distinguishable


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CellResult:
    """One (config, method) cell over its seeds.

    Attributes:
        method: representation@classifier.
        varies: whether seeds or folds give it several scores; of a cell of a classifier that no
            seed changes, without folds, the one trial stands for all.
        features: width of the input; layers: number of layer tensors.
        accuracy, macro_f1: on test, with intervals over seeds and test adapters.
        accuracy_seeds: the same mean with the t interval over seeds alone, or folds: this split
            only; None with one score or none.
        test: (n_seeds,) test accuracy.
        train_acc: mean; gap: mean of train − test accuracy.
        standing: how good it is on the validation split.
        std: sample standard deviation of the test accuracy; None with one or none.
        agreement: share of test adapters for which two seeds predict alike, over all two seeds;
            None with one or none.
        ece, log_loss: mean on test.
        seconds, epochs: mean training time of a trial and epochs it ran.

    What a record lacks is NaN.
    """

    config: str
    method: str
    varies: bool
    features: int
    layers: int
    accuracy: Estimate
    accuracy_seeds: Estimate | None
    macro_f1: Estimate
    test: Floats
    train_acc: float
    standing: Standing
    gap: float
    std: float | None
    agreement: float | None
    ece: float
    log_loss: float
    seconds: float
    epochs: float

    @property
    def val_acc(self) -> float:
        """Mean validation accuracy; NaN where a record lacks it."""
        return np.nan if self.standing.val_acc is None else self.standing.val_acc

    @property
    def cell(self) -> Cell:
        """(config, method)."""
        return self.config, self.method


@dataclass(frozen=True)
class Tested:
    """A comparison of two cells with p-values adjusted within its family by Holm's method.

    Attributes:
        first, second: what is compared; differences are first − second.
        holm_adapters, holm_seeds: adjusted p-values of `Comparison`; None where it has none.
    """

    first: CellResult
    second: CellResult
    test: Comparison
    holm_adapters: float | None
    holm_seeds: float | None

    @property
    def distinguishable(self) -> bool:
        """See `is_distinguishable`."""
        return is_distinguishable(
            varies=self.first.varies or self.second.varies,
            n_paired=self.test.n_paired,
            p_adapters=self.holm_adapters,
            p_seeds=self.holm_seeds,
        )


@dataclass(frozen=True)
class Ablation(Tested):
    """What a representation loses from all layers (first) to another config (second).

    Attributes:
        relative: drop as a share of the accuracy with all layers.
        retained: share of the accuracy above chance that is kept.

    Both are None unless the accuracy with all layers is above chance: there is nothing to lose.
    """

    relative: Estimate | None
    retained: Estimate | None


def seeds_interval(
    values: Floats, overlap: float | None = None, mean: float | None = None
) -> Estimate | None:
    """Mean and Student's t interval over seeds or folds, within [0, 1]; None with one, or if
    none differs from another: that they would never is not known.

    Arguments:
        overlap: n_test/n_train where every seed has a split of its own, as in `seeds_p`.
        mean: of pooled folds; None: that of the values.
    """
    if len(values) < 2 or np.ptp(values) <= NO_SPREAD:
        return None
    from scipy import stats

    mean = float(values.mean()) if mean is None else mean
    error = float(values.std(ddof=1)) * np.sqrt(1 / len(values) + (overlap or 0.0))
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * error)
    return Estimate(mean, max(0.0, mean - reach), min(1.0, mean + reach))
