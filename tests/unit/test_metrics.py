"""Metrics against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from lorasweep.trainables.trial.scores import (
    calibration_bins,
    expected_calibration_error,
    score_split,
)


def random_split(n, n_classes, seed, present=None):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, present or n_classes, n)
    logits = rng.standard_normal((n, n_classes)).round(1) + 2 * np.eye(n_classes)[truth]
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return log_p, truth


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 60), st.integers(2, 7), st.integers(0, 10_000))
def test_agrees_with_scikit_learn(n, n_classes, seed):
    log_p, truth = random_split(n, n_classes, seed)
    scores = score_split(log_p, truth)
    predicted, p = log_p.argmax(1), np.exp(log_p)
    macro = {"average": "macro", "zero_division": 0}
    weighted = {"average": "weighted", "zero_division": 0}
    everyone = list(range(n_classes))
    expected = {
        "acc": sk.accuracy_score(truth, predicted),
        "f1": sk.f1_score(truth, predicted, **macro),
        "precision": sk.precision_score(truth, predicted, **macro),
        "recall": sk.recall_score(truth, predicted, **macro),
        "weighted_f1": sk.f1_score(truth, predicted, **weighted),
        "balanced_acc": np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]),
        "mcc": sk.matthews_corrcoef(truth, predicted),
        "log_loss": sk.log_loss(truth, p, labels=everyone),
        "loss": sk.log_loss(truth, p, labels=everyone),
    }
    for name, value in expected.items():
        assert scores.metrics[name] == pytest.approx(value, abs=1e-12), name
    precision, recall, _ = sk.precision_recall_curve(
        (truth[:, None] == np.arange(n_classes)).ravel(), p.ravel()
    )
    for level, value in zip(np.linspace(0, 1, 51), scores.precision_recall):
        # scikit-learn's last point, precision 1 at recall 0, belongs to no threshold.
        reached = recall[:-1] >= level - 1e-9
        assert value == pytest.approx(precision[:-1][reached].max(), abs=1e-6)
    matrix = sk.confusion_matrix(truth, predicted, labels=everyone)
    assert scores.confusion == matrix.tolist()
    assert scores.predictions == predicted.tolist()
    if n_classes > 3:
        top3 = sk.top_k_accuracy_score(truth, log_p, k=3, labels=everyone)
        best = np.sort(log_p, axis=1)
        if (np.diff(best, axis=1) > 0).all():
            assert scores.metrics["top3_acc"] == pytest.approx(top3)
    else:
        assert scores.metrics["top3_acc"] is None
    if len(np.unique(truth)) == n_classes:
        per_class = [sk.roc_auc_score(truth == c, p[:, c]) for c in everyone]
        assert scores.metrics["roc_auc_ovr"] == pytest.approx(np.mean(per_class), abs=1e-12)
    else:
        assert scores.metrics["roc_auc_ovr"] is None


def test_per_class_values_are_none_where_undefined():
    log_p, truth = random_split(30, 4, seed=3, present=3)
    log_p[:, 3] = -50.0
    scores = score_split(log_p, truth)
    values = sk.precision_recall_fscore_support(
        truth, log_p.argmax(1), labels=range(4), zero_division=np.nan
    )
    for name, expected in zip(("precision", "recall", "f1", "support"), values):
        got = [np.nan if v is None else v for v in scores.per_class[name]]
        np.testing.assert_allclose(got, expected)
    assert scores.per_class["recall"][3] is None
    assert scores.per_class["support"][3] == 0


def test_calibration_error_of_known_cases():
    truth = np.array([0] * 8 + [1] * 2)
    certain = np.tile([1.0, 0.0], (10, 1))
    assert expected_calibration_error(calibration_bins(certain, truth)) == pytest.approx(0.2)
    calibrated = np.tile([0.8, 0.2], (10, 1))
    assert expected_calibration_error(calibration_bins(calibrated, truth)) == pytest.approx(
        0.0, abs=1e-12
    )
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 200)
    y = rng.integers(0, 3, 200)
    confidence, correct = p.max(1), p.argmax(1) == y
    expected = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert expected_calibration_error(calibration_bins(p, y)) == pytest.approx(expected)
