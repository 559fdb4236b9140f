"""Models to keep: made by a run, the same numbers from files, and wrong input said."""

import csv
import io
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
from lorasweep.cli import app
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import sign, write_json
from lorasweep.features.common.signed_tensors import read_tensors
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.sweep.models.choice import best_cells, chosen_cells, refusal
from lorasweep.sweep.models.new_adapters import Given, Stacked, find_adapters, read_adapters
from lorasweep.sweep.models.predict import Threshold, Verdict, find_models
from lorasweep.sweep.store.sweep_file import read_sweep_file
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.classifiers.catalogue import CLASSIFIERS
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.models.model_building import CLOSE, finished_fit
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.standing import Standing
from lorasweep.trainables.trial.job import TrialJob
from tests.adapter_folder import read_rows, write_rows

ZOO = Path(__file__).parents[2] / "examples" / "digits-zoo"
SPEC = SweepSpec(
    str(ZOO),
    configs=("visual_only",),
    pairs=(
        ("simple_stats", "mlp"),
        ("simple_stats", "boosting"),
        ("update_spectrum/pca:32", "neighbours"),
        ("update_pca:64", "linear"),
    ),
    num_runs=2,
    settings={"mlp": dict(hidden_dim=32, lr=3e-3, epochs=12), "boosting": dict(rounds=8)},
)


def say(*arguments, code=0):
    """What a command prints to standard output; its exit code is as expected."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.stdout


def judged(*arguments, code=0):
    return json.loads(say("predict", *arguments, "--json", code=code))


@pytest.fixture(scope="module")
def kept(local_ray, tmp_path_factory):
    """(spec, options, run directory) of a run that kept all its models; not to be changed."""
    root = tmp_path_factory.mktemp("models")
    spec = replace(SPEC, dataset=str(shutil.copytree(ZOO, root / ZOO.name)))
    options = RuntimeOptions(
        root / "results", "run", cache_dir=root / "cache", log_to="none", save_models="all"
    )
    return spec, options, run_sweep(spec, options).run_dir


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The test split's adapters as files, in its order."""
    test = SplitRule().split(300).test
    return write_rows(ZOO, test, tmp_path_factory.mktemp("adapters"))


def probabilities(model, seed, paths, datasets=()):
    """(n, n_classes) of adapters that all can be judged."""
    seeds = [fit["seed"] for fit in model.note["fits"]]
    loaded = model.load([seeds.index(seed)], Path("nowhere"), run_plugins=False)
    given = Given(list(paths), list(datasets))
    found = list(read_adapters(given, loaded.input, loaded.item, None))
    assert all(isinstance(some, Stacked) for some in found), found
    return np.concatenate([loaded.predict(some.stack, len(some.adapters))[0] for some in found])


def test_files_are_judged_as_the_records_say(kept, files):
    sweep = read_sweep_file(kept[2])
    models = find_models(kept[2])
    assert {model.cell for model in models} == set(sweep.grid.cells)
    # Models read the features again, which takes nothing from what computing them took.
    assert json.loads(RunDir(kept[2]).summary.read_text())["feature_seconds"] > 0
    for model in models:
        keys = sweep.grid.keys_of(model.cell)
        assert [fit["seed"] for fit in model.note["fits"]] == [key.seed for key in keys]
        for key in keys:
            p = probabilities(model, key.seed, files)
            top = np.sort(p, axis=1)
            clear = top[:, -1] - top[:, -2] > CLOSE
            recorded = np.array(read_record(kept[2], key)["predictions"]["test"])
            assert clear.sum() > 40
            np.testing.assert_array_equal(p.argmax(1)[clear], recorded[clear])


def test_a_dataset_is_judged_as_its_files(kept, files):
    for model in find_models(kept[2]):
        source = find_dataset(DatasetRequest(str(ZOO)), ZOO)
        whole = probabilities(model, 42, [], [("zoo", source)])
        own = probabilities(model, 42, files)
        np.testing.assert_allclose(whole[SplitRule().split(300).test], own, rtol=1e-3, atol=1e-4)


