"""What every classifier promises, and each against an independent implementation."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorasweep.features.common.errors import UserError
from lorasweep.features.layers.factor_layout import FactorColumns
from lorasweep.trainables.classifiers import linear_training
from lorasweep.trainables.classifiers.base import DataSize, FitState
from lorasweep.trainables.classifiers.boosting import Boosting, BoostingSettings, parameters
from lorasweep.trainables.classifiers.catalogue import CLASSIFIERS
from lorasweep.trainables.classifiers.gl_net import GlNetSettings
from lorasweep.trainables.classifiers.linear import LinearSettings
from lorasweep.trainables.classifiers.mlp import MlpSettings
from lorasweep.trainables.classifiers.probabilities import ABSENT
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.data.trial_data import SplitTensors, TrialData, prepare_data

QUICK = {
    "gl_net": GlNetSettings(hidden_dim=16, channels=8, epochs=25, batch_size=16, lr=0.01),
    "mlp": MlpSettings(hidden_dim=16, epochs=25, batch_size=16, lr=0.01),
    "boosting": BoostingSettings(rounds=25, patience=5),
}

NETWORKS = ("mlp", "gl_net")

every = pytest.mark.parametrize("classifier", CLASSIFIERS.values(), ids=CLASSIFIERS)


def layout(width):
    """One layer, or two of different shapes, that have so many columns together."""
    if width < 10:
        return (FactorColumns("a", width - width // 2, width // 2, 1, 0),)
    first = FactorColumns("a", (width + 1) // 2 - 2, width // 2 - 2, 1, 0)
    return first, FactorColumns("b", 2, 2, 1, first.width)


def make(n=200, width=9, n_classes=3, noise=1.5, features=None, labels=None):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % n_classes if labels is None else labels
    if features is None:
        means = rng.standard_normal((n_classes, width))
        features = rng.standard_normal((n, width)) * noise + means[labels]
    features = features.astype(np.float32)
    return prepare_data(features, labels, SplitRule().split(n), n_classes, torch.device("cpu"))


def start(classifier, data, seed=1):
    torch.set_num_threads(1)
    if classifier.reads_factors:
        data = replace(data, layout=layout(data.n_features))
    return classifier.start(data, QUICK.get(classifier.name, classifier.Settings()), seed)


def fit(classifier, data, seed=1, seconds=1e9):
    fitted = start(classifier, data, seed)
    while not fitted.finished:
        fitted.advance(seconds)
    return fitted


def told(fitted, data):
    return (
        fitted.predict(data.test.x).tobytes(),
        {name: list(curve) for name, curve in fitted.curves.items()},
        fitted.outcome(),
    )


def check(fitted, data):
    for split in (data.train, data.val, data.test):
        log_p = fitted.predict(split.x)
        assert log_p.shape == (len(split.y), data.n_classes)
        assert log_p.dtype == np.float64
        assert np.isfinite(log_p).all()
        np.testing.assert_allclose(np.exp(log_p).sum(1), 1, rtol=1e-12)
    outcome = fitted.outcome()
    assert 1 <= outcome["best_epoch"] <= outcome["epochs_run"]
    assert all(len(curve) == outcome["epochs_run"] for curve in fitted.curves.values())


def test_the_catalogue_finds_them_without_heavy_imports():
    assert list(CLASSIFIERS) == ["mlp", "boosting", "gl_net", "linear", "neighbours"]
    code = (
        "import sys, lorasweep.trainables.classifiers.catalogue\n"
        "print({'torch', 'lightgbm', 'sklearn', 'numpy', 'scipy'} & set(sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


@every
def test_what_is_kept_predicts_as_the_fit(classifier):
    labels = np.arange(200) % 3
    labels[labels == 2] = 3  # a class that there is not
    data = make(n_classes=4, labels=labels)
    fitted = fit(classifier, data)
    state = fitted.export_state()
    config = QUICK.get(classifier.name, classifier.Settings())
    loaded = classifier.load(FitState(dict(state.tensors), state.rest), data.n_features, 4, config)
    found = loaded.predict(data.test.x)
    np.testing.assert_array_equal(found, fitted.predict(data.test.x))


@every
def test_it_learns_and_its_probabilities_are_some(classifier):
    data = make(noise=0.7)
    fitted = fit(classifier, data)
    check(fitted, data)
    accuracy = fitted.predict(data.test.x).argmax(1) == data.test.y.numpy()
    assert accuracy.mean() > 0.5


@every
def test_what_decides_the_result(classifier):
    data = make()
    whole = told(fit(classifier, data), data)
    assert told(fit(classifier, data), data) == whole, "twice the same"
    assert told(fit(classifier, data, seconds=0.0), data) == whole, "slices"
    assert (told(fit(classifier, data, seed=2), data) != whole) == classifier.seeded


@every
@pytest.mark.parametrize("width", [9, 300])
def test_a_state_goes_on_bit_for_bit(classifier, width):
    data = make(width=width)
    first = start(classifier, data)
    if first.state() is None:
        pytest.skip("starts over")
    for _ in range(3):
        first.advance(0.0)
    state = first.state()
    state = FitState({name: tensor.clone() for name, tensor in state.tensors.items()}, state.rest)
    whole = told(fit(classifier, data), data)
    second = start(classifier, data)
    torch.manual_seed(999)
    second.load_state(state)
    while not second.finished:
        second.advance(0.0)
    assert told(second, data) == whole


@every
@pytest.mark.parametrize(
    "case", ["one feature", "constant", "constant only", "two classes", "wide", "tiny", "huge"]
)
def test_odd_data(classifier, case):
    rng = np.random.default_rng(1)
    if case == "one feature":
        if classifier.reads_factors:
            pytest.skip("a layer has two")
        data = make(width=1)
    elif case == "constant":
        features = rng.standard_normal((120, 5)) + np.arange(120)[:, None] % 3
        features[:, [1, 3]] = 4.0
        data = make(120, features=features)
    elif case == "constant only":
        data = make(60, features=np.full((60, 2), 3.0))
    elif case == "two classes":
        data = make(n_classes=2)
    elif case == "wide":
        data = make(60, width=500)
    elif case == "tiny":
        data = make(8, width=4)
    else:
        features = rng.standard_normal((60, 3))
        features[SplitRule().split(60).test, 0] = 3e38
        data = make(60, features=features)
        if classifier.name in NETWORKS:
            pytest.skip("its float32 logits overflow")
    check(fit(classifier, data), data)


@every
@pytest.mark.parametrize("present", [[0, 2], [1]])
def test_a_class_that_the_training_split_lacks(classifier, present):
    rng = np.random.default_rng(2)
    labels = np.full(100, 3)
    train = SplitRule().split(100).train
    labels[train] = np.resize(present, len(train))
    val = SplitRule().split(100).val
    labels[val[:3]] = present[0]
    data = make(100, n_classes=4, features=rng.standard_normal((100, 6)), labels=labels)
    fitted = fit(classifier, data)
    check(fitted, data)
    if classifier.name not in NETWORKS:
        log_p = fitted.predict(data.test.x)
        assert set(log_p.argmax(1)) <= set(present)
    if classifier.name in ("linear", "boosting"):
        np.testing.assert_allclose(log_p[:, 3], np.log(ABSENT))
    labels[val] = 3
    none_known = make(100, n_classes=4, features=rng.standard_normal((100, 6)), labels=labels)
    check(fit(classifier, none_known), none_known)


@every
def test_settings_go_through_json(classifier):
    config = classifier.Settings()
    assert classifier.Settings.from_json(config.to_json()) == config
    assert classifier.Settings.from_json({}) == config
    with pytest.raises(UserError, match="unknown setting 'colour'"):
        classifier.Settings.from_json({**config.to_json(), "colour": 1})


@every
def test_memory_grows_with_the_matrix(classifier):
    config = classifier.Settings()
    small, wide = (DataSize(50_000, width, 10, layout(width)) for width in (640, 1792))
    more = classifier.host_bytes(wide, config) - classifier.host_bytes(small, config)
    assert more >= 50_000 * 4 * (1792 - 640)
    assert (classifier.device_bytes(small, config) > 0) == (classifier.name in NETWORKS)


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (MlpSettings, {"dropout": 1.5}, "--dropout must be at least 0 and below 1, not 1.5"),
        (LinearSettings, {"weakest": 0.0}, "--linear-weakest must be a positive number"),
        (LinearSettings, {"strongest": 1e-9}, "--linear-strongest must be at least"),
        (LinearSettings, {"strengths": 0}, "--linear-strengths must be at least 1"),
        (BoostingSettings, {"leaves": 1}, "--boosting-leaves must be at least 2"),
        (BoostingSettings, {"learning_rate": 0.0}, "--boosting-learning-rate must be a positive"),
        (BoostingSettings, {"sample_share": 1.1}, "--boosting-sample-share must be above 0"),
    ],
)
def test_impossible_settings_are_named(config, change, message):
    with pytest.raises(UserError, match=message):
        config(**change)


@pytest.mark.parametrize("name", ["linear", "neighbours", "mlp", "gl_net"])
def test_features_that_are_not_numbers_are_an_error(name):
    data = make()
    data.train.x[3, 1] = float("nan")
    with pytest.raises(RuntimeError, match="features hold values that are not finite"):
        fit(CLASSIFIERS[name], data)


@pytest.mark.parametrize(
    ("width", "strength", "tolerance"),
    [(9, 0.03, 1e-6), (9, 1e-4, 1e-6), (300, 0.03, 1e-8), (300, 1e-3, 1e-8)],
)
def test_linear_against_scikit_learn(width, strength, tolerance, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setattr(linear_training, "GRADIENT_TOLERANCE", tolerance)
    data = make(width=width)
    config = LinearSettings(strongest=strength, weakest=strength, strengths=1)
    fitted = CLASSIFIERS["linear"].start(data, config, 0)
    fitted.advance(0.0)
    assert fitted.outcome()["converged"]
    x, y = data.train.x.double().numpy(), data.train.y.numpy()
    theirs = LogisticRegression(C=1 / (strength * len(y)), tol=1e-9, max_iter=10_000).fit(x, y)
    expected = theirs.predict_log_proba(data.test.x.double().numpy())
    np.testing.assert_allclose(fitted.predict(data.test.x), expected, atol=3e-4)


def test_linear_prefers_accuracy_then_loss_then_the_stronger_penalty():
    data = make(noise=3.0)
    fitted = fit(CLASSIFIERS["linear"], data)
    curves, outcome = fitted.curves, fitted.outcome()
    ranks = list(zip(curves["val_acc_history"], (-loss for loss in curves["val_loss_history"])))
    assert outcome["best_epoch"] == ranks.index(max(ranks)) + 1
    assert outcome["strength"] == pytest.approx(10.0 ** (1 - outcome["best_epoch"]))
    constant = make(60, features=np.full((60, 2), 3.0))
    assert fit(CLASSIFIERS["linear"], constant).outcome()["best_epoch"] == 1


def test_neighbours_against_scikit_learn():
    from sklearn.neighbors import KNeighborsClassifier

    data = make(noise=2.0)
    fitted = fit(CLASSIFIERS["neighbours"], data)
    accuracies = []
    for k in (1, 3, 5, 9):
        theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
        theirs.fit(data.train.x.double().numpy(), data.train.y.numpy())
        accuracies.append(theirs.score(data.val.x.double().numpy(), data.val.y.numpy()))
    assert fitted.curves["val_acc_history"] == pytest.approx(accuracies)
    k = fitted.outcome()["neighbours"]
    assert (1, 3, 5, 9).index(k) == int(np.argmax(accuracies))
    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute")
    theirs.fit(data.train.x.double().numpy(), data.train.y.numpy())
    share = theirs.predict_proba(data.test.x.double().numpy())
    smoothed = (share * k + 1 / 3) / (k + 1)
    np.testing.assert_allclose(np.exp(fitted.predict(data.test.x)), smoothed)


def test_more_neighbours_than_samples_are_left_out():
    x, y = torch.eye(4)[:, :3], torch.tensor([0, 1, 0, 1])
    split = SplitTensors(x, y)
    fitted = fit(CLASSIFIERS["neighbours"], TrialData(split, split, split, 2))
    assert fitted.outcome()["epochs_run"] == 2


def test_boosting_is_lightgbm():
    import lightgbm

    data, config = make(), QUICK["boosting"]
    fitted = fit(CLASSIFIERS["boosting"], data, seed=4)
    options = parameters(config, 3, 4)
    train = lightgbm.Dataset(data.train.x.numpy(), data.train.y.numpy())
    val = lightgbm.Dataset(data.val.x.numpy(), data.val.y.numpy(), reference=train)
    stop = lightgbm.early_stopping(config.patience, verbose=False)
    booster = lightgbm.train(options, train, config.rounds, [val], callbacks=[stop])
    assert fitted.outcome()["best_epoch"] == booster.best_iteration
    np.testing.assert_allclose(
        np.exp(fitted.predict(data.test.x)),
        booster.predict(data.test.x.numpy()),
        rtol=1e-12,
    )


def test_boosting_refuses_wide_matrices():
    assert Boosting().refusal(2048) is None
    assert "at most 2,048 features, not 2,049" in Boosting().refusal(2049)
    assert CLASSIFIERS["linear"].refusal(10**6) is None
