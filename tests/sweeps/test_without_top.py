"""`without_top:K`: layers ranked by validation, the ranking frozen, trials in two phases."""

import json
from dataclasses import replace

import pytest

from lorasweep import RuntimeOptions, SweepSpec, open_run, run_sweep
from lorasweep.features.common.errors import UserError
from lorasweep.features.layers.configs import get_config, get_configs
from lorasweep.sweep.engine.layer_phase import phases_line, undecided_lines, undecided_methods
from lorasweep.sweep.imports.open_dataset import open_dataset
from lorasweep.sweep.request.declared import declared_by
from lorasweep.sweep.store.plan import read_records, records_digest
from lorasweep.sweep.store.rankings import (
    deciding_trials,
    rank_layers,
    read_rankings,
    write_rankings,
)
from lorasweep.sweep.store.sweep_file import continued, make_sweep_file, read_sweep_file
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.data.splits import BY_CHANCE
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

LAYERS = [f"unet.up_blocks.{i}.attentions.0.transformer_blocks.0.attn1.to_q" for i in range(4)]
EACH = [f"each_layer:{layer}" for layer in LAYERS]
TENSORS = [f"{layer}.lora.{side}.weight" for layer in LAYERS for side in ("down", "up")]


def tensors_of(*places):
    return [t for i in places for t in TENSORS[2 * i : 2 * i + 2]]


def test_it_brings_each_layer_and_leaves_something():
    found = get_configs(("all_layers", "without_top:3", "without_top:1"), {}, TENSORS)
    assert [c.name for c in found] == ["all_layers", *EACH, "without_top:3", "without_top:1"]
    named = get_configs(("without_top:1", "each_layer"), {}, TENSORS)
    assert [c.name for c in named] == ["without_top:1", *EACH]
    with pytest.raises(UserError, match="'without_top:4': the dataset has 4 layers, and some must"):
        get_configs(("without_top:4",), {}, TENSORS)
    for name in (
        "without_top:0",
        "without_top:x",
        "without_top:01",
        "without_top:-1",
        "without_top:",
    ):
        with pytest.raises(UserError, match="need how many layers to leave out"):
            get_config(name)
    with pytest.raises(UserError, match="need how many layers"):
        get_config("without_top")


def record(accuracy):
    return {"metrics": {"val_acc": accuracy}}


def test_layers_are_ranked_by_mean_validation_accuracy_ties_in_network_order():
    accuracies = {
        EACH[0]: (0.2, 0.4),
        EACH[1]: (0.6, 0.6),
        EACH[2]: (0.4, 0.2),
        EACH[3]: (0.9, 0.9),
    }
    keys = [TrialKey(config, "stats", seed) for config in EACH for seed in (42, 43)]
    records = {key: record(accuracies[key.config][key.seed - 42]) for key in keys}
    ranking = rank_layers(keys, records, "digest")
    assert ranking.top(4) == [EACH[3], EACH[1], EACH[0], EACH[2]]
    assert ranking.seeds == (42, 43)


@pytest.fixture
def options(tmp_path):
    return RuntimeOptions(
        tmp_path / "out", "run", cache_dir=tmp_path / "cache", log_to="none", save_models="none"
    )


@pytest.fixture
def planned(options, tmp_path):
    """(declared, scan, what sweep.json says) for some configs of a dataset with four layers."""
    import numpy as np
    import pyarrow as pa

    from lorasweep.features.datasets.hf_folder import write_dataset
    from lorasweep.zoo.random.sd15 import matrix_column

    rng = np.random.default_rng(0)
    shapes = {name: (2, 4) if ".down." in name else (4, 2) for name in TENSORS}
    columns = {
        name: matrix_column(rng.standard_normal((12, *shape)).astype(np.float32))
        for name, shape in shapes.items()
    }
    write_dataset(tmp_path / "four", pa.table({**columns, "category_label": np.arange(12) % 3}))

    def planned(*configs, representations=("stats", "spectral"), **more):
        spec = SweepSpec(
            str(tmp_path / "four"),
            configs=configs,
            representations=representations,
            **{"num_runs": 2, **more},
        )
        with Reporter() as reporter:
            source, scan = open_dataset(spec, options, tmp_path, reporter)
        declared = declared_by(spec, BY_CHANCE, scan.tensors)
        sweep = make_sweep_file(spec, declared, source, scan, options)
        return declared, scan, sweep

    return planned


def ranked(sweep, label="stats", best=(3, 1, 0, 2)):
    """The same with a label's layers ranked."""
    keys = deciding_trials(sweep.grid, label)
    records = {key: record(1 - best.index(EACH.index(key.config)) / 10) for key in keys}
    trials = sweep.trials_digest(label, sweep.grid.seeds)
    return replace(sweep, rankings={**sweep.rankings, label: rank_layers(keys, records, trials)})