def test_what_is_missing_is_made_and_what_differs_is_refused(kept, tmp_path):
    spec, options, run_dir = kept
    shutil.copytree(run_dir, tmp_path / "run")
    run_dir, lines = tmp_path / "run", io.StringIO()
    options = replace(options, output_dir=tmp_path, save_models="all")
    sweep = read_sweep_file(run_dir)
    gone, other = (
        RunDir(run_dir).model("visual_only", "simple_stats"),
        ("visual_only", "update_pca:64@linear"),
    )
    before = gone.read_bytes()
    gone.unlink()
    RunDir(run_dir).model(*other).unlink()
    key = sweep.grid.keys_of(other)[0]
    record = read_record(run_dir, key)
    record["predictions"]["test"][0] = (record["predictions"]["test"][0] + 1) % 10
    write_json(RunDir(run_dir).record(key), sign(record))
    stamps = {path: path.stat().st_mtime_ns for path in RunDir(run_dir).records()}

    run_sweep(spec, options, Reporter(file=lines))
    assert gone.read_bytes() == before
    assert not RunDir(run_dir).model(*other).exists()
    assert "predicts otherwise than its record" in refusal(run_dir, sweep, other)
    said = [line for line in lines.getvalue().splitlines() if "no model of" in line]
    assert len(said) == 1
    assert other[1] in said[0]
    assert stamps == {path: path.stat().st_mtime_ns for path in RunDir(run_dir).records()}
    # It is not tried again with every run; `export` does, and says why it cannot.
    run_sweep(spec, options, Reporter(file=lines))
    assert lines.getvalue().count("no model of") == 1


def test_what_trials_left_is_not_trained_again(kept, tmp_path, monkeypatch):
    spec, options, run_dir = kept
    monkeypatch.setattr("lorasweep.sweep.engine.jobs.KEEP_AFTER_SECONDS", 0.0)
    monkeypatch.setattr("lorasweep.sweep.driver.launch.make_models", lambda *_: None)
    here = RunDir(run_sweep(spec, replace(options, output_dir=tmp_path)).run_dir)
    (path,) = here.tune.glob("*/job.json")
    job = TrialJob.read(path)

    class Trained(Exception):
        pass

    def start(*_):
        raise Trained

    for classifier in CLASSIFIERS.values():
        monkeypatch.setattr(type(classifier), "start", start)
    keys = read_sweep_file(here.path).grid.keys
    for key in keys:
        found, _ = finished_fit(job, key)
        part = f"fit-{key.seed}"
        note, parts = read_tensors(RunDir(run_dir).model(*key.cell), "model", [part])
        assert parts[part].keys() == found.state.tensors.keys()
        for name, tensor in found.state.tensors.items():
            assert parts[part][name].equal(tensor)
        (written,) = (fit for fit in note["fits"] if fit["seed"] == key.seed)
        assert (found.temperature, found.state.rest) == (written["temperature"], written["rest"])
    # What is not there, or predicts otherwise than the record says, is no help.
    of = [key for key in keys if key.cell == ("visual_only", "simple_stats")]
    record = read_record(here.path, of[0])
    record["predictions"]["val"][0] = (record["predictions"]["val"][0] + 1) % 10
    write_json(here.record(of[0]), sign(record))
    here.fit(of[1]).unlink()
    for key in of:
        with pytest.raises(Trained):
            finished_fit(job, key)


