"""Sweeps whose split a column decides, or every seed anew."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from lorasweep import RuntimeOptions, SweepSpec, open_run, run_sweep
from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.sweep.report.build import make_report
from lorasweep.sweep.report.facts import reproduce_command
from lorasweep.sweep.report.runs import load_run
from lorasweep.sweep.store.sweep_file import read_sweep_file
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.store.run_dir import RunDir
from tests.conftest import adapter_table
from tests.test_cli import check_refused, invoke

ROWS = 40
SERIES = [f"s{i // 2:02}" for i in range(ROWS)]
PARTS = ["train", "train", "validation", "test"] * (ROWS // 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "adapters"
    columns = {
        "series": pa.array(SERIES),
        "part": pa.array(PARTS),
        "weight": pa.array([0.5] * ROWS),
        "holes": pa.array([None, "train"] * (ROWS // 2)),
    }
    write_dataset(folder, adapter_table(rows=ROWS, **columns))
    return folder


@pytest.fixture
def spec(data):
    return SweepSpec(
        str(data),
        representations=("stats",),
        configs=("all_layers",),
        classifiers=("mlp", "neighbours"),
        num_runs=3,
        settings={"mlp": {"hidden_dim": 8, "epochs": 2}},
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Features do not depend on the split: one cache serves all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def options(tmp_path, cache):
    return RuntimeOptions(tmp_path / "out", cache_dir=cache, log_to="none", save_models="none")


def confusion(run, key, index):
    """Of a record's test predictions, counted by hand."""
    counts = np.zeros((3, 3), dtype=int)
    for true, predicted in zip(index % 3, run.records[key]["predictions"]["test"], strict=True):
        counts[true, predicted] += 1
    return counts.tolist()


@pytest.mark.long
def test_every_seed_has_its_split_and_every_classifier_every_seed(spec, options, local_ray):
    result = run_sweep(replace(spec, split="per-seed"), options)
    run = open_run(result.run_dir)
    assert len(run.trials) == 6  # neighbours, too, has something new with every seed
    rule = SplitRule(per_seed=True)
    for key in run.records:
        index = rule.split(ROWS, key.seed).test
        assert run.records[key]["confusion"]["test"] == confusion(run, key, index)
    page = make_report([result.run_dir]).read_text()
    assert "Every seed has a split of its own" in page
    assert "--split per-seed" in reproduce_command(run.sweep)
    again = run_sweep(replace(spec, split="per-seed"), options)
    assert again.summary["ran"] == 0
    with pytest.raises(UserError, match="was made with split"):
        run_sweep(spec, options)
    restored = read_sweep_file(result.run_dir).spec()
    assert (restored.split, restored.num_runs) == ("per-seed", 3)


@pytest.mark.long
def test_groups_stay_on_one_side(spec, options, local_ray):
    result = run_sweep(replace(spec, group_column="series"), options)
    run = load_run(result.run_dir)
    sides = [{SERIES[i] for i in part} for part in run.parts[42].values()]
    assert sum(map(len, sides)) == len(set(SERIES))
    assert run.sizes == {"train": 28, "val": 2, "test": 10}  # of 20 groups: 14, 1 and 5
    for key in run.records:
        index = run.parts[42]["test"]
        assert run.records[key]["confusion"]["test"] == confusion(run, key, index)
    assert sorted(key.classifier for key in run.records) == ["mlp"] * 3 + ["neighbours"]
    assert make_report([result.run_dir]).exists()
    with pytest.raises(UserError, match="was made with split"):
        run_sweep(replace(spec, group_column="series", split="per-seed"), options)


@pytest.mark.long
def test_a_column_decides(spec, options, local_ray):
    spec = replace(spec, split_column="part", classifiers=("neighbours",), settings={})
    result = run_sweep(spec, options)
    run = load_run(result.run_dir)
    assert run.parts[42]["test"].tolist() == [i for i in range(ROWS) if PARTS[i] == "test"]
    assert "as column part says" in make_report([result.run_dir]).read_text()
    frozen = json.loads((result.run_dir / "sweep.json").read_text())["frozen"]["decides"]["split"]
    assert frozen["rule"] == "as column part says"
    assert read_sweep_file(result.run_dir).spec().split_column == "part"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "sometimes"], "--split 'sometimes': need fixed, per-seed or stratified"),
        (["--split-column", "parts"], "has no column 'parts': did you mean 'part'?"),
        (["--split-column", "series"], "holds 's00'; need train, val and test"),
        (["--split-column", "weight"], "must have a text or a whole number in every row"),
        (["--group-column", "holes"], "must have a text or a whole number in every row"),
        (["--group-column", "category_label"], "has 3 groups: need more than 10"),
        (["--split-column", "part", "--split", "per-seed"], "leave --split per-seed out"),
        (["--split-column", "part", "--split", "stratified"], "leave --split stratified out"),
        (["--group-column", "series", "--split", "stratified"], "goes without --group-column"),
        (["--split-column", "part", "--group-column", "series"], "groups are on several sides"),
    ],
)
def test_bad_splits_get_one_line_and_exit_code_2(options, message, data, tmp_path):
    given = ["--output-dir", tmp_path / "out", "--cache-dir", tmp_path / "cache", *options]
    check_refused(invoke("run", "--dataset", data, *given), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_what_is_fitted_is_fitted_on_each_seeds_own_split(spec, options, local_ray):
    spec = replace(
        spec,
        split="per-seed",
        representations=("update_pca:64", "stats"),
        classifiers=("neighbours",),
        settings={},
        num_runs=2,
    )
    run = open_run(run_sweep(spec, options).run_dir)
    assert len(run.trials) == 4
    widths = run.trials.groupby("representation").feature_dim.unique()
    assert list(widths["update_pca:64"]) == [64]
    folders = {p.name for p in options.cache_dir.glob("*/update_pca*")}
    assert len(folders) == 2  # a seed each
    for path in RunDir(run.run_dir).records():
        path.unlink()
    before = {p: p.stat().st_mtime_ns for p in options.cache_dir.glob("*/update_pca*/*")}
    again = open_run(run_sweep(spec, options).run_dir)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    for key, record in run.records.items():
        assert again.records[key]["predictions"] == record["predictions"]
