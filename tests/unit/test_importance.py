"""Permutation importance against the definition, done by hand and by scikit-learn."""

import json

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.inspection import permutation_importance as by_scikit_learn
from sklearn.metrics import accuracy_score, log_loss

from lorasweep.trainables.classifiers.base import FitState
from lorasweep.trainables.classifiers.boosting import Boosting
from lorasweep.trainables.classifiers.linear import Linear
from lorasweep.trainables.classifiers.neighbours import Neighbours
from lorasweep.trainables.data.column_names import ColumnNames
from lorasweep.trainables.trial import importance
from lorasweep.trainables.trial.importance import REPEATS, importance_part, permutation_importance

from .test_classifiers import every, fit, make, start, told

LAYERS, VALUES = ("unet.a", "unet.b", "unet.c"), ("mean", "std", "max")
NAMES = ColumnNames(LAYERS, (VALUES,) * 3)


def part_of(fitted, data, names=NAMES, transform="", seed=7):
    return importance_part(fitted, data.val, names, transform, seed)


def by_hand(fitted, split, groups, seed):
    """(n_groups, 2) drop in accuracy and rise in log loss, as the definition says."""
    rng = np.random.default_rng(seed)
    x, truth = split.x.numpy(), split.y.numpy()
    orders = [rng.permutation(len(x)) for _ in range(REPEATS)]

    def scores(features):
        log_p = fitted.predict(torch.from_numpy(features))
        known = np.arange(log_p.shape[1])
        return np.array(
            [accuracy_score(truth, log_p.argmax(1)), -log_loss(truth, np.exp(log_p), labels=known)]
        )

    def permuted(columns, order):
        features = x.copy()
        features[:, columns] = x[order][:, columns]
        return features

    return np.array(
        [
            scores(x) - np.mean([scores(permuted(columns, order)) for order in orders], axis=0)
            for columns in groups
        ]
    )


@every
@pytest.mark.parametrize("width", [9, 300])
def test_it_is_the_definition(classifier, width):
    data = make(width=width)
    fitted = fit(classifier, data)
    groups = [np.arange(3), np.arange(0, width, 3), np.arange(width)]
    expected = by_hand(fitted, data.val, groups, seed=3)
    for shortcut in {fitted.linear_part(), fitted.layer_sum(), None}:
        samples, found = permutation_importance(fitted, data.val, groups, 3, shortcut)
        assert samples == len(data.val.y)
        np.testing.assert_allclose(found, expected, atol=2e-5)
    assert (fitted.linear_part() is None) == (classifier.name in ("boosting", "gl_net"))
    assert (fitted.layer_sum() is None) == (classifier.name != "gl_net")


class Estimator(ClassifierMixin, BaseEstimator):
    """A finished fit of three classes, as scikit-learn wants to see it."""

    classes_ = np.arange(3)

    def __init__(self, fitted):
        self.projection = fitted

    def fit(self, x, y):
        raise NotImplementedError

    def predict_proba(self, x):
        return np.exp(self.projection.predict(torch.from_numpy(x)))

    def predict(self, x):
        return self.predict_proba(x).argmax(1)


@pytest.mark.long
def test_single_columns_as_scikit_learn_has_them(monkeypatch):
    """With other permutations, so many of them."""
    monkeypatch.setattr(importance, "REPEATS", 300)
    data = make()
    fitted = fit(Linear(), data)
    theirs = by_scikit_learn(
        Estimator(fitted),
        data.val.x.numpy(),
        data.val.y.numpy(),
        scoring=["accuracy", "neg_log_loss"],
        n_repeats=300,
        random_state=0,
    )
    columns = [np.array([i]) for i in range(9)]
    _, mine = permutation_importance(fitted, data.val, columns, 0, fitted.linear_part())
    np.testing.assert_allclose(mine[:, 0], theirs["accuracy"].importances_mean, atol=0.02)
    np.testing.assert_allclose(mine[:, 1], theirs["neg_log_loss"].importances_mean, atol=0.03)
    assert np.ptp(mine[:, 1]) > 0.1