@pytest.mark.long
def test_a_model_above_the_limit_is_made_only_where_that_is_said(kept, tmp_path, monkeypatch):
    _, options, run_dir = kept
    shutil.copytree(run_dir, tmp_path / "run")
    model = RunDir(tmp_path / "run").model("visual_only", "simple_stats")
    before = model.read_bytes()
    model.unlink()
    monkeypatch.setattr("lorasweep.sweep.engine.model_stage.BIG_BYTES", len(before) // 2)
    asked = ["export", tmp_path / "run", tmp_path / "out", "--cache-dir", options.cache_dir]
    asked += ["--representation", "simple_stats", "--classifier", "mlp"]
    result = CliRunner().invoke(app, list(map(str, asked)))
    assert result.exit_code == 2
    assert re.search(r"it would take [\d,]+ MB or more: `lorasweep export .*--yes`", result.stderr)
    assert not model.exists()
    assert not (tmp_path / "out").exists()
    say(*asked, "--yes")
    assert model.read_bytes() == before
    assert next((tmp_path / "out").rglob("*.safetensors")).read_bytes() == before


@pytest.mark.long
def test_what_trials_left_stays_where_a_model_is_too_large(kept, tmp_path, monkeypatch):
    spec, options, _ = kept
    monkeypatch.setattr("lorasweep.sweep.engine.jobs.KEEP_AFTER_SECONDS", 0.0)
    monkeypatch.setattr("lorasweep.sweep.engine.model_stage.BIG_BYTES", 1)
    spec = replace(spec, pairs=spec.pairs[:2])
    run = run_sweep(spec, replace(options, output_dir=tmp_path, save_models="best"))
    grid = read_sweep_file(run.run_dir).grid
    ((config, label),) = chosen_cells(run.results, grid, "best")
    left = {path.parent.name for path in RunDir(run.run_dir).fits.rglob("*.safetensors")}
    assert left == {label}
    say("export", run.run_dir, tmp_path / "out", "--cache-dir", options.cache_dir, "--yes")
    assert find_models(tmp_path / "out")[0].cell == (config, label)
    assert not list(RunDir(run.run_dir).fits.rglob("*.safetensors"))


def test_the_best_by_validation_are_kept_by_default(kept):
    assert RuntimeOptions().save_models == "best"
    sweep = read_sweep_file(kept[2])
    results = json.loads(RunDir(kept[2]).results("json").read_text())
    means = {
        entry["representation"].removesuffix("_visual_only"): entry["val_acc_mean"]
        for entry in results["visual_only_results"]
    }
    ((config, label),) = chosen_cells(results, sweep.grid, "best")
    assert config == "visual_only"
    assert means[label] == max(means.values())
    assert chosen_cells(results, sweep.grid, "none") == []
    standings = {("a", "x"): Standing(0.5), ("a", "y"): Standing(0.5), ("b", "x"): Standing(0.1)}
    assert best_cells(standings, ["a", "b", "c"]) == [("a", "x"), ("b", "x")]
    standings[("a", "y")] = Standing(0.5, 0.1)
    assert best_cells(standings, ["a"]) == [("a", "y")]


@contextmanager
def away(*places):
    """Files and folders are elsewhere for a while."""
    for place in places:
        place.rename(place.with_name(f"{place.name}-away"))
    try:
        yield
    finally:
        for place in places:
            place.with_name(f"{place.name}-away").rename(place)


def test_an_export_needs_neither_run_nor_dataset(kept, files, tmp_path):
    out = tmp_path / "out"
    say("export", kept[2], out, "--representation", "simple_stats", "--classifier", "mlp")
    asked = ("--classifier", "mlp", *files[:5])
    expected = judged(kept[2], *asked)
    with away(kept[2], Path(kept[0].dataset), kept[1].cache_dir):
        own = judged(out, *asked)
    assert own == expected
    found = json.loads(say("inspect", out, "--json"))
    assert (found["kind"], list(found["models"])) == ("models", ["visual_only/simple_stats"])
    assert [set(item) for item in own] == [
        {"adapter", "class", "probability", "unlike", "novelty", "problem", "compatible"}
    ] * 5
    both = judged(out, "--ensemble", *files[:5])
    model = find_models(out)[0]
    mean = np.mean([probabilities(model, seed, files[:5]) for seed in (42, 43)], axis=0)
    np.testing.assert_allclose([item["probability"] for item in both], mean.max(1), atol=1e-5)

    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert "license" not in front
    results = json.loads(RunDir(kept[2]).results("json").read_text())["visual_only_results"]
    accuracy = next(e for e in results if e["representation"] == "simple_stats_visual_only")
    (metric,) = front["model-index"][0]["results"][0]["metrics"]
    assert metric["value"] == pytest.approx(accuracy["test_acc_mean"], abs=1e-4)
    assert read_sweep_file(kept[2]).frozen["decides"]["dataset"] in card
    assert kept[0].dataset not in card
    with pytest.raises(UserError, match="no models"):
        find_models(tmp_path)
    assert "is not empty" in CliRunner().invoke(app, ["export", str(kept[2]), str(out)]).output


def test_other_files_are_said_not_guessed(kept, files, tmp_path):
    (tensors,) = read_rows(ZOO, [0])
    names = sorted(tensors)

    def write(name, values):
        save_file({n: np.ascontiguousarray(v) for n, v in values.items()}, tmp_path / name)

    write("nan.safetensors", {**tensors, names[0]: tensors[names[0]] * np.nan})
    half = [n for n in names if ".attn1." in n][2:]
    write("missing.safetensors", {n: tensors[n] for n in half})
    wide = {n: np.repeat(v, 2, axis=int(".lora.down." in n)) for n, v in tensors.items()}
    write("base.safetensors", wide)
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
    write(
        "text.safetensors",
        {f"{text}.down.weight": np.ones((1, 8), "f4"), f"{text}.up.weight": np.ones((8, 1), "f4")},
    )
    write(
        "scaled.safetensors",
        {
            **tensors,
            **{
                n.replace("lora.down.weight", "alpha"): np.array(0.5, "f4")
                for n in names
                if ".lora.down." in n
            },
        },
    )
    layer = next(n for n in half if ".lora.down." in n).removesuffix(".lora.down.weight")
    write("dora.safetensors", {**tensors, f"{layer}.dora_scale": np.ones((1, 1), "f4")})
    write("whole.safetensors", {**tensors, f"{layer}.diff": np.ones((2, 2), "f4")})
    keys = {n for n in names if ".attn2.to_k.lora.down." in n}
    write("sd2.safetensors", {**tensors, **dict.fromkeys(keys, np.ones((1, 1024), "f4"))})
    (tmp_path / "cut.safetensors").write_bytes(files[0].read_bytes()[:1000])
    shutil.copy(files[0], tmp_path / "good.safetensors")
    said = {
        Path(item["adapter"]).stem: item["problem"]
        for item in judged(kept[2], tmp_path, "--classifier", "linear")
    }
    assert said.pop("good") is None
    expected = {
        "nan": "NaN", "missing": "lacks 1 of 32 layers", "base": "another base model",
        "text": "it has text_encoder", "scaled": "has a scale of 0.5", "cut": "cut",
        "dora": "is of DoRA", "whole": "by more than B·A (diff)", "sd2": "seems to be of sd-2",
    }  # fmt: skip
    assert said.keys() == expected.keys()
    for name, words in expected.items():
        assert words in said[name]
        assert "\n" not in said[name]
    # What reads A and B as they are has nothing to do with a scale.
    assert judged(kept[2], tmp_path / "scaled.safetensors", "--classifier", "mlp")[0]["class"]
    alone = CliRunner().invoke(app, ["predict", str(kept[2]), str(tmp_path / "nan.safetensors")])
    assert alone.exit_code == 2
    assert "NaN" in alone.stderr
    # Whoever screens is told: it fails closed.
    good, bad = tmp_path / "good.safetensors", tmp_path / "cut.safetensors"
    (verdict,) = judged(kept[2], good)
    other = "1" if str(verdict["class"]) != "1" else "2"
    judged(kept[2], good, "--fail-on", f"{other}:0.99")
    judged(kept[2], good, "--fail-on", f"{verdict['class']}:0.0", code=3)
    judged(kept[2], good, bad, "--fail-on", f"{other}:0.99", code=3)
    several = ("--fail-on", f"{verdict['class']}:0.0", "--fail-on", f"{other}:0.99")
    judged(kept[2], good, *several, code=3)
    judged(kept[2], good, *several[2:], *several[:2], code=3)
    say("predict", kept[2], tmp_path, "--csv", tmp_path / "said.csv")
    rows = list(csv.DictReader((tmp_path / "said.csv").open()))
    assert len(rows) == len(expected) + 1
    assert sum(bool(row["problem"]) for row in rows) == len(expected)


def test_a_folder_is_screened_whole(tmp_path):
    """Whatever an import passes over may be what somebody wants to pass over, too."""
    names = (
        "a.safetensors", "a.pt", "b.SAFETENSORS", "c.ckpt", "optimizer.bin", ".d.safetensors",
        "adapter_model.safetensors", "pytorch_lora_weights.safetensors", "weight_dimensions.pt",
        ".hidden/e.pt", "run/sweep.json", "run/models/f.safetensors", "state.json",
    )  # fmt: skip
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "state.json").unlink()
    found = find_adapters([str(tmp_path / "in")], tmp_path)
    judged = {path.relative_to(tmp_path / "in").as_posix() for path in found.files}
    assert judged == {name for name in names if "json" not in name} - {"weight_dimensions.pt"}
    closed = {Path(path).name for path in found.closed}
    assert closed == {"link", "weight_dimensions.pt"}
    assert found.count == len(judged) + 2
    # A folder that says it is a dataset is not taken at its word.
    (tmp_path / "in" / "state.json").touch()
    with pytest.raises(UserError):
        find_adapters([str(tmp_path / "in")], tmp_path)


