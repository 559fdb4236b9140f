"""Classification metrics of one split, with scikit-learn's definitions.

They are computed from the confusion matrix and the predicted probabilities in one go: a sweep of
small trials would otherwise spend more time in metric calls than in training.
An undefined metric is None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

CALIBRATION_BINS = 15
RECALL_LEVELS = 51
"""Recalls 0, 0.02, … 1 at which the precision–recall curve is recorded."""


@dataclass(frozen=True)
class SplitScores:
    """What a trial records about one split.

    Attributes:
        metrics: name -> value or None where it is undefined.
        confusion: (n_classes, n_classes) counts, rows are true classes.
        per_class: precision, recall, f1 (None where undefined) and support of every class.
        predictions: (n,) predicted class indices, in split order.
        calibration: see `calibration_bins`.
        precision_recall: see `precision_at_recall`.
    """

    metrics: dict[str, float | None]
    confusion: list[list[int]]
    per_class: dict[str, list[Any]]
    predictions: list[int]
    calibration: dict[str, list[Any]]
    precision_recall: list[float]


class Predictions:
    """What a classifier says of a split, and what metrics share, computed once.

    Arguments:
        log_probabilities: (n, n_classes) float64, n ≥ 1.
        truth: (n,) class indices.
    """

    def __init__(self, log_probabilities: np.ndarray, truth: np.ndarray) -> None:
        self.log_probabilities, self.truth = log_probabilities, truth
        self.n_classes = log_probabilities.shape[1]

    @cached_property
    def predicted(self) -> np.ndarray:
        """(n,) class indices."""
        return self.log_probabilities.argmax(axis=1)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(n, n_classes) float64."""
        return np.exp(self.log_probabilities)

    @cached_property
    def confusion(self) -> np.ndarray:
        """See `confusion_matrix`."""
        return confusion_matrix(self.truth, self.predicted, self.n_classes)

    @cached_property
    def by_confusion(self) -> dict[str, float | None]:
        """See `confusion_metrics`."""
        return confusion_metrics(self.confusion)

    @cached_property
    def calibration(self) -> dict[str, list[Any]]:
        """See `calibration_bins`."""
        return calibration_bins(self.probabilities, self.truth)

    @cached_property
    def loss(self) -> float:
        """Mean negative log-likelihood, in nats."""
        return float(-self.log_probabilities[np.arange(len(self.truth)), self.truth].mean())


@dataclass(frozen=True)
class Metric:
    """One number about a split. Records hold it as val_NAME and test_NAME.

    Attributes:
        compute: None where it is undefined.
        on_train: whether records have it of the training split, too.
        summarised: whether results.json has its mean and spread over seeds.
    """

    name: str
    compute: Callable[[Predictions], float | None]
    on_train: bool = False
    summarised: bool = False

    @property
    def recorded(self) -> list[str]:
        """Its names in a record."""
        splits = ("train", "val", "test") if self.on_train else ("val", "test")
        return [f"{split}_{self.name}" for split in splits]


def _of_confusion(name: str, *, summarised: bool = False) -> Metric:
    return Metric(name, lambda of: of.by_confusion[name], summarised=summarised)


METRICS = (
    Metric(
        "acc",
        lambda of: float(np.trace(of.confusion) / of.confusion.sum()),
        on_train=True,
        summarised=True,
    ),
    Metric("loss", lambda of: of.loss, on_train=True),
    Metric("log_loss", lambda of: of.loss, summarised=True),
    _of_confusion("f1", summarised=True),
    _of_confusion("precision", summarised=True),
    _of_confusion("recall", summarised=True),
    _of_confusion("weighted_f1"),
    _of_confusion("balanced_acc"),
    _of_confusion("mcc"),
    Metric("top3_acc", lambda of: top_k_accuracy(of.log_probabilities, of.truth, 3)),
    Metric("roc_auc_ovr", lambda of: roc_auc_ovr(of.probabilities, of.truth)),
    Metric("ece", lambda of: expected_calibration_error(of.calibration)),
)
"""Every metric of a split, in the order of the records. Adding one is adding it here."""


