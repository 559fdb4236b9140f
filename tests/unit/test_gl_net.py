"""GL-net: what its output does not depend on, and what its sizes and scales are."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lorasweep.features.common.errors import UserError
from lorasweep.features.layers.factor_layout import layout_of
from lorasweep.features.layers.pairing import Layer
from lorasweep.trainables.classifiers.base import DataSize
from lorasweep.trainables.classifiers.gl_net import GlNet, GlNetSettings
from lorasweep.trainables.classifiers.gl_net_training import GlNetTraining, GlNetwork
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.data.trial_data import prepare_data

SHAPES = {"a": (12, 7, 2), "b": (7, 12, 2), "c": (12, 7, 2), "d": (5, 5, 3), "e": (3, 9, 1)}
LAYOUT = layout_of(Layer(name, "", "", shape, None) for name, shape in SHAPES.items())
CONFIG = GlNetSettings(hidden_dim=16, channels=6, equivariant_layers=2, epochs=12, batch_size=16)


def factors(n=90, seed=0):
    """Layer -> (n, outputs, rank) and (n, rank, inputs), and n labels; a class has an update of its
    own, whose factors are mixed at random for every sample."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    found = {}
    for name, (outputs, inputs, rank) in SHAPES.items():
        up = rng.standard_normal((3, outputs, rank))[labels]
        down = rng.standard_normal((3, rank, inputs))[labels]
        mixing = random_g(rng, n, rank)
        up = up @ mixing + 0.3 * rng.standard_normal(up.shape)
        found[name] = up, np.linalg.solve(mixing, down)
    return found, labels


def random_g(rng, n, rank):
    """(n, rank, rank) of condition up to 10."""
    left, right = (np.linalg.qr(rng.standard_normal((n, rank, rank)))[0] for _ in range(2))
    return left * rng.uniform(0.5, 5, (n, 1, rank)) @ right


def flattened(of):
    """(n, n_features) float32, as `flat` has it."""
    parts = [part.reshape(len(part), -1) for name in sorted(of) for part in of[name]]
    return np.concatenate(parts, axis=1).astype(np.float32)


def prepared(of, labels, layout=LAYOUT):
    split = SplitRule().split(len(labels))
    return prepare_data(flattened(of), labels, split, 3, torch.device("cpu"), layout=layout)


def train(data, config=CONFIG, seed=1):
    torch.set_num_threads(1)
    training = GlNetTraining(data, config, seed)
    while not training.finished:
        training.step()
    return training


@pytest.fixture(scope="module")
def trained():
    return train(prepared(*factors()))


def log_probabilities(training, of):
    return training.predict(torch.from_numpy(flattened(of)))


def test_it_recognises_the_update_in_any_factors(trained):
    of, labels = factors()
    test = SplitRule().split(len(labels)).test
    hits = log_probabilities(trained, of).argmax(1) == labels
    assert hits[test].mean() > 0.8


@pytest.mark.parametrize("change", ["any", "permuted", "signs", "scaled"])
def test_a_trained_network_does_not_see_how_an_update_is_factored(trained, change):
    rng = np.random.default_rng(3)
    of, _ = factors()
    changed = {}
    for name, (up, down) in of.items():
        n, _, rank = up.shape
        if change == "any":
            g = random_g(rng, n, rank)
        elif change == "permuted":
            g = np.eye(rank)[np.stack([rng.permutation(rank) for _ in range(n)])]
        elif change == "signs":
            g = np.eye(rank) * rng.choice([-1, 1], (n, 1, rank))
        else:
            g = np.eye(rank) * 10.0 ** rng.uniform(-12, 12, (n, 1, 1))
        changed[name] = up @ g, np.linalg.solve(g, down)
    assert not np.allclose(flattened(changed), flattened(of), atol=0.1)
    expected = log_probabilities(trained, of)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(log_probabilities(trained, changed), expected, atol=2e-4)


def test_padding_of_the_rank_changes_nothing(trained):
    of, _ = factors()
    padded, layers = {}, []
    for name, (up, down) in of.items():
        outputs, inputs, rank = SHAPES[name]
        padded[name] = np.pad(up, ((0, 0), (0, 0), (0, 2))), np.pad(down, ((0, 0), (0, 2), (0, 0)))
        layers.append(Layer(name, "", "", (outputs, inputs, rank + 2), None))
    trained.restore_best()
    wider = GlNetwork(layout_of(layers), 3, CONFIG).eval()
    wider.load_state_dict(trained.model.state_dict())
    with torch.no_grad():
        found = wider(torch.from_numpy(flattened(padded))).double().log_softmax(1)
    np.testing.assert_allclose(found, log_probabilities(trained, of), atol=2e-4)


