"""Reading a run for its report."""

import json
import shutil

import numpy as np
import pytest

from lorasweep import RuntimeOptions, run_sweep
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import sign
from lorasweep.sweep.report.runs import load_run
from lorasweep.sweep.store.sweep_file import read_sweep_file
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

PAIR = ("all_layers", "stats")


@pytest.fixture
def finished(sanity_run, tmp_path):
    """A copy of a finished run, which is not to change."""
    return shutil.copytree(sanity_run.run_dir, tmp_path / sanity_run.run_dir.name)


def test_scores_are_those_of_the_records_and_labels_come_back(finished, sanity_cache):
    run_dir = finished
    run = load_run(run_dir)
    assert run.complete == [
        (config, name)
        for config in ("all_layers", "visual_only")
        for name in ("stats", "matrix_norms")
    ]
    for row, pair in zip(run.scores(run.complete).accuracy(), run.complete):
        np.testing.assert_allclose(row, run.metric(pair, "test_acc"))

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
    options = RuntimeOptions(
        run_dir.parent, cache_dir=sanity_cache, log_to="none", save_models="none"
    )
    assert run_sweep(read_sweep_file(run_dir).spec(), options).summary["ran"] == 0
    assert labels.read_bytes() == before

    # What is missing is known; what is undefined is NaN.
    RunDir(run_dir).record(TrialKey(*PAIR, 43)).unlink()
    run = load_run(run_dir)
    assert [key.seed for key in run.missing(PAIR)] == [43]
    assert PAIR not in run.complete
    assert np.isnan(run.metric(("all_layers", "matrix_norms"), "test_top3_acc")).all()


def test_a_run_without_records_is_refused(finished):
    for path in (finished / "checkpoints").rglob("*.json"):
        path.unlink()
    with pytest.raises(UserError, match="no finished trial"):
        load_run(finished)