def score_split(log_probabilities: np.ndarray, truth: np.ndarray) -> SplitScores:
    """All metrics of a split.

    Arguments:
        log_probabilities: (n, n_classes) float64, n ≥ 1.
        truth: (n,) class indices.
    """
    of = Predictions(log_probabilities, truth)
    return SplitScores(
        {metric.name: metric.compute(of) for metric in METRICS},
        of.confusion.tolist(),
        per_class(of.confusion),
        of.predicted.tolist(),
        of.calibration,
        precision_at_recall(of.probabilities, truth),
    )


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(n_classes, n_classes) int64 counts; rows are true classes, columns predicted ones."""
    cells = np.bincount(truth * n_classes + predicted, minlength=n_classes**2)
    return cells.reshape(n_classes, n_classes)


def confusion_metrics(confusion: np.ndarray) -> dict[str, float | None]:
    """Macro F1, precision and recall, weighted F1, balanced accuracy and Matthews' correlation.

    Macro averages are over the classes that occur in truth or prediction, an empty ratio counting
    as 0; balanced accuracy is over the classes that occur in truth.
    """
    hits = np.diag(confusion).astype(np.float64)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = (support + predicted) > 0
    precision, recall = _ratio(hits, predicted), _ratio(hits, support)
    f1 = _ratio(2 * hits, support + predicted)
    total = confusion.sum()
    covariance = hits.sum() * total - support @ predicted
    spread = np.sqrt(float(total**2 - predicted @ predicted) * float(total**2 - support @ support))
    return {
        "f1": float(f1[occurs].mean()),
        "precision": float(precision[occurs].mean()),
        "recall": float(recall[occurs].mean()),
        "weighted_f1": float(f1 @ support / total),
        "balanced_acc": float(recall[support > 0].mean()),
        "mcc": float(covariance / spread) if spread else 0.0,
    }


def _ratio(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return np.divide(upper, lower, out=np.zeros_like(upper), where=lower > 0)


def per_class(confusion: np.ndarray) -> dict[str, list[Any]]:
    """Precision, recall, F1 and support of every class; None where nothing can be divided by."""
    hits = np.diag(confusion)
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)

    def ratios(upper: np.ndarray, lower: np.ndarray) -> list[float | None]:
        return [float(a / b) if b else None for a, b in zip(upper, lower)]

    return {
        "precision": ratios(hits, predicted),
        "recall": ratios(hits, support),
        "f1": ratios(2 * hits, support + predicted),
        "support": support.tolist(),
    }


def top_k_accuracy(scores: np.ndarray, truth: np.ndarray, k: int) -> float | None:
    """Share of samples whose true class is among the k highest scores; None if k ≥ n_classes."""
    if k >= scores.shape[1]:
        return None
    best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return float((best == truth[:, None]).any(axis=1).mean())


def roc_auc_ovr(probabilities: np.ndarray, truth: np.ndarray) -> float | None:
    """Macro average over classes of one-versus-rest ROC AUC; None if a class does not occur.

    The AUC is the Mann–Whitney statistic: the probability that a sample of the class scores above
    one of the rest, ties counting half.
    """
    n, n_classes = probabilities.shape
    support = np.bincount(truth, minlength=n_classes)
    if (support == 0).any() or (support == n).any():
        return None
    rank_sums = np.array(
        [_ranks(column)[truth == c].sum() for c, column in enumerate(probabilities.T)]
    )
    wins = rank_sums - support * (support + 1) / 2
    return float((wins / (support * (n - support))).mean())


def _ranks(values: np.ndarray) -> np.ndarray:
    """(n,) ranks from 1, ties sharing their average; importing scipy.stats takes half a second."""
    ascending = np.sort(values)
    below = np.searchsorted(ascending, values, side="left")
    up_to = np.searchsorted(ascending, values, side="right")
    return (below + up_to + 1) / 2


def calibration_bins(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, list[Any]]:
    """How confident predictions are, and how often right, in 15 equal-width confidence bins.

    Returns:
        count of samples, their mean confidence and their accuracy in every bin; None where it is
        empty.
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    bins = np.ceil(confidence * CALIBRATION_BINS).astype(np.int64) - 1
    bins = bins.clip(0, CALIBRATION_BINS - 1)
    count = np.bincount(bins, minlength=CALIBRATION_BINS)
    sums = (np.bincount(bins, weights=w, minlength=CALIBRATION_BINS) for w in (confidence, correct))
    means = [[float(s / n) if n else None for s, n in zip(part, count)] for part in sums]
    return {"count": count.tolist(), "confidence": means[0], "accuracy": means[1]}


def expected_calibration_error(calibration: dict[str, list[Any]]) -> float:
    """Mean |accuracy − confidence| over the bins of `calibration_bins`, weighted by samples.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.
    """
    bins = zip(calibration["count"], calibration["confidence"], calibration["accuracy"])
    gaps = [n * abs(accuracy - confidence) for n, confidence, accuracy in bins if n]
    return float(sum(gaps) / sum(calibration["count"]))


def precision_at_recall(probabilities: np.ndarray, truth: np.ndarray) -> list[float]:
    """The micro-averaged precision–recall curve at `RECALL_LEVELS` equally spaced recalls.

    All (sample, class) pairs are ranked by probability together. The precision at a recall is
    the highest that any threshold with at least this recall has.
    """
    hits = np.zeros(probabilities.shape, dtype=bool)
    hits[np.arange(len(truth)), truth] = True
    order = np.argsort(-probabilities, axis=None, kind="stable")
    scores, found = probabilities.ravel()[order], np.cumsum(hits.ravel()[order])
    # A threshold takes all pairs of equal probability or none.
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    precision = found[last] / (last + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    # Recalls are compared as counts, where 0.3 · 10 is 3.
    wanted = np.ceil(np.arange(RECALL_LEVELS) * len(truth) / (RECALL_LEVELS - 1))
    return best[np.searchsorted(found[last], wanted)].round(6).tolist()
