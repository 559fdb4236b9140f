"""What is known before anything runs, without Ray."""

from dataclasses import replace

import pytest

from lorasweep import RuntimeOptions, SweepSpec
from lorasweep.features.common.errors import UserError
from lorasweep.sweep.driver.dry_run import describe
from lorasweep.sweep.process.machine import machine_memory
from lorasweep.sweep.process.memory import largest_trial, require_memory
from lorasweep.sweep.request.declared import declared_by
from lorasweep.sweep.request.grid import Entry, Grid
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

KEYS = [
    TrialKey("all_layers", "stats", 42),
    TrialKey("all_layers", "spectral/pca:64", 42, "linear"),
    TrialKey("all_layers", "spectral/pca:6", 42, "linear"),
    TrialKey("all_layers", "spectral", 42, "linear"),
    TrialKey("all_layers", "channel_norms:64", 42),
]


def test_keys_have_paths_of_their_own_and_old_ones_theirs(tmp_path):
    run = RunDir(tmp_path)
    assert run.record(KEYS[0]) == tmp_path / "checkpoints/all_layers/stats/seed-42.json"
    assert len({run.record(key) for key in KEYS}) == len(KEYS)
    assert len({run.state(key) for key in KEYS}) == len(KEYS)
    for key in KEYS:
        assert run.record(key).parents[2] == tmp_path / "checkpoints"
        assert TrialKey.from_json(key.to_json()) == key
    old = {"config": "all_layers", "representation": "stats", "seed": 42}
    assert TrialKey.from_json(old) == KEYS[0]
    assert KEYS[0].identity() == old
    assert str(KEYS[1]) == "all_layers/spectral/pca:64@linear/seed-42"


def test_a_grid_is_the_product_less_what_makes_no_sense():
    entries = (Entry("stats"), Entry("stats", "linear"), Entry("spectral", "boosting"))
    grid = Grid(
        entries, ("a", "b"), (1, 2), unseeded=("linear",), left_out=(("a", "spectral@boosting"),)
    )
    assert grid.cells == [
        ("a", "stats"), ("a", "stats@linear"),
        ("b", "stats"), ("b", "stats@linear"), ("b", "spectral@boosting"),
    ]  # fmt: skip
    assert grid.keys_of(("a", "stats@linear")) == [TrialKey("a", "stats", 1, "linear")]
    assert len(grid.keys) == 8
    assert Grid.from_json(grid.to_json()) == grid


@pytest.fixture
def spec(sanity):
    return SweepSpec(
        str(sanity),
        representations=("stats", "channel_norms", "channel_norms/pca:4"),
        classifiers=("mlp", "boosting"),
        num_runs=2,
    )


@pytest.fixture
def options(tmp_path):
    return RuntimeOptions(tmp_path / "out", "run", cache_dir=tmp_path / "cache", save_models="none")


def said(spec, options, capsys):
    with Reporter() as reporter:
        describe(spec, options, reporter)
    return capsys.readouterr().out


def test_a_dry_run_says_what_is_left_out_and_the_largest_matrix(spec, options, capsys):
    text = said(spec, options, capsys)
    assert "left out: all_layers/channel_norms@boosting: " in text
    assert "all_layers/channel_norms/pca:4@boosting: seeds 42, 43" in text
    assert "largest trial: all_layers/channel_norms" in text
    assert not options.output_dir.exists()


def test_a_dry_run_that_keeps_nothing_makes_no_folder(spec, options, tmp_path, capsys):
    said(spec, replace(options, cache_features=False), capsys)
    assert not options.output_dir.exists()
    assert not options.cache_dir.exists()


def test_pairs_instead_of_the_product(spec, options, capsys):
    pairs = (("stats", "linear"), ("channel_norms:8", "mlp"))
    bare = SweepSpec(spec.dataset, pairs=pairs, configs=("all_layers",), num_runs=2)
    text = said(bare, options, capsys)
    assert "trials: 0 done, 3 to run" in text
    assert "all_layers/stats@linear: seeds 42\n" in text


def test_nothing_left_is_refused(spec, options, capsys):
    with pytest.raises(UserError, match="nothing is left to run"):
        said(SweepSpec(spec.dataset, pairs=(("channel_norms", "boosting"),)), options, capsys)


def test_what_cannot_fit_is_refused_before_it_starts(spec, sanity, tmp_path):
    from lorasweep.features.datasets.scan import scan_dataset
    from lorasweep.features.datasets.sources import DatasetRequest, find_dataset

    source = find_dataset(DatasetRequest(str(sanity)), tmp_path)
    scan = scan_dataset(source, "category_label", None, tmp_path)
    declared = declared_by(spec)
    keys = declared.grid(scan, [42]).keys
    largest = largest_trial(declared, scan, keys)
    assert largest.key.representation.startswith("channel_norms")
    assert largest.matrix_bytes == 4 * 18 * largest.features
    require_memory(largest, machine_memory())
    require_memory(None, 0)
    with pytest.raises(UserError, match="and this machine has"):
        require_memory(largest, largest.trial_bytes - 1)


def test_pairs_go_without_the_lists_they_stand_for(spec):
    with pytest.raises(UserError, match="--pairs goes without"):
        replace(spec, pairs=(("stats", "mlp"),)).validate()


def test_groups_of_representations_are_their_members():
    spec = SweepSpec("anything", representations=("update",), classifiers=("linear", "mlp"))
    names = ["update_spectrum", "update_sketch:128", "channel_norms", "canonical", "flat"]
    names += ["update_pca:256", "flat_pca:256"]
    assert list(declared_by(spec).inputs) == names
    both = declared_by(replace(spec, pairs=(("nine", "mlp"), ("update_sketch", "linear"))))
    assert [entry.method for entry in both.entries][-2:] == ["ensemble", "update_sketch:128@linear"]
    with pytest.raises(UserError, match="pair 'stats' is given twice"):
        declared_by(replace(spec, representations=("nine", "stats"), classifiers=("mlp",)))
