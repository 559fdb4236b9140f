"""Families of layer configs in a sweep: planned, frozen, shown as one block."""

import pytest

from lorasweep import RuntimeOptions, SweepSpec
from lorasweep.features.common.errors import UserError
from lorasweep.features.layers.configs import get_configs
from lorasweep.sweep.driver.dry_run import describe
from lorasweep.sweep.imports.open_dataset import open_dataset
from lorasweep.sweep.report.facts import reproduce_command
from lorasweep.sweep.request.declared import declared_by
from lorasweep.sweep.store.results import format_results
from lorasweep.sweep.store.sweep_file import make_sweep_file
from lorasweep.sweep.watch.counts import summary_lines
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.data.splits import BY_CHANCE
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey
from tests.conftest import NAMES

LAYERS = sorted({name.partition(".lora")[0] for name in NAMES})


@pytest.fixture
def options(tmp_path):
    return RuntimeOptions(tmp_path / "out", "run", cache_dir=tmp_path / "cache", save_models="none")


@pytest.fixture
def planned(make_dataset, options):
    """What sweep.json says for some configs of a dataset with two layers."""
    dataset = str(make_dataset())

    def planned(*configs, representations=("stats",), **more):
        spec = SweepSpec(
            dataset, configs=configs, representations=representations, num_runs=2, **more
        )
        with Reporter() as reporter:
            source, scan = open_dataset(spec, options, options.run_dir(dataset), reporter)
        declared = declared_by(spec, BY_CHANCE, scan.tensors)
        return make_sweep_file(spec, declared, source, scan, options)

    return planned


def test_members_are_frozen_and_the_family_is_what_finds_them_again(planned):
    sweep = planned("all_layers", "each_layer")
    members = [f"each_layer:{layer}" for layer in LAYERS]
    assert sweep.grid.configs == ("all_layers", *members)
    assert sweep.grid.groups == {"all_layers": ["all_layers"], "each_layer": members}
    for layer, member in zip(LAYERS, members):
        frozen = sweep.declared["configs"][member]
        assert frozen["tensors"] == [f"{layer}.lora.down.weight", f"{layer}.lora.up.weight"]
    assert sweep.spec().configs == ("all_layers", "each_layer")
    assert "--configs all_layers,each_layer" in reproduce_command(sweep)
    again = planned(*sweep.spec().configs)
    assert again.fingerprints == sweep.fingerprints
    assert len(set(sweep.fingerprints.values())) == 3 * 2


def test_another_grid_leaves_fingerprints_alone(planned):
    alone, beside = planned("all_layers"), planned("each_side", "all_layers")
    assert alone.fingerprints.items() <= beside.fingerprints.items()


def test_a_trial_of_a_member_has_a_path_of_its_own(tmp_path):
    key = TrialKey("each_block:unet.mid_block", "stats", 42)
    path = RunDir(tmp_path).record(key)
    assert path == tmp_path / "checkpoints/each_block=unet.mid_block/stats/seed-42.json"
    assert str(key) == "each_block:unet.mid_block/stats/seed-42"


def test_one_side_is_no_layer_and_that_is_said_once(planned, make_dataset, options, capsys):
    sweep = planned("all_layers", "each_side", representations=("stats", "channel_norms"))
    sides = ["each_side:down", "each_side:up"]
    assert sweep.grid.left_out == tuple((side, "channel_norms") for side in sides)
    assert list(sweep.declared["representations"]["channel_norms"]["features"]) == ["all_layers"]
    capsys.readouterr()
    spec = SweepSpec(
        str(make_dataset()),
        configs=("all_layers", "each_side"),
        representations=("stats", "channel_norms"),
    )
    with Reporter() as reporter:
        describe(spec, options, reporter)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "left out" in line] == [
        "left out: each_side/channel_norms (2 of its configs): the representation reads layers, "
        "and there is none with both of its tensors"
    ]
    assert "  each_side/stats (2 configs, 20 trials): seeds " in "\n".join(lines)
    with pytest.raises(UserError, match="nothing is left to run"):
        planned("each_side", representations=("channel_norms",))


def test_a_family_is_one_line_of_the_summary(planned):
    grid = planned("all_layers", "each_layer").grid
    done = [key for key in grid.keys if key.config != f"each_layer:{LAYERS[0]}"]
    assert summary_lines(grid, done) == [
        "all_layers              1/1 completed, 0 remaining",
        "each_layer (2 configs)  1/2 completed, 1 remaining",
        "total                   2/3 (66.7%)",
    ]


def _results(configs):
    def entry(config, place):
        numbers = {
            f"{metric}_{kind}": 0.5 + place / 1000
            for metric in ("train_acc", "val_acc", "test_acc", "test_f1", "training_time")
            for kind in ("mean", "std", "sample_std")
        }
        name = f"stats_{config}"
        own = {"feature_dim": 3, "num_layers": 2, "per_run_results": [{}, {}]}
        return {"representation": name, **own, **numbers}

    found = {f"{config}_results": [entry(config, i)] for i, config in enumerate(configs)}
    return {"dataset": "d", "num_classes": 2, "num_runs": 1, "failed": [], **found}


def test_results_have_one_table_of_a_family():
    text = format_results(_results(["all_layers", "each_side:down", "each_side:up"]))
    assert "each_side (2 configs), test acc\nside         stats\n" in text
    assert "down  50.1% ± 50.1\nup    50.2% ± 50.2\n" in text
    assert "Drop" not in text


def test_of_a_very_large_family_results_list_the_best():
    text = format_results(_results([f"each_layer:{i}" for i in range(150)]))
    assert "each_layer (150 configs), test acc, the 20 best by mean validation accuracy" in text
    rows = [line.split()[0] for line in text.splitlines() if "±" in line][1:]
    assert rows == [str(i) for i in reversed(range(130, 150))]


def test_without_a_dataset_a_family_has_no_member():
    assert [c.name for c in get_configs(("all_layers", "each_layer"))] == ["all_layers"]
