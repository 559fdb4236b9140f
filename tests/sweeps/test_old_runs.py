"""Runs, models and caches that version 0.1 wrote, before its modules had today's names, still work.

tests/data/runs-0.1 holds a finished run, an interrupted one with states in mid-training, one with
a plug-in of each kind, an exported model, and their dataset and feature cache.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lorasweep import RuntimeOptions, open_run, run_sweep
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import sign
from lorasweep.features.common.hardware import hardware_of
from lorasweep.features.compute.cache import CacheEntry
from lorasweep.features.compute.stage import plan_stage
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.representations import REPRESENTATIONS
from lorasweep.sweep.models.predict import choose_model, find_models, predict
from lorasweep.sweep.report.build import make_report
from lorasweep.sweep.report.facts import reproduce_command
from lorasweep.sweep.report.runs import load_run
from lorasweep.sweep.store.sweep_file import continued, read_sweep_file
from lorasweep.sweep.watch.status import read_status
from lorasweep.trainables.classifiers.mlp import Mlp
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.state import read_state
from tests.faults.chaos import read_events

DATA = Path(__file__).parents[1] / "data" / "runs-0.1"


@pytest.fixture
def old(tmp_path):
    """A copy of the whole folder; nothing in it knows where it lies now."""
    shutil.copytree(DATA, tmp_path / "old")
    return tmp_path / "old"


def go_on(old, name, **changes):
    """Continue a run of the folder with its dataset and cache, and return what came of it."""
    spec = replace(read_sweep_file(old / name).spec(), dataset=str(old / "adapters"), **changes)
    options = RuntimeOptions(
        old, name, cache_dir=old / "cache", log_to="none", save_models="none", any_device=True
    )
    return run_sweep(spec, options)


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    ("name", "done", "left"), [("finished", 18, 0), ("interrupted", 1, 3), ("plugins", 6, 0)]
)
def test_status_and_report_show_a_run_as_it_was(name, done, left, old, monkeypatch):
    monkeypatch.setattr(Mlp, "version", 999)  # what a run declared counts, not today's versions
    monkeypatch.setitem(REPRESENTATIONS, "stats", REPRESENTATIONS["simple_stats"])
    run_dir = old / name
    before = content(run_dir)
    status = read_status(run_dir)
    assert (len(status.done), len(status.todo), status.failed) == (done, left, [])
    page = make_report([run_dir], old / "report", formats=()).read_text()
    assert "stats" in page
    loaded = load_run(run_dir)
    assert sum(len(loaded.missing(pair)) for pair in read_sweep_file(run_dir).grid.cells) == left
    assert content(run_dir) == before


def test_python_opens_a_run(old):
    run = open_run(old / "finished")
    assert len(run.trials) == 18
    then = json.loads((old / "finished" / "results.json").read_text())
    assert run.results["num_classes"] == then["num_classes"]
    for config in ("all_layers", "visual_only"):
        for now, before in zip(run.results[f"{config}_results"], then[f"{config}_results"]):
            assert (
                now.items() >= {k: v for k, v in before.items() if k != "per_run_results"}.items()
            )
            for run_now, run_before in zip(now["per_run_results"], before["per_run_results"]):
                assert run_now.items() >= run_before.items()
    next(iter(RunDir(run.run_dir).records())).unlink()
    assert len(open_run(str(run.run_dir)).trials) == 17
    with pytest.raises(UserError, match="is no run directory"):
        open_run(old)


def test_caches_are_used(old):
    source = find_dataset(DatasetRequest(str(old / "adapters")), old / "cache")
    scan = scan_dataset(source, "category_label", None, old / "cache")
    items = [REPRESENTATIONS["stats"], REPRESENTATIONS["update_sketch"].of_size("32")]
    plan = plan_stage(scan, items, old / "cache")
    assert (plan.computed, plan.damaged) == ([], {})
    for item in plan.cached:
        assert CacheEntry(old / "cache", scan.weights, item).damage(24) is None


@pytest.mark.usefixtures("local_ray")
def test_a_finished_run_goes_on_with_another_seed(old):
    records, cache = content(old / "finished" / "checkpoints"), content(old / "cache")
    assert go_on(old, "finished").summary["skipped"] == 18
    more = go_on(old, "finished", num_runs=3).summary
    # linear and neighbours, which no seed changes, have their records.
    assert (more["skipped"], more["ran"], more["failed"]) == (18, 6, 0)
    assert content(old / "finished" / "checkpoints").items() >= records.items()
    assert {p: old_bytes for p, old_bytes in content(old / "cache").items() if p in cache} == cache
    assert not [p for p in content(old / "cache") if p not in cache and "scans" not in p.parts]


def made_here(environment):
    """Whether this machine rounds as the one that a state comes from; else trials start over."""
    here = hardware_of(torch.device("cpu")).instructions
    return environment["torch"] == torch.__version__ and environment["instructions"] == here


@pytest.mark.usefixtures("local_ray")
def test_an_interrupted_run_goes_on_from_its_states(old):
    run_dir = old / "interrupted"
    sweep = read_sweep_file(run_dir)
    left = [key for key in sweep.grid.keys if key.classifier != "neighbours"]
    states = [read_state(run_dir, key) for key in left]
    assert {key.classifier for key in left} == {"mlp", "gl_net", "linear"}
    assert all(s and s.fingerprint == f for s, f in zip(states, map(sweep.fingerprints.get, left)))
    records = content(run_dir / "checkpoints")
    result = go_on(old, "interrupted")
    assert (result.summary["skipped"], result.summary["ran"]) == (1, 3)
    assert content(run_dir / "checkpoints").items() >= records.items()
    resumed = [event for event in read_events(run_dir) if event["event"] == "trial_resumed"]
    assert len(resumed) == (3 if made_here(states[0].environment) else 0)


@pytest.mark.usefixtures("local_ray")
def test_plug_ins_of_each_kind_go_on_from_their_copies(old):
    result = go_on(old, "plugins", num_runs=3)
    # Copies were moved; row_norms and stats by mlp get a third seed.
    assert (result.summary["skipped"], result.summary["ran"], result.failed) == (6, 2, [])
    assert len(list(RunDir(result.run_dir).plugins.iterdir())) == 3  # the copies, and no more


def judge(folder, old, **chosen):
    model = choose_model(find_models(folder), *map(chosen.get, ("config", "rep", "classifier")))
    return predict(
        folder,
        model,
        [str(old / "adapters")],
        ensemble=False,
        run_plugins=True,
        memo=old / "cache",
    )


@pytest.mark.parametrize(
    ("folder", "chosen"),
    [
        ("finished", {"config": "all_layers"}),
        ("exported", {}),
        ("plugins", {"rep": "row_norms", "classifier": "centroids"}),
    ],
)
def test_models_predict_as_they_did(folder, chosen, old):
    verdicts = judge(old / folder, old, **chosen)
    right = [verdict.probabilities.argmax() == i % 3 for i, verdict in enumerate(verdicts)]
    assert len(right) == 24
    assert np.mean(right) > 0.8


def test_a_setting_that_is_newer_than_a_run_has_its_default_there(old):
    path = old / "finished" / "sweep.json"
    value = json.loads(path.read_text())
    settings = value["declared"]["classifiers"]["mlp"]
    del settings["config"]["weight_decay"], settings["defaults"]["weight_decay"]
    path.write_text(json.dumps(sign(value)))
    before = read_sweep_file(path.parent)
    assert "weight_decay" not in before.settings("mlp")
    assert "--weight-decay" not in reproduce_command(before)
    now = replace(before, declared=json.loads(json.dumps(before.declared)))
    settings = now.declared["classifiers"]["mlp"]
    settings["defaults"] = Mlp.Settings().to_json()
    settings["config"] = {**settings["config"], "weight_decay": 1e-4}
    assert continued(path.parent, now).fingerprints == before.fingerprints
    settings["config"]["weight_decay"] = 0.5
    with pytest.raises(UserError, match=r"mlp.weight_decay 0.0001, this run has 0.5"):
        continued(path.parent, now)


def test_a_run_of_the_first_schema_is_refused_untouched(old):
    path = old / "finished" / "sweep.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps(sign({**value, "schema": 1})))
    before = content(path.parent)
    with pytest.raises(UserError, match="older version"):
        read_status(path.parent)
    assert content(path.parent) == before