def test_a_decision_gives_every_label_its_own_tensors_and_fingerprints(planned):
    declared, scan, sweep = planned("all_layers", "without_top:1", "without_top:2")
    assert sweep.spec().configs == ("all_layers", "each_layer", "without_top:1", "without_top:2")
    assert set(sweep.fingerprints.values()) >= {""}
    assert undecided_methods(sweep) == ["stats", "spectral"]
    assert "8 trials of without_top" in phases_line(sweep)
    half = ranked(sweep)
    assert undecided_methods(half) == ["spectral"]
    assert half.decided == {
        ("without_top:1", "stats"): tensors_of(0, 1, 2),
        ("without_top:2", "stats"): tensors_of(0, 2),
    }
    whole = ranked(half, "spectral", (0, 1, 2, 3))
    assert phases_line(whole) is None
    now = replace(declared, decided=whole.decided)
    assert now.columns("without_top:1", "stats", scan) == tensors_of(0, 1, 2)
    assert now.columns("without_top:1", "spectral", scan) == tensors_of(1, 2, 3)
    assert now.features("without_top:2", "stats", scan) * 2 == now.features(
        "all_layers", "stats", scan
    )
    before, after = sweep.fingerprints, whole.fingerprints
    assert {k.config for k in before if before[k] != after[k]} == {"without_top:1", "without_top:2"}
    assert len(set(after.values())) == len(after)
    # Another ranking is another trial, and none of the other label's.
    other = ranked(whole, "stats", (2, 1, 0, 3)).fingerprints
    assert {key.method for key in after if after[key] != other[key]} == {"stats"}


def test_a_ranking_holds_for_more_seeds_and_not_for_other_deciding_trials(planned, tmp_path):
    _, _, sweep = planned("without_top:1")
    write_rankings(tmp_path, ranked(sweep).rankings)
    _, _, more = planned("without_top:1", "without_top:3", num_runs=5)
    kept = continued(tmp_path, more)
    assert kept.decided["without_top:3", "stats"] == tensors_of(2)
    _, _, other = planned("without_top:1", settings={"mlp": {"epochs": 7}})
    assert continued(tmp_path, other).decided == {}
    RunDir(tmp_path).layer_rankings.write_text("{")
    assert read_rankings(tmp_path) == {}


def test_undecided_trials_are_to_do_and_not_looked_for(planned, tmp_path):
    _, _, sweep = planned("without_top:1")
    fingerprints = sweep.fingerprints
    later = [key for key in fingerprints if not fingerprints[key]]
    path = RunDir(tmp_path).record(later[0])
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    state = read_records(tmp_path, fingerprints)
    assert state.corrupt == []
    assert set(later) < set(state.todo)
    assert records_digest(tmp_path, dict.fromkeys(later[:1], "")) is None


def test_a_label_whose_layers_cannot_be_ranked_says_so(planned):
    _, _, sweep = planned("without_top:1")
    failed = deciding_trials(sweep.grid, "spectral")[:2]
    assert undecided_lines(sweep, []) == []
    assert undecided_lines(sweep, failed) == [
        "without_top/spectral: not reached: its layers are not ranked, since 2 of 8 trials of "
        "each_layer failed"
    ]


def test_layer_representations_lose_both_tensors(planned):
    declared, scan, sweep = planned("without_top:1", representations=("channel_norms",))
    now = replace(declared, decided=ranked(sweep, "channel_norms").decided)
    assert now.columns("without_top:1", "channel_norms", scan) == LAYERS[:3]


# A real run


def _spec(dataset, **more):
    return SweepSpec(
        str(dataset),
        representations=("stats",),
        configs=("all_layers", "each_layer", "without_top:1"),
        settings={"mlp": {"hidden_dim": 8, "epochs": 3}},
        **{"num_runs": 2, **more},
    )


def _numbers(run_dir):
    return {
        key: (record["fingerprint"], record["metrics"], record["predictions"])
        for key, record in open_run(run_dir).records.items()
    }


@pytest.mark.long
def test_a_run_interrupted_between_its_phases_ends_with_the_same_numbers(
    local_ray, make_dataset, options, monkeypatch
):
    from lorasweep.sweep.driver import launch
    from lorasweep.sweep.engine import trials

    dataset = make_dataset()
    whole = run_sweep(_spec(dataset), replace(options, name="whole"))
    assert (whole.summary["ran"], whole.summary["not_reached"]) == (8, 0)
    run_dir = options.run_dir(str(dataset))

    def interrupted(run):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trials, "decide_layers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(_spec(dataset), options)
    assert not RunDir(run_dir).layer_rankings.exists()
    assert len(open_run(run_dir).records) == 6
    assert len(open_run(run_dir).status.todo) == 2

    def frozen_then_interrupted(run, decide=launch.decide_layers):
        decide(run)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(launch, "decide_layers", frozen_then_interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_sweep(_spec(dataset), options)
    frozen = RunDir(run_dir).layer_rankings.read_bytes()
    last = run_sweep(read_sweep_file(run_dir).spec(), options)
    assert (last.summary["skipped"], last.summary["ran"]) == (6, 2)
    assert RunDir(run_dir).layer_rankings.read_bytes() == frozen
    assert _numbers(run_dir) == _numbers(whole.run_dir)

    # What a lost file decided is decided again, and nothing is trained twice.
    RunDir(run_dir).layer_rankings.unlink()
    again = run_sweep(_spec(dataset), options)
    assert (again.summary["skipped"], again.summary["ran"]) == (8, 0)
    assert RunDir(run_dir).layer_rankings.read_bytes() == frozen

    # The worst layer in the place of the best: its trials are made anew.
    value = json.loads(frozen)["rankings"]
    ranking = read_rankings(run_dir)["stats"]
    assert len(value["stats"]["layers"]) == 2
    turned = replace(ranking, layers=ranking.layers[::-1])
    write_rankings(run_dir, {"stats": turned})
    anew = run_sweep(_spec(dataset), options)
    assert (anew.summary["skipped"], anew.summary["ran"]) == (6, 2)
    kept = open_run(run_dir).records[TrialKey("without_top:1", "stats", 42)]
    assert kept["num_layers"] == 2
    changed = {k for k, v in _numbers(run_dir).items() if v != _numbers(whole.run_dir)[k]}
    assert {key.config for key in changed} == {"without_top:1"}
