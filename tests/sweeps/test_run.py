"""Whole sweeps on the sanity set, on real Ray."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
from lorasweep.features.common.errors import UserError
from lorasweep.sweep.driver.dry_run import describe
from lorasweep.sweep.report.runs import load_run
from lorasweep.sweep.store.adapter_map import read_maps
from lorasweep.sweep.store.sweep_file import read_sweep_file
from lorasweep.sweep.watch.status import read_status
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.classifiers.mlp import Mlp
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey
from lorasweep.zoo.random.sd15 import matrix_column
from tests.conftest import NAMES as LAYERS
from tests.conftest import random_matrices

pytestmark = pytest.mark.usefixtures("local_ray")

QUICK = {"mlp": dict(hidden_dim=16, epochs=3)}
NAMES = ("stats", "matrix_norms")


@pytest.fixture
def spec(sanity):
    return SweepSpec(str(sanity), representations=NAMES, num_runs=2, settings=QUICK)


@pytest.fixture
def options(tmp_path, sanity_cache):
    return RuntimeOptions(tmp_path / "results", cache_dir=sanity_cache, save_models="none")


@pytest.fixture
def finished(sanity_run, options):
    """A copy of a run of all 8 trials of `spec`, where `options` looks for it."""
    return shutil.copytree(sanity_run.run_dir, options.output_dir / sanity_run.run_dir.name)


def tree(folder):
    """Path -> bytes of every record."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("seed-*.json")}


def summary(result):
    return {k: result.summary[k] for k in ("planned", "skipped", "ran", "failed", "not_reached")}


def counts(planned, skipped, ran, failed=0, not_reached=0):
    return {
        "planned": planned,
        "skipped": skipped,
        "ran": ran,
        "failed": failed,
        "not_reached": not_reached,
    }