def test_against_the_formulas(trained):
    """One sample, layer by layer, in float64."""
    trained.restore_best()
    of, _ = factors()
    state = {name: value.double().numpy() for name, value in trained.model.state_dict().items()}
    invariants = []
    for i, group in enumerate(trained.model.groups):
        for j, layer in enumerate(group.layers):
            up, down = (part[4] for part in of[layer.layer])
            root = state[f"groups.{i}.root_scale"][j]
            u = state[f"groups.{i}.up_map"][j].T @ up * root
            v = state[f"groups.{i}.down_map"][j].T @ down.T * root
            sums = u @ v.T
            u = 2 * u / (1 + np.exp(-sums.sum(1, keepdims=True) / 6**0.5))
            v = 2 * v / (1 + np.exp(-sums.sum(0)[:, None] / 6**0.5))
            u = state[f"groups.{i}.gated_up_maps.0"][j].T @ u
            v = state[f"groups.{i}.gated_down_maps.0"][j].T @ v
            invariants.append((u @ v.T).ravel())
    hidden = state["head.0.weight"] @ np.concatenate(invariants) + state["head.0.bias"]
    hidden = (hidden - state["head.1.running_mean"]) / np.sqrt(state["head.1.running_var"] + 1e-5)
    hidden = np.maximum(hidden * state["head.1.weight"] + state["head.1.bias"], 0)
    logits = state["head.4.weight"] @ hidden + state["head.4.bias"]
    expected = logits - np.log(np.exp(logits).sum())
    np.testing.assert_allclose(log_probabilities(trained, of)[4], expected, atol=2e-4)


@pytest.mark.parametrize("size", [1e-18, 1e18])
def test_the_size_of_the_updates_does_not_matter(size):
    of, labels = factors()
    scaled = {name: (up * size, down) for name, (up, down) in of.items()}
    assert max(train(prepared(scaled, labels)).val_acc_history) > 0.8
    model = GlNetwork(LAYOUT, 3, CONFIG)
    model.fit_scale(torch.from_numpy(flattened(scaled)))
    for group in model.groups:
        for layer, root in zip(group.layers, group.root_scale.tolist()):
            up, down = scaled[layer.layer]
            assert np.mean((up @ down * root**2) ** 2) == pytest.approx(1, rel=1e-4)


def test_a_layer_without_an_update_is_no_error():
    of, labels = factors()
    of["a"] = np.zeros_like(of["a"][0]), of["a"][1]
    assert max(train(prepared(of, labels)).val_acc_history) > 0.8


def test_its_data_are_as_they_are():
    of, labels = factors()
    data = prepared(of, labels)
    assert data.layout == LAYOUT
    split = SplitRule().split(len(labels))
    for layer in data.layout:
        up, down = of[layer.layer]
        assert torch.equal(layer.up(data.test.x), torch.tensor(up[split.test]).float())
        assert torch.equal(layer.down(data.test.x), torch.tensor(down[split.test]).float())
    standardised = prepared(of, labels, layout=())
    assert standardised.layout == ()
    assert abs(float(standardised.train.x.mean())) < 1e-6


def test_the_footprint_counts_what_a_trial_holds():
    classifier, data = GlNet(), prepared(*factors())
    training = GlNetTraining(data, CONFIG, 0)
    held = [*training.model.parameters(), *training.optimizer.tensors().values()]
    held += [value for value in training.best_state.values() if value.is_floating_point()]
    held += list(training.model.parameters())  # gradients
    need = sum(tensor.numel() * tensor.element_size() for tensor in held)
    size = DataSize(90, data.n_features, 3, LAYOUT)
    assert 0 < classifier.device_bytes(size, CONFIG) - need < 1.1 * (1 << 30)
    wide = GlNetSettings(channels=4 * CONFIG.channels, hidden_dim=16, equivariant_layers=2)
    assert classifier.host_bytes(size, wide) > classifier.host_bytes(size, CONFIG)


def test_settings_and_layout_are_all_that_its_weights_need(trained, tmp_path):
    trained.restore_best()
    torch.save(trained.model.state_dict(), tmp_path / "weights.pt")
    settings = json.loads(json.dumps(trained.settings.to_json()))
    again = GlNetwork(LAYOUT, 3, GlNetSettings.from_json(settings)).eval()
    again.load_state_dict(torch.load(tmp_path / "weights.pt"))
    x = trained.data.test.x
    with torch.no_grad():
        found = again(x).double().log_softmax(1).numpy()
    np.testing.assert_array_equal(found, trained.predict(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 0}, "--gl-net-channels must be at least 1"),
        ({"equivariant_layers": 0}, "--gl-net-equivariant-layers must be at least 1"),
        ({"lr": -1.0}, "--gl-net-lr must be a positive number"),
    ],
)
def test_impossible_settings_are_named(change, message):
    with pytest.raises(UserError, match=message):
        GlNetSettings(**change)


@pytest.mark.parametrize("channels", [4, 6, 32])
def test_multiplications_are_those_that_torch_counts(channels):
    config = replace(CONFIG, channels=channels)
    model = GlNetwork(LAYOUT, 3, config).eval()
    n_features = sum(layer.width for layer in LAYOUT)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(4, n_features))
    size = DataSize(90, n_features, 3, LAYOUT)
    counted = counter.get_total_flops() / 2 / 4
    assert GlNet().multiplications(size, config) == pytest.approx(counted, rel=0.01)
