from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import DamagedFileError
from lorasweep.features.layers.factor_layout import FactorColumns
from lorasweep.trainables.classifiers.base import FitState
from lorasweep.trainables.classifiers.gl_net import GlNetSettings
from lorasweep.trainables.classifiers.gl_net_training import GlNetTraining
from lorasweep.trainables.classifiers.mlp import MlpSettings
from lorasweep.trainables.classifiers.mlp_training import Training, build_classifier
from lorasweep.trainables.classifiers.network_training import TrainingDivergedError, batch_bounds
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.data.trial_data import prepare_data
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.state import TrialState, delete_state, read_state, write_state
from lorasweep.trainables.store.trial_key import TrialKey
from lorasweep.trainables.trial.scores import score_split

SMALL = MlpSettings(hidden_dim=64, epochs=60, patience=8, batch_size=8, lr=0.01)


def toy_data(n=60, noise=0.5, n_classes=3):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % n_classes
    features = (rng.standard_normal((n, 7)) * noise + labels[:, None]).astype(np.float32)
    return prepare_data(features, labels, SplitRule().split(n), n_classes, torch.device("cpu"))


def train(data, config=SMALL, seed=1, network=Training):
    torch.set_num_threads(1)
    training = network(data, config, seed)
    while not training.finished:
        training.step()
    return training


def test_the_classifier_is_three_blocks_and_a_linear_layer():
    model = build_classifier(20, 4, MlpSettings())
    names = [type(layer).__name__ for layer in model]
    assert names == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 3 + ["Linear"]
    assert [tuple(p.shape) for p in model.parameters() if p.ndim == 2] == [
        (512, 20),
        (512, 512),
        (512, 512),
        (4, 512),
    ]
    assert model[3].p == 0.5


def test_it_learns_and_keeps_the_best_epoch():
    data = toy_data()
    training = train(data)
    scores = score_split(training.predict(data.val.x), data.val.y.numpy())
    assert scores.metrics["acc"] == max(training.val_acc_history) > 0.8
    assert training.val_acc_history[training.best_epoch - 1] == max(training.val_acc_history)
    assert training.val_acc_history.index(max(training.val_acc_history)) + 1 == training.best_epoch


def test_early_stopping_counts_epochs_since_the_best():
    training = train(toy_data())
    assert training.stopped_early
    assert training.epoch == training.best_epoch + SMALL.patience
    long = train(toy_data(), MlpSettings(hidden_dim=4, epochs=3, patience=15))
    assert not long.stopped_early
    assert long.epoch == 3


def test_the_learning_rate_halves_after_ten_epochs_without_a_better_accuracy():
    config = MlpSettings(hidden_dim=16, epochs=45, patience=45, lr=0.01)
    training = train(toy_data(noise=0.2), config)
    expected, best, waited = config.lr, -1.0, 0
    for acc in training.val_acc_history:
        best, waited = (acc, 0) if acc > best * (1 + 1e-4) else (best, waited + 1)
        if waited > 10:
            expected, waited = expected / 2, 0
    assert expected < config.lr
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_a_seed_decides_everything_bit_for_bit():
    data = toy_data(noise=1.5)
    first, again, other = train(data, seed=5), train(data, seed=5), train(data, seed=6)
    assert first.train_loss_history == again.train_loss_history
    assert first.val_acc_history == again.val_acc_history
    for name, value in first.best_state.items():
        assert torch.equal(value, again.best_state[name])
    assert first.train_loss_history != other.train_loss_history


def test_a_diverging_training_is_an_error_not_a_number():
    with pytest.raises(TrainingDivergedError, match="smaller --lr"):
        train(toy_data(), MlpSettings(hidden_dim=8, lr=1e30))


def test_features_that_are_not_numbers_are_not_blamed_on_the_learning_rate():
    data = toy_data()
    data.train.x[3, 1] = float("nan")
    with pytest.raises(TrainingDivergedError, match="features hold values that are not") as caught:
        train(data)
    assert "--lr" not in str(caught.value)


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(128, 64, [64, 64]), (129, 64, [64, 65]), (130, 64, [64, 64, 2]), (5, 64, [5]), (3, 2, [3])],
)
def test_no_batch_has_a_single_sample(n, size, sizes):
    bounds = batch_bounds(n, size)
    assert np.diff(bounds).tolist() == sizes


