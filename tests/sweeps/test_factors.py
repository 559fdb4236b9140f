"""Classifiers that read the two matrices of every layer, and what they are paired with."""

import pytest

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
from lorasweep.features.common.errors import UserError
from lorasweep.sweep.driver.dry_run import describe
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.trial_key import TrialKey

BROUGHT = """\
from dataclasses import dataclass

from lorasweep.features.representations import Unit, representation
from lorasweep.trainables.classifiers.base import Classifier, Fit, Settings


@representation(
    "copied", version=1, unit=Unit.LAYER, factors=True,
    values=lambda shape: [f"value_{i}" for i in range(shape[2] * (shape[0] + shape[1]))],
)
def copied(layer):
    "What flat is without a scale, cached."
    import torch

    return torch.cat([layer.up.flatten(1), layer.down.flatten(1)], 1)


class SizeFit(Fit):
    finished, curves = False, {}

    def __init__(self, data):
        self.data = data

    def sizes(self, x):
        import torch

        pairs = [(layer.up(x), layer.down(x)) for layer in self.data.layout]
        return torch.stack([(up @ down).square().sum((1, 2)) for up, down in pairs], 1).log()

    def step(self):
        import torch

        x, y = self.sizes(self.data.train.x), self.data.train.y
        self.means = torch.stack([x[y == c].mean(0) for c in range(self.data.n_classes)])
        self.finished = True

    def predict(self, x):
        import torch

        distances = torch.cdist(self.sizes(x), self.means.nan_to_num())
        return (-distances).double().log_softmax(1).numpy()

    def outcome(self):
        return {"best_epoch": 1, "epochs_run": 1, "layers": len(self.data.layout)}


class Sizes(Classifier):
    name, version, seeded, reads_factors = "sizes", 1, False, True

    @dataclass(frozen=True)
    class Settings(Settings):
        pass

    def host_bytes(self, size, config):
        assert size.n_features == sum(layer.width for layer in size.layout)
        return 2**30

    def start(self, data, config, seed):
        return SizeFit(data)
"""


@pytest.fixture
def brought(tmp_path):
    path = tmp_path / "brought.py"
    path.write_text(BROUGHT)
    return path


def said(spec, tmp_path, capsys):
    options = RuntimeOptions(tmp_path / "out", "run", cache_dir=tmp_path / "cache")
    with Reporter() as reporter:
        describe(spec, options, reporter)
    return capsys.readouterr().out


def test_other_pairs_are_left_out_and_that_is_said_in_one_line(sanity, tmp_path, capsys):
    spec = SweepSpec(
        str(sanity),
        representations=("all", "flat/pca:4"),
        classifiers=("gl_net", "mlp"),
        num_runs=2,
    )
    text = said(spec, tmp_path, capsys)
    (line,) = [line for line in text.splitlines() if line.startswith("left out")]
    assert line.startswith("left out: all_layers/simple_stats@gl_net, ")
    assert "gl_net reads the two matrices of every layer" in line
    assert "all_layers/flat@gl_net: seeds 42, 43\n" in text
    assert "flat/pca:4@gl_net: seeds" not in text
    for name in ("stats", "flat/pca:4", "canonical"):
        with pytest.raises(UserError, match=r"nothing is left to run.*reads the two matrices"):
            said(SweepSpec(str(sanity), pairs=((name, "gl_net"),)), tmp_path, capsys)


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_a_sweep_of_them(sanity, sanity_cache, brought, tmp_path):
    options = RuntimeOptions(
        tmp_path / "out", "run", cache_dir=sanity_cache, log_to="none", dashboard=False
    )
    spec = SweepSpec(
        str(sanity),
        representations=("flat", f"{brought}:copied"),
        configs=("all_layers",),
        classifiers=("gl_net", "mlp", f"{brought}:Sizes"),
        num_runs=2,
        settings={
            "mlp": {"hidden_dim": 16, "epochs": 3},
            "gl_net": {"hidden_dim": 16, "channels": 4, "epochs": 3},
        },
    )
    result = run_sweep(spec, options)
    assert result.failed == []
    assert result.summary["ran"] == 2 * (2 + 2 + 1)

    def record(representation, seed, classifier):
        return read_record(result.run_dir, TrialKey("all_layers", representation, seed, classifier))

    for seed in (42, 43):
        for classifier in ("gl_net", "mlp"):
            flat, copied = (record(name, seed, classifier) for name in ("flat", "copied"))
            assert flat["curves"] == copied["curves"]
            assert flat["metrics"] == copied["metrics"]
            assert len(flat["curves"]["train_loss_history"]) == 3
    sizes = record("copied", 42, "sizes")["metrics"]
    assert sizes["layers"] == record("flat", 42, "gl_net")["num_layers"] / 2
    assert sizes == record("flat", 42, "sizes")["metrics"]
