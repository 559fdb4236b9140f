"""Reading a run for its report."""

import json
from dataclasses import replace

import numpy as np
import pytest

from features.core.errors import UserError
from features.core.files import sign
from sweep import RuntimeOptions, SweepSpec, run_sweep
from sweep.report.runs import load_run
from trainables.record import TrialKey
from trainables.run_dir import RunDir

pytestmark = pytest.mark.usefixtures("local_ray")

PAIR = ("all_layers", "stats")


@pytest.fixture(scope="module")
def spec(sanity):
    return SweepSpec(
        str(sanity),
        representations=("stats", "matrix_norms"),
        configs=("all_layers",),
        num_runs=2,
        settings={"mlp": dict(hidden_dim=16, epochs=3)},
    )


@pytest.fixture
def finished(spec, tmp_path):
    options = RuntimeOptions(tmp_path / "results", cache_dir=tmp_path / "cache")
    return run_sweep(spec, options).run_dir, options


def test_scores_are_those_of_the_records_and_labels_come_back(finished, spec):
    run_dir, options = finished
    run = load_run(run_dir)
    assert run.complete == [("all_layers", "stats"), ("all_layers", "matrix_norms")]
    for split in ("val", "test"):
        accuracy = run.scores(run.complete, split).accuracy()
        for row, pair in zip(accuracy, run.complete):
            np.testing.assert_allclose(row, run.metric(pair, f"{split}_acc"))

    labels = run_dir / "labels.json"
    before = labels.read_bytes()
    labels.unlink()
    with pytest.raises(UserError, match="has no readable labels"):
        load_run(run_dir)
    value = json.loads(before)
    value["labels"] = [(label + 1) % 3 for label in value["labels"]]
    labels.write_text(json.dumps(sign(value)))
    with pytest.raises(UserError, match="does not belong to record"):
        load_run(run_dir)
    labels.write_bytes(before[:-20])
    assert run_sweep(spec, options).summary["ran"] == 0
    assert labels.read_bytes() == before

    # What is missing is known; what is undefined is NaN.
    RunDir(run_dir).record(TrialKey(*PAIR, 43)).unlink()
    run = load_run(run_dir)
    assert run.missing(PAIR) == [43]
    assert run.complete == [("all_layers", "matrix_norms")]
    assert np.isnan(run.metric(("all_layers", "matrix_norms"), "test_top3_acc")).all()


def test_a_run_without_records_is_refused(finished):
    run_dir, _ = finished
    for path in (run_dir / "checkpoints").rglob("*.json"):
        path.unlink()
    with pytest.raises(UserError, match="no finished trial"):
        load_run(run_dir)


def test_labels_follow_the_samples_that_were_kept(make_dataset, tmp_path, spec):
    options = RuntimeOptions(tmp_path / "results", cache_dir=tmp_path / "cache", name="kept")
    small = replace(spec, dataset=str(make_dataset(rows=24)), representations=("stats",))
    run = load_run(run_sweep(small, options).run_dir)
    assert run.labels.tolist() == [i % 3 for i in range(24)]