def test_standardised_with_training_statistics():
    rng = np.random.default_rng(2)
    features = rng.standard_normal((50, 4)).astype(np.float32) * [1, 1e-20, 1e30, 0] + [5, 0, 0, 3]
    features = features.astype(np.float32)
    split = SplitRule().split(50)
    data = prepare_data(features.copy(), np.arange(50) % 2, split, 2, torch.device("cpu"))
    x = data.train.x.double()
    assert torch.allclose(x.mean(0), torch.zeros(4, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(
        x.std(0, correction=0), torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64), atol=1e-6
    )
    train = features[split.train].astype(np.float64)
    expected = (features[split.test][:, :3] - train.mean(0)[:3]) / train.std(0)[:3]
    np.testing.assert_allclose(data.test.x[:, :3], expected, rtol=1e-5, atol=1e-6)
    assert data.val.y.tolist() == (split.val % 2).tolist()


def test_standardised_values_stay_finite_at_the_limits_of_float32():
    features = np.zeros((40, 2), dtype=np.float32)
    split = SplitRule().split(40)
    features[split.test, 0] = 3.4e38
    features[split.train[0], 1] = 3.4e38
    data = prepare_data(features, np.arange(40) % 2, split, 2, torch.device("cpu"))
    for part in (data.train, data.val, data.test):
        assert torch.isfinite(part.x).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dropout": 1.5}, "--dropout must be at least 0 and below 1, not 1.5"),
        ({"dropout": -0.1}, "--dropout"),
        ({"lr": 0.0}, "--lr must be a positive number"),
        ({"lr": float("nan")}, "--lr must be a positive number"),
        ({"weight_decay": -1.0}, "--weight-decay"),
        ({"hidden_dim": 0}, "--hidden-dim must be at least 1"),
        ({"batch_size": 1}, "--batch-size must be at least 2"),
        ({"epochs": 0}, "--epochs"),
        ({"patience": 0}, "--patience"),
    ],
)
def test_impossible_configparameters_are_named(change, message):
    with pytest.raises(UserError, match=message):
        MlpSettings(**change)


@pytest.mark.parametrize(
    ("network", "kind", "after"),
    [
        (Training, MlpSettings, 1),
        (Training, MlpSettings, 7),
        (Training, MlpSettings, 25),
        (GlNetTraining, partial(GlNetSettings, channels=4, equivariant_layers=2), 7),
    ],
)
def test_a_slot_continues_bit_for_bit(network, kind, after, tmp_path):
    config = kind(hidden_dim=32, epochs=40, patience=40, batch_size=8)
    layout = (FactorColumns("a", 3, 4, 1, 0),)
    data = replace(toy_data(noise=1.5), layout=layout)
    whole = train(data, config, 3, network)

    first = network(data, config, 3)
    for _ in range(after):
        first.step()
    state = first.state()
    key = TrialKey("all_layers", "stats", 3)
    write_state(tmp_path, key, TrialState("print", {"device": "cpu"}, state.tensors, state.rest))
    torch.manual_seed(999)
    torch.randn(5)

    slot = read_state(tmp_path, key)
    assert (slot.fingerprint, slot.environment) == ("print", {"device": "cpu"})
    second = network(data, config, 3)
    second.load_state(FitState(slot.tensors, slot.rest))
    while not second.finished:
        second.step()
    assert second.train_loss_history == whole.train_loss_history
    assert second.val_acc_history == whole.val_acc_history
    assert second.best_epoch == whole.best_epoch
    for name, value in whole.best_state.items():
        assert torch.equal(value, second.best_state[name])
    np.testing.assert_array_equal(second.predict(data.test.x), whole.predict(data.test.x))


def test_every_damage_to_a_slot_is_noticed(tmp_path):
    training = Training(toy_data(), MlpSettings(hidden_dim=4, epochs=3), 0)
    training.step()
    state = training.state()
    tensors, state = state.tensors, state.rest
    key = TrialKey("all_layers", "stats", 0)
    write_state(tmp_path, key, TrialState("print", {}, tensors, state))
    path = RunDir(tmp_path).state(key)
    intact = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(intact), 60):
        flipped = bytearray(intact)
        flipped[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            slot = read_state(tmp_path, key)
        except DamagedFileError:
            continue
        # A bit that means nothing, such as white space of the header, may flip unnoticed.
        assert slot.rest == state
        assert all(torch.equal(slot.tensors[name], tensors[name]) for name in tensors)
    for size in [0, 1, 8, 100, len(intact) // 2, len(intact) - 1]:
        path.write_bytes(intact[:size])
        with pytest.raises(DamagedFileError):
            read_state(tmp_path, key)
    path.write_bytes(intact)
    other = TrialKey("all_layers", "stats", 1)
    path.rename(RunDir(tmp_path).state(other))
    with pytest.raises(DamagedFileError, match="another trial"):
        read_state(tmp_path, other)
    delete_state(tmp_path, other)
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path, other)


class HostWaits(TorchDispatchMode):
    """Counts what makes the host wait for a device, or moves tensors between devices."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        moves = name == "_to_copy" and kwargs.get("device") is not None
        self.count += moves or name in ("_local_scalar_dense", "nonzero", "masked_select")
        return func(*args, **kwargs)


def test_the_host_waits_no_more_often_with_more_batches():
    counts = []
    for batch_size in (40, 4, 2):
        config = MlpSettings(hidden_dim=8, batch_size=batch_size)
        training = Training(toy_data(), config, seed=0)
        with HostWaits() as waits:
            training.step()
        counts.append(waits.count)
    assert counts[0] == counts[1] == counts[2] <= 1
    with HostWaits() as waits:
        torch.ones(3).sum().item()
    assert waits.count == 1, "the count counts"