def test_another_rank_where_the_representation_allows_it(kept, files, tmp_path):
    tensors = load_file(files[0])
    double = {}
    for name, value in tensors.items():
        # A below A, and B beside 0.25 B: 1.25 · B·A, its rank two as stored.
        double[name] = (
            np.concatenate([value, value]) if ".lora.down." in name
            else np.concatenate([value * 0.75, value * 0.25], axis=1)
        )  # fmt: skip
    save_file(double, tmp_path / "double.safetensors")
    for classifier in ("linear", "neighbours"):
        given = (files[0], tmp_path / "double.safetensors")
        one, two = judged(kept[2], *given, "--classifier", classifier)
        assert (one["class"], one["problem"]) == (two["class"], None)
        assert one["probability"] == pytest.approx(two["probability"], abs=1e-3)
        assert one["unlike"] == pytest.approx(two["unlike"], abs=2)
    said = judged(kept[2], tmp_path, "--classifier", "mlp", code=2)
    assert "is of rank 2" in said[0]["problem"]


@pytest.mark.parametrize(
    ("text", "index", "least"),
    [("cat", 0, 0.5), ("cat:0.9", 0, 0.9), ("a:b", 1, 0.5), ("a:b:1e-2", 1, 0.01), ("7", 2, 0.5)],
)
def test_a_last_colon_splits_only_before_a_number(text, index, least):
    classes = ["cat", "a:b", 7]
    assert Threshold.parse(text, classes) == Threshold(index, least)


