"""Sweeps whose split a column decides, or every seed anew."""

import base64
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from lorasweep import RuntimeOptions, SweepSpec, open_run, run_sweep
from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.sweep.models.card import model_card
from lorasweep.sweep.models.predict import find_models, predict
from lorasweep.sweep.report.analysis import Analysis
from lorasweep.sweep.report.build import make_report
from lorasweep.sweep.report.facts import reproduce_command
from lorasweep.sweep.report.runs import load_run
from lorasweep.sweep.report.statistics import sign_flip_p
from lorasweep.sweep.report.words import findings
from lorasweep.sweep.store.sweep_file import read_sweep_file
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.store.run_dir import RunDir
from tests.conftest import adapter_table
from tests.test_cli import check_refused, invoke

ROWS = 40
SERIES = [f"s{i // 2:02}" for i in range(ROWS)]
BASES = ["flux", "sd15", "sdxl"]
PARTS = ["train", "train", "validation", "test"] * (ROWS // 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "adapters"
    columns = {
        "series": pa.array(SERIES),
        "part": pa.array(PARTS),
        "base": pa.array([BASES[i % 3] for i in range(ROWS)]),
        "one": pa.array(["same"] * ROWS),
        "long": pa.array(["x" * (1 + 300 * (i % 2)) for i in range(ROWS)]),
        "artist": pa.array([f"artist/{i % 10}" for i in range(ROWS)]),
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
    sides = [{SERIES[i] for i in part} for part in run.parts_of(42).values()]
    assert sum(map(len, sides)) == len(set(SERIES))
    assert run.sizes == {"train": 28, "val": 2, "test": 10}  # of 20 groups: 14, 1 and 5
    for key in run.records:
        index = run.tested[42]
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
    assert run.tested[42].tolist() == [i for i in range(ROWS) if PARTS[i] == "test"]
    assert "as column part says" in make_report([result.run_dir]).read_text()
    frozen = json.loads((result.run_dir / "sweep.json").read_text())["frozen"]["decides"]["split"]
    assert frozen["rule"] == "as column part says"
    assert read_sweep_file(result.run_dir).spec().split_column == "part"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--split", "sometimes"],
            "--split 'sometimes': need fixed, per-seed, stratified, kfold:K or",
        ),
        (["--split", "kfold:1"], "--split kfold:1: kfold:K needs a number of folds, 2 or more"),
        (["--split", "kfold:14"], "--split kfold:14: class 1 has 13 adapters: need one for each"),
        (["--split", "kfold:4", "--group-column", "base"], "has 3 groups: need one for each fold"),
        (["--split", "leave-out:"], "need fixed, per-seed, stratified, kfold:K or leave-out:"),
        (["--split", "leave-out:bases"], "has no column 'bases': did you mean 'base'?"),
        (["--split", "leave-out:one"], "the column has one value: nothing is left to train on"),
        (["--split", "leave-out:holes"], "must have a text or a whole number in every row"),
        (["--split", "leave-out:long"], "can be no folder's name: it is empty or long"),
        (
            ["--split", "leave-out:base", "--group-column", "series"],
            "--group-column series: 20 of 20 groups are on several sides of --split leave-out:base",
        ),
        (["--assume-scale", "2"], "--assume-scale must be 1"),
        (["--split-column", "part", "--split", "kfold:3"], "leave --split kfold:3 out"),
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


def together(run, cell, seed):
    """(n, n_classes) probabilities and (n,) predictions of a seed's folds, by hand."""
    p, predicted = np.full((ROWS, 3), np.nan), np.full(ROWS, -1)
    for key in run.sweep.grid.keys_of(cell):
        if key.seed == seed:
            record = run.records[key]
            samples = record["outputs"]["samples"]
            values = base64.b64decode(record["outputs"]["log_probabilities"])
            p[samples] = np.exp(np.frombuffer(values).reshape(-1, 3))
            predicted[samples] = record["predictions"]["test"]
    return p, predicted


@pytest.mark.long
def test_folds_test_every_adapter_once_and_results_pool_them(spec, options, local_ray):
    spec = replace(spec, split="kfold:4", num_runs=2, group_column="series")
    run_dir = run_sweep(spec, options).run_dir
    run = load_run(run_dir)
    assert len(run.records) == 2 * 2 * 4  # neighbours, too: its folds are other ones with each seed
    assert len(RunDir(run_dir).records()) == 16
    entries = {
        entry["classifier"]: entry
        for entry in json.loads((run_dir / "results.json").read_text())["all_layers_results"]
    }
    truth = run.labels
    for cell in run.complete:
        entry = entries[run.sweep.grid.by_method[cell[1]].classifier]
        assert entry["num_fits"] == 8
        for i, seed in enumerate(spec.seeds):
            p, predicted = together(run, cell, seed)
            found = entry["per_run_results"][i]
            pooled = run.records_of(cell)[i]["metrics"]
            assert found["test_acc"] == np.mean(predicted == truth)
            assert found["test_f1"] == pytest.approx(
                f1_score(truth, predicted, average="macro"), abs=1e-12
            )
            assert found["test_log_loss"] == pytest.approx(log_loss(truth, p), abs=1e-12)
            assert pooled["test_roc_auc_ovr"] == pytest.approx(
                roc_auc_score(truth, p, multi_class="ovr"), abs=1e-12
            )
            assert np.sum(entry["test_confusion_matrices"][i]) == ROWS
    assert "4 fits a seed" in (run_dir / "results.txt").read_text()
    page = make_report([run_dir]).read_text()
    assert "Test adapters are of 20 groups" in page
    assert "t-test over seeds and folds" in page
    before = {path: path.read_bytes() for path in RunDir(run_dir).records()}
    assert run_sweep(spec, options).summary["ran"] == 0
    lost = sorted(before)[0]
    lost.unlink()
    assert run_sweep(spec, options).summary["ran"] == 1
    assert json.loads(lost.read_text())["metrics"] == json.loads(before[lost])["metrics"]
    with pytest.raises(UserError, match="was made with split"):
        run_sweep(replace(spec, split="kfold:5"), options)


@pytest.mark.long
def test_values_are_left_out_once_each_and_too_few_of_them_test_nothing(spec, options, local_ray):
    spec = replace(spec, split="leave-out:base", num_runs=2)
    run_dir = run_sweep(spec, options).run_dir
    run = load_run(run_dir)
    keys = sorted((key.classifier, key.seed, key.fold) for key in run.records)
    assert keys == [
        *(("mlp", seed, base) for seed in (42, 43) for base in BASES),
        *(("neighbours", 42, base) for base in BASES),
    ]
    for key, record in run.records.items():
        assert {BASES[i % 3] for i in record["outputs"]["samples"]} == {key.fold}
    analysis = Analysis(run)
    (tested,) = analysis.comparisons["all_layers"]
    assert (tested.test.p_adapters, tested.test.p_seeds) == (None, None)
    assert not tested.distinguishable
    assert {analysis.above_chance(result) for result in analysis.cells.values()} == {None}
    page = make_report([run_dir]).read_text()
    assert "base has 3 values, and each counts once" in page
    assert "istinguishabl" not in " ".join(findings(analysis))


@pytest.mark.long
def test_enough_values_are_tested_by_flipping_their_signs(spec, options, local_ray):
    spec = replace(spec, split="leave-out:artist", num_runs=2, settings={}, classifiers=(
        "linear", "neighbours"))  # fmt: skip
    run_dir = run_sweep(spec, options).run_dir
    run = load_run(run_dir)
    assert run.sweep.grid.folds == tuple(f"artist/{i}" for i in range(10))
    assert len(run.records) == 20  # no seed changes either classifier: one fit for each value
    (tested,) = Analysis(run).comparisons["all_layers"]
    first, second = (run.paired(r.cell) for r in (tested.first, tested.second))
    scores = run.scores([tested.first.cell, tested.second.cell])
    assert tested.test.p_adapters == sign_flip_p(scores.group_differences(0, 1))
    factor = np.sqrt(1 / 10 + 4 / len(run.parts_of(42, "artist/0")["train"]))
    t = (first - second).mean() / (np.std(first - second, ddof=1) * factor)
    assert tested.test.p_seeds == pytest.approx(2 * stats.t.sf(abs(t), 9))
    assert tested.test.n_paired == 10
    assert "values of artist" in make_report([run_dir]).read_text()


@pytest.mark.long
def test_a_model_of_folds_judges_by_its_best_fit_or_by_all(spec, options, local_ray, tmp_path):
    spec = replace(spec, split="kfold:3", num_runs=2, representations=("update_pca:64",))
    run_dir = run_sweep(spec, replace(options, save_models="all")).run_dir
    run = load_run(run_dir)
    for model in find_models(run_dir):
        keys = run.sweep.grid.keys_of(model.cell)
        fits = model.note["fits"]
        assert [(fit["seed"], fit["fold"]) for fit in fits] == [(k.seed, k.fold) for k in keys]
        assert [fit["data"] for fit in fits] == list(range(6))  # each was fitted on its own split
        best = model.best_fit
        assert fits[best]["val_acc"] == max(fit["val_acc"] for fit in fits)
        one = predict(
            run_dir, model, [spec.dataset], ensemble=False, run_plugins=False, memo=tmp_path
        )
        every = predict(
            run_dir, model, [spec.dataset], ensemble=True, run_plugins=False, memo=tmp_path
        )
        record = run.records[keys[best]]
        for sample, klass in zip(record["outputs"]["samples"], record["predictions"]["test"]):
            assert one[sample].probabilities.argmax() == klass
        assert not np.allclose(one[0].probabilities, every[0].probabilities)
    card = model_card(run_dir, find_models(run_dir))
    assert "On all 40 adapters, each tested once by a seed" in card