def test_a_run_leaves_everything_on_disk(sanity_run):
    run_dir = sanity_run.run_dir
    assert run_dir.name == "sanity"
    assert summary(sanity_run) == counts(8, 0, 8)
    assert json.loads((run_dir / "summary.json").read_text()) == sanity_run.summary
    assert len(tree(run_dir / "checkpoints")) == 8

    on_disk = json.loads((run_dir / "results.json").read_text())
    assert on_disk.pop("checksum")
    assert set(on_disk.pop("derived")["files"]) == {"results.txt", "results.parquet"}
    assert on_disk == sanity_run.results
    assert on_disk["num_runs"] == 2
    assert on_disk["num_classes"] == 3
    assert on_disk["num_all_layers"] == 20
    assert on_disk["num_visual_layers"] == 8
    assert on_disk["label_mapping"] is None
    for config in ("all_layers", "visual_only"):
        entries = on_disk[f"{config}_results"]
        assert [e["representation"] for e in entries] == [f"{name}_{config}" for name in NAMES]
        for entry in entries:
            runs = entry["per_run_results"]
            accuracies = [run["test_acc"] for run in runs]
            assert entry["test_acc_all_runs"] == accuracies
            assert entry["test_acc_mean"] == pytest.approx(np.mean(accuracies))
            assert entry["test_acc_std"] == pytest.approx(np.std(accuracies))
            assert entry["training_time_total"] == pytest.approx(
                sum(run["training_time"] for run in runs)
            )
            assert len(entry["learning_curves"]) == len(entry["test_confusion_matrices"]) == 2
            assert entry["feature_dim"] == 7 * entry["num_layers"]

    table = pq.read_table(run_dir / "results.parquet").to_pylist()
    assert {(r["config"], r["representation"], r["seed"]) for r in table} == {
        (config, name, seed)
        for config in ("all_layers", "visual_only")
        for name in NAMES
        for seed in (42, 43)
    }
    text = (run_dir / "results.txt").read_text()
    assert "all_layers (20 layer tensors)" in text
    assert "Drop in test accuracy" in text

    events = [
        json.loads(line)
        for path in (run_dir / "events").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    kinds = [event["event"] for event in events]
    assert kinds.count("trial_started") == kinds.count("trial_finished") == 8
    assert {"started", "planned", "features", "done"} < set(kinds)
    assert all(isinstance(event["time"], float) for event in events)
    points = json.loads((run_dir / "tune/0/points.json").read_text())["points"]
    assert len(points) == 8


def test_a_record_says_all_that_results_format_promises(sanity_run):
    path = RunDir(sanity_run.run_dir).record(TrialKey("all_layers", "stats", 42))
    record = json.loads(path.read_text())
    assert set(record) == {
        "schema",
        "key",
        "fingerprint",
        "metrics",
        "curves",
        "confusion",
        "predictions",
        "per_class",
        "calibration",
        "precision_recall",
        "importance",
        "feature_dim",
        "num_layers",
        "timing",
        "environment",
        "checksum",
    }
    both = {"acc", "loss", "f1", "precision", "recall", "weighted_f1", "balanced_acc", "top3_acc"}
    both |= {"mcc", "roc_auc_ovr", "log_loss", "ece"}
    assert set(record["metrics"]) == {
        "train_acc",
        "train_loss",
        "train_test_gap",
        "best_epoch",
        "epochs_run",
        "stopped_early",
        *(f"{split}_{name}" for split in ("val", "test") for name in both),
    }
    assert np.sum(record["confusion"]["train"]) == 12
    assert len(record["predictions"]["test"]) == np.sum(record["confusion"]["test"]) == 5
    assert len(record["curves"]["val_acc_history"]) == record["metrics"]["epochs_run"] == 3


def test_the_same_call_again_runs_nothing(spec, options, finished):
    run_sweep(spec, options)  # a copy's files are not the ones that were written
    derived = [*finished.glob("results.*"), finished / "tune"]
    stamps = {p: p.stat().st_mtime_ns for p in derived}
    assert summary(run_sweep(spec, options)) == counts(8, 8, 0)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps


def test_growing_and_shrinking_the_grid(spec, options, finished, capsys):
    more = replace(spec, representations=("stats", "simple_stats"), num_runs=3)
    assert summary(run_sweep(more, options)) == counts(12, 4, 8)
    capsys.readouterr()
    fewer = run_sweep(replace(spec, representations=("simple_stats",), num_runs=1), options)
    assert summary(fewer) == counts(2, 2, 0)
    assert "also on disk: 14 records outside this grid" in capsys.readouterr().out
    assert [e["representation"] for e in fewer.results["all_layers_results"]] == [
        "simple_stats_all_layers"
    ]
    assert len(tree(finished / "checkpoints")) == 16


@pytest.mark.usefixtures("finished")
def test_another_spec_is_refused_and_the_difference_named(spec, options):
    other = replace(spec, settings={"mlp": {**QUICK["mlp"], "lr": 0.01}})
    with pytest.raises(UserError, match=r"mlp.lr 0.001, this run has 0.01: give it"):
        run_sweep(other, options)
    assert summary(run_sweep(spec, options)) == counts(8, 8, 0)


def test_stale_and_corrupt_records_are_set_aside_and_run_again(
    spec, options, finished, capsys, monkeypatch
):
    run_dir = finished
    path = RunDir(run_dir).record(TrialKey("all_layers", "stats", 42))
    path.write_text(path.read_text().replace('"test_acc": 0', '"test_acc": 1', 1)[:-3])
    with Reporter() as reporter:
        describe(spec, options, reporter)
    assert "trials: 7 done, 1 to run" in capsys.readouterr().out
    monkeypatch.setattr(Mlp, "version", 999)
    assert len(read_status(run_dir).done) == 7  # as they were made
    assert summary(run_sweep(spec, options)) == counts(8, 0, 8)
    assert "set aside as *.stale" in capsys.readouterr().out
    assert path.with_name("seed-42.json.corrupt").exists()
    assert len(list(run_dir.rglob("*.stale"))) == 7


def test_one_failing_trial_does_not_stop_the_others(spec, options, finished):
    run_dir = finished
    key = TrialKey("all_layers", "stats", 43)
    blocked = RunDir(run_dir).record(key)
    for path in RunDir(run_dir).records():
        if path.name == "seed-43.json":
            path.unlink()
    blocked.mkdir()
    result = run_sweep(spec, replace(options, max_failures=0))
    assert result.failed == [key]
    assert summary(result) == counts(8, 4, 3, failed=1)
    failure = json.loads((run_dir / "failures" / f"{key}.json").read_text())
    assert "IsADirectoryError" in failure["reason"]
    assert result.results["failed"] == [str(key)]
    assert [e["representation"] for e in result.results["all_layers_results"]] == [
        "matrix_norms_all_layers"
    ]
    status = read_status(run_dir)
    assert (status.failed, status.todo) == ([key], [])


def test_an_uncached_run_of_named_classes_and_bad_adapters(make_dataset, options, tmp_path):
    """It keeps no features; its labels are mapped, and are those of the adapters that count."""
    matrices = random_matrices(24)[LAYERS[0]]
    matrices[[0, 7], 0, 0] = np.nan
    labels = [("cat", "ant")[i % 2] for i in range(24)]
    columns = {LAYERS[0]: matrix_column(matrices), "category_label": pa.array(labels)}
    spec = SweepSpec(
        str(make_dataset(rows=24, **columns)),
        representations=("stats",), num_runs=1, settings=QUICK, skip_bad_samples=True,
    )  # fmt: skip
    uncached = replace(options, cache_features=False, cache_dir=tmp_path / "cache")
    result = run_sweep(spec, uncached)
    assert summary(result) == counts(2, 0, 2)
    assert result.results["label_mapping"] == {"ant": 0, "cat": 1}
    kept = [label for i, label in enumerate(labels) if i not in (0, 7)]
    assert load_run(result.run_dir).labels.tolist() == [int(label == "cat") for label in kept]
    assert not uncached.cache_dir.exists()
    assert not list(result.run_dir.rglob("*.arrow"))
    assert summary(run_sweep(spec, uncached)) == counts(2, 2, 0)


def test_a_dry_run_says_what_remains_and_changes_nothing(
    spec, options, sanity_run, tmp_path, capsys
):
    cold = replace(options, cache_dir=tmp_path / "cache")
    with Reporter() as reporter:
        describe(spec, cold, reporter)
    said = capsys.readouterr().out
    assert "trials: 0 done, 8 to run" in said
    assert "all_layers/stats: seeds 42, 43" in said
    assert "features to compute: stats, matrix_norms" in said
    assert not options.output_dir.exists()
    run_dir = shutil.copytree(sanity_run.run_dir, options.output_dir / sanity_run.run_dir.name)
    shutil.rmtree(run_dir / "checkpoints/visual_only/stats")
    with Reporter() as reporter:
        describe(spec, options, reporter)
    said = capsys.readouterr().out
    assert "trials: 6 done, 2 to run" in said
    assert "features cached: stats" in said


def test_status_counts_pairs_and_trials(finished):
    run_dir = finished
    RunDir(run_dir).record(TrialKey("visual_only", "stats", 42)).unlink()
    status = read_status(run_dir)
    assert status.to_json()["pairs"] == {
        "all_layers": {"completed": 2, "total": 2},
        "visual_only": {"completed": 1, "total": 2},
    }
    lines = status.lines()
    assert "all_layers   2/2 completed, 0 remaining" in lines
    assert "visual_only  1/2 completed, 1 remaining" in lines
    assert "total        3/4 (75.0%)" in lines


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize("part", ["checkpoints", "failures"])
def test_resume_when_nothing_is_left_needs_neither_ray_nor_torch(part, spec, options):
    run_sweep(replace(spec, num_runs=1), replace(options, save_models="best"))
    assert len(list(RunDir(options.run_dir(spec.dataset)).models.rglob("*.safetensors"))) == 2
    script = f"""
import sys
from collections import Counter
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from lorasweep import RuntimeOptions, SweepSpec, run_sweep
spec = SweepSpec({spec.dataset!r}, representations={NAMES!r}, num_runs=1,
                 settings={{"mlp": dict(hidden_dim=16, epochs=3)}})
options = RuntimeOptions(output_dir=Path({str(options.output_dir)!r}),
                         cache_dir=Path({str(options.cache_dir)!r}))
assert run_sweep(spec, options).summary["skipped"] == 4
heavy = {{"ray", "torch", "datasets"}} & set(sys.modules)
assert not heavy, heavy
"""
    if part == "checkpoints":  # derived files are written again from the records
        for path in options.run_dir(spec.dataset).glob("results.*"):
            path.unlink()
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (options.run_dir(spec.dataset) / "results.json").exists()


def test_leftovers_of_killed_processes_are_removed(spec, options, finished):
    run_dir = finished
    key = TrialKey("all_layers", "stats", 42)
    RunDir(run_dir).state(key).parent.mkdir(parents=True, exist_ok=True)
    RunDir(run_dir).state(key).write_bytes(b"left by a worker killed right after the record")
    old, new = run_dir / ".sweep.json.1234.tmp", run_dir / "checkpoints/.seed-42.json.5678.tmp"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    RunDir(run_dir).record(TrialKey("visual_only", "stats", 43)).unlink()
    assert summary(run_sweep(spec, options)) == counts(8, 7, 1)
    assert not RunDir(run_dir).state(key).exists()
    assert not old.exists()
    assert new.exists()


def test_a_folder_that_is_no_run_directory_is_left_alone(spec, options):
    run_dir = options.run_dir(spec.dataset)
    run_dir.mkdir(parents=True)
    (run_dir / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds other things \(thesis.tex\)"):
        run_sweep(spec, options)
    assert [path.name for path in run_dir.iterdir()] == ["thesis.tex"]


def test_a_damaged_sweep_file_is_written_again(spec, options, finished, capsys):
    run_dir = finished
    path = run_dir / "sweep.json"
    path.write_text(path.read_text()[:-50])
    with pytest.raises(UserError, match="give the original `lorasweep run` command again"):
        read_status(run_dir)
    assert summary(run_sweep(spec, options)) == counts(8, 8, 0)
    assert "sweep.json was damaged" in capsys.readouterr().out
    assert read_status(run_dir).todo == []


OWN = """
from lorasweep.features.representations import representation

@representation("own", version=1, values=["mean"])
def own(batch):
    BODY
"""


@pytest.mark.long
def test_a_failing_representation_fails_its_trials_only(spec, options, tmp_path, capsys):
    """One of the user's own; once mended, only its trials run."""
    file = tmp_path / "own.py"
    file.write_text(OWN.replace("BODY", 'raise ArithmeticError("not for these")'))
    spec = replace(spec, representations=("info_theoretic", f"{file}:own"), num_runs=1)
    result = run_sweep(spec, options)
    assert {key.representation for key in result.failed} == {"own"}
    assert summary(result) == counts(4, 0, 2, failed=2)
    assert "representation own failed: ArithmeticError: not for these" in capsys.readouterr().out
    failure = RunDir(result.run_dir).failure(result.failed[0])
    assert "not for these" in json.loads(failure.read_text())["reason"]
    file.write_text(OWN.replace("BODY", "return batch.mean[:, None]"))
    assert summary(run_sweep(spec, options)) == counts(4, 2, 2)
    assert not failure.exists()
    # Without the file: the run directory has a copy, and status and report need none.
    file.unlink()
    assert len(read_status(result.run_dir).done) == 4
    restored = read_sweep_file(result.run_dir).spec()
    assert summary(run_sweep(restored, options)) == counts(4, 4, 0)


def test_fresh_full_resume_and_partial_resume(sanity, options, capsys):
    """The three classic cases on the whole 9 × 2 grid; deleted records come back the same."""
    spec = SweepSpec(str(sanity), num_runs=1, settings=QUICK)
    fresh = run_sweep(spec, options)
    assert summary(fresh) == counts(18, 0, 18)
    assert "18/18 (100.0%)" in capsys.readouterr().out
    before = tree(fresh.run_dir)

    full = run_sweep(spec, options)
    assert summary(full) == counts(18, 18, 0)
    assert tree(full.run_dir) == before

    lost = ("all_layers/ensemble", "visual_only/spectral", "visual_only/ensemble")
    shutil.rmtree(fresh.run_dir / "checkpoints" / lost[0])
    for folder in lost[1:]:
        (fresh.run_dir / "checkpoints" / folder / "seed-42.json").unlink()
    capsys.readouterr()
    partial = run_sweep(spec, options)
    said = capsys.readouterr().out
    assert "all_layers   8/9 completed, 1 remaining" in said
    assert "visual_only  7/9 completed, 2 remaining" in said
    assert "15/18 (83.3%)" in said
    assert summary(partial) == counts(18, 15, 3)
    after = tree(fresh.run_dir)
    again = {path for path in after if any(folder in str(path) for folder in lost)}
    assert len(again) == 3
    assert {p: after[p] for p in after.keys() - again} == {
        p: before[p] for p in before.keys() - again
    }
    for path in again:
        old, new = json.loads(before[path]), json.loads(after[path])
        for part in ("metrics", "curves", "confusion", "predictions", "fingerprint"):
            assert new[part] == old[part]
    merged = [*partial.results["all_layers_results"], *partial.results["visual_only_results"]]
    assert len(merged) == 18


@pytest.mark.long
def test_representations_of_updates_run_and_flat_is_never_cached(spec, options):
    wanted = ("update_spectrum", "flat", "flat/pca:4", "update_pca:64")
    options = replace(options, cache_dir=options.output_dir / "cache")
    result = run_sweep(replace(spec, representations=wanted, num_runs=1), options)
    assert summary(result) == counts(8, 0, 8)
    folders = [path.parent for path in options.cache_dir.rglob("manifest.json")]
    names = Counter(folder.name.partition("-")[0] for folder in folders)
    assert names == {"update_spectrum": 1, "update_pca=64": 2}
    maps = read_maps(result.run_dir)
    assert list(maps) == ["all_layers", "visual_only"]
    fitted = [load_from_disk(f)["adapter"] for f in folders if "update_pca" in f.name]
    found = [list(map(list, zip(of.x, of.y))) for of in maps.values()]
    for rows in fitted:
        assert [row[:2] for row in rows] in found
    entries = {e["representation"]: e for e in result.results["all_layers_results"]}
    assert entries["flat/pca:4_all_layers"]["feature_dim"] == 4