def test_thresholds_that_are_none():
    for text in ("dog", "cat:1.5", "cat:1.2.3", "a"):
        with pytest.raises(UserError):
            Threshold.parse(text, ["cat", "a:b"])
    threshold = Threshold(0, 0.5)
    assert threshold.fails(Verdict("x", None, None, "cut"))
    assert threshold.fails(Verdict("x", np.array([0.5, 0.5]), 1.0))
    assert not threshold.fails(Verdict("x", np.array([0.49, 0.51]), 1.0))


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_from_files_to_a_verdict_on_others(tmp_path):
    """The README's walk, with the shipped adapters as the files they were."""
    reader = find_dataset(DatasetRequest(str(ZOO)), ZOO).open()
    batches = reader.read(0, reader.num_rows, ["category_label"])
    labels = np.concatenate([batch.column(0).to_numpy() for batch in batches])
    kept_aside = [int(np.flatnonzero(labels == label)[0]) for label in range(10)]
    for label in range(10):
        rows = [int(row) for row in np.flatnonzero(labels == label) if row not in kept_aside]
        write_rows(ZOO, rows, tmp_path / "adapters" / f"digit-{label}")
    new = write_rows(ZOO, kept_aside, tmp_path / "new")
    say("data", "import", tmp_path / "adapters", tmp_path / "dataset")
    say(
        *("run", "--dataset", tmp_path / "dataset", "--name", "screening", "--num-runs", 1),
        *("--pairs", "update_pca:64:linear", "--configs", "all_layers", "--no-dashboard"),
        *("--output-dir", tmp_path, "--cache-dir", tmp_path / "cache", "--log-to", "none"),
    )
    verdicts = judged(tmp_path / "screening", tmp_path / "new")
    assert [item["adapter"] for item in verdicts] == [str(path) for path in new]
    right = [item["class"] == f"digit-{label}" for label, item in enumerate(verdicts)]
    assert sum(right) >= 8
    judged(tmp_path / "screening", tmp_path / "new", "--fail-on", "digit-7", code=3)
