"""A run directory that version 0.1 wrote opens in every later one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from features.cache import CacheEntry
from features.core.errors import UserError
from features.core.files import sign
from features.representations import REPRESENTATIONS
from features.scan import scan_dataset
from features.sources import DatasetRequest, find_dataset
from features.stage import plan_stage
from sweep import RuntimeOptions, open_run, run_sweep
from sweep.report.build import make_report
from sweep.report.facts import reproduce_command
from sweep.report.runs import load_run
from sweep.sweep_file import continued, read_sweep_file
from sweep.watch.status import read_status
from trainables.classifiers.mlp import Mlp
from trainables.record import TrialKey
from trainables.run_dir import RunDir
from zoo.sanity import make_sanity

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def old_run(tmp_path):
    """Two representations × two configs × two seeds on the sanity set of 6 × 3 adapters."""
    shutil.copytree(DATA / "run-0.1", tmp_path / "run-0.1")
    return tmp_path / "run-0.1"


def test_it_is_shown_as_it_was(old_run):
    status = read_status(old_run)
    assert len(status.done) == 8
    assert status.todo == status.failed == []
    assert {key.classifier for key in status.done} == {"mlp"}
    page = make_report([old_run]).read_text()
    assert "ensemble" in page
    assert "mportance" not in page  # its records have none


def test_it_is_shown_as_it_was_when_versions_are_raised(old_run, monkeypatch):
    monkeypatch.setattr(Mlp, "version", 999)
    monkeypatch.setitem(REPRESENTATIONS, "stats", REPRESENTATIONS["simple_stats"])
    assert len(read_status(old_run).done) == 8
    assert load_run(old_run).missing(("all_layers", "stats")) == []


def test_it_opens_in_python(old_run):
    run = open_run(old_run)
    assert len(run.trials) == 8
    means = run.trials.groupby(["config", "representation"]).test_acc.mean()
    old = json.loads((old_run / "results.json").read_text())
    for config in ("all_layers", "visual_only"):
        for now, then in zip(run.results[f"{config}_results"], old[f"{config}_results"]):
            assert now.items() >= then.items()
            name = then["representation"].removesuffix(f"_{config}")
            assert means[config, name] == pytest.approx(then["test_acc_mean"])
    assert run.status.todo == []
    # Of an unfinished one, what there is.
    RunDir(old_run).record(next(iter(run.records))).unlink()
    left = open_run(str(old_run))
    assert len(left.trials) == 7
    assert len(left.results["all_layers_results"]) == len(old["all_layers_results"]) - 1
    with pytest.raises(UserError, match="is no run directory"):
        open_run(old_run.parent)


def test_it_is_continued(old_run, tmp_path, local_ray):
    """Its records stand, its features are those of today, and what is added runs."""
    data = make_sanity(tmp_path / "sanity", samples=6, classes=3)
    shutil.copytree(DATA / "cache-0.1", tmp_path / "cache")
    options = RuntimeOptions(
        tmp_path, "run-0.1", cache_dir=tmp_path / "cache", log_to="none", save_models="none"
    )
    before = {p: p.read_bytes() for p in RunDir(old_run).records()}
    old = json.loads((old_run / "results.json").read_text())
    spec = read_sweep_file(old_run).spec()
    spec = type(spec)(**{**vars(spec), "dataset": str(data), "num_runs": 3})
    lost = RunDir(old_run).record(TrialKey("all_layers", "stats", 43))
    lost.unlink()
    result = run_sweep(spec, options)
    assert (result.summary["skipped"], result.summary["ran"]) == (7, 5)
    for path, content in before.items():
        if path == lost:  # trained again, to the same bits on the same kind of processor only
            mine, theirs = json.loads(path.read_bytes()), json.loads(content)
            assert mine["fingerprint"] == theirs["fingerprint"]
            assert mine.keys() - theirs.keys() == {"importance"}
        else:
            assert path.read_bytes() == content
    assert list(result.results) == [n for n in old if n not in ("derived", "checksum")]


def test_its_features_are_used(tmp_path):
    data = make_sanity(tmp_path / "sanity", samples=6, classes=3)
    shutil.copytree(DATA / "cache-0.1", tmp_path / "cache")
    source = find_dataset(DatasetRequest(str(data)), tmp_path)
    scan = scan_dataset(source, "category_label", None, tmp_path)
    plan = plan_stage(scan, [REPRESENTATIONS["stats"]], tmp_path / "cache")
    assert plan.computed == []
    assert plan.damaged == {}
    assert (
        "instructions" not in CacheEntry(tmp_path / "cache", scan.weights, plan.cached[0]).origin()
    )


def test_a_setting_that_is_newer_than_a_run_has_its_default_there(old_run):
    value = json.loads((old_run / "sweep.json").read_text())
    del value["frozen"]["decides"]["hyperparameters"]["weight_decay"]
    (old_run / "sweep.json").write_text(json.dumps(sign(value)))
    old = read_sweep_file(old_run)
    assert "weight_decay" not in old.settings("mlp")
    assert "--weight-decay" not in reproduce_command(old)
    now = replace(old, declared=json.loads(json.dumps(old.declared)))
    settings = now.declared["classifiers"]["mlp"]
    settings["defaults"] = Mlp.Config().to_json()
    settings["config"] = {**settings["config"], "weight_decay": 1e-4}
    assert continued(old_run, now).fingerprints == old.fingerprints
    settings["config"]["weight_decay"] = 0.5
    with pytest.raises(UserError, match=r"mlp.weight_decay 0.0001, this run has 0.5"):
        continued(old_run, now)