@every
def test_the_layer_that_carries_the_signal_is_on_top(classifier):
    rng = np.random.default_rng(1)
    labels = np.arange(300) % 3
    features = rng.standard_normal((300, 9))
    features[:, 3:5] += np.array([[4, 0], [0, 4], [-4, -4]])[labels]
    features[:, 2::3] = 1.0  # `max` is constant
    data = make(features=features, labels=labels)
    part = part_of(fit(classifier, data), data)
    layers, kinds = part["layers"], part["kinds"]
    assert (layers["names"], kinds["names"]) == (list(LAYERS), list(VALUES))
    assert np.argmax(layers["log_loss"]) == np.argmax(layers["accuracy"]) == 1
    assert layers["log_loss"][1] > 0.2
    assert layers["accuracy"][1] > 0.2
    assert max(layers["log_loss"][0], layers["log_loss"][2]) < 0.3 * layers["log_loss"][1]
    # What is the same for all samples changes nothing, to the last bit.
    assert kinds["log_loss"][2] == kinds["accuracy"][2] == 0.0
    if classifier.name == "linear":
        assert np.argmax(layers["weights"]) == 1
        assert kinds["weights"][2] == 0.0
        assert {column for column, _, _ in part["columns"][:2]} == {"unet.b"}
        assert len(part["columns"]) == 6  # those that are 0 are not listed
    else:
        assert "weights" not in layers
        assert "columns" not in part


def test_weights_are_norms_over_classes_of_standardised_columns():
    data = make()
    fitted = fit(Linear(), data)
    weights = np.linalg.norm(fitted.column_weights(), axis=0)
    part = part_of(fitted, data)
    by_column = weights.reshape(3, 3)
    np.testing.assert_allclose(part["layers"]["weights"], by_column.sum(1), rtol=1e-5)
    np.testing.assert_allclose(part["kinds"]["weights"], by_column.sum(0), rtol=1e-5)
    order = np.argsort(-weights)
    assert [row[:2] for row in part["columns"]] == [list(NAMES.name(i)) for i in order]
    np.testing.assert_allclose([row[2] for row in part["columns"]], weights[order], rtol=1e-5)


@every
def test_it_changes_nothing_and_only_the_seed_changes_it(classifier):
    data = make()
    fitted = fit(classifier, data)
    before = told(fitted, data)
    torch.manual_seed(5)
    np.random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tobytes()
    part = part_of(fitted, data)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tobytes() == states[1]
    assert told(fitted, data) == before
    torch.manual_seed(999)
    assert part_of(fitted, data) == part_of(fit(classifier, data), data) == part
    assert part_of(fitted, data, seed=8) != part
    assert json.loads(json.dumps(part, allow_nan=False)) == part


@every
def test_a_resumed_trial_has_the_same(classifier):
    data = make()
    first = start(classifier, data)
    if first.state() is None:
        pytest.skip("starts over")
    for _ in range(3):
        first.advance(0.0)
    state = first.state()
    state = FitState({name: tensor.clone() for name, tensor in state.tensors.items()}, state.rest)
    second = start(classifier, data)
    second.load_state(state)
    while not second.finished:
        second.advance(0.0)
    assert part_of(second, data) == part_of(fit(classifier, data), data)


def test_of_a_large_split_some_samples_are_drawn():
    data = make(n=4000)
    part = part_of(fit(Linear(), data), data)
    assert part["samples"] == importance.MOST_SAMPLES < len(data.val.y)
    few = make(n=200)
    assert part_of(fit(Linear(), few), few)["samples"] == len(few.val.y)


def test_where_it_is_not_available_the_reason_is_said(monkeypatch):
    data = make()
    linear, boosting = fit(Linear(), data), fit(Boosting(), data)
    said = part_of(linear, data, transform="pca:4")
    assert said == {"unavailable": "columns of pca:4 are mixed from those of all layers"}
    said = importance_part(linear, data.val, None, "", 7)
    assert said == {"unavailable": "its values are of whole adapters, not of layers"}
    # A classifier without a linear part has a bound on its work, and keeps what is for nothing.
    monkeypatch.setattr(importance, "MOST_VALUES", 100)
    said = part_of(boosting, data)
    assert said.keys() == {"unavailable", "layers", "kinds"}
    assert "values to predict from, more than 100" in said["unavailable"]
    assert "unavailable" not in part_of(linear, data)
    one = make(n=11)
    assert len(one.val.y) == 1
    assert "one validation sample" in part_of(fit(Neighbours(), one), one)["unavailable"]
    monkeypatch.setattr(importance, "MOST_GROUPS", 5)
    said = part_of(linear, data)
    assert said.keys() == {"unavailable", "columns"}


def test_weights_of_other_columns_are_refused():
    data = make()
    fitted = fit(Linear(), data)
    fitted.column_weights = lambda: np.ones((2, 4))
    with pytest.raises(ValueError, match=r"must be \(k, 9\), not \(2, 4\)"):
        part_of(fitted, data)
