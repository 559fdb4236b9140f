"""What counts against a trial, and what is unpickled."""

import os
import pickle
import shutil
from dataclasses import replace

import pytest
from ray.tune.experiment import Trial

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
from lorasweep.features.common.lock import LockLostError
from lorasweep.sweep.engine.listener import TrialListener
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey


def test_a_trial_that_got_further_has_its_retries_back(tmp_path):
    point = {**TrialKey("all_layers", "stats", 42).to_json(), "fingerprint": "f"}
    trial = Trial("any", config={"point": point}, max_failures=1, stub=True)
    listener = TrialListener(tmp_path)

    def reaches(epoch):
        with listener.telling(lambda event: None):
            result = {"epoch": epoch, "val_acc": None, "done": False}
            listener.on_trial_result(0, [trial], trial, result)

    def fails():
        trial.run_metadata.num_failures += 1
        return not trial.should_recover()

    reaches(5)
    for epoch in (6, 9, 10):  # a preempted one
        assert not fails()
        reaches(epoch)
    assert not fails()
    reaches(10)
    assert fails(), "the same place over and over"


def test_a_failure_in_a_run_directory_that_is_anothers_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("lorasweep.sweep.engine.listener._reason", lambda trial: "it broke")
    key = TrialKey("all_layers", "stats", 42)
    trial = Trial("any", config={"point": {**key.to_json(), "fingerprint": "f"}}, stub=True)
    listener = TrialListener(tmp_path)

    def lost(event):
        raise LockLostError("it was taken over")

    with listener.telling(lost), pytest.raises(LockLostError):
        listener.on_trial_error(0, [trial], trial)
    assert not RunDir(tmp_path).failure(key).exists()
    with listener.telling(lambda event: None):
        listener.on_trial_error(0, [trial], trial)
    assert RunDir(tmp_path).failure(key).exists()


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def interrupted(sanity, sanity_cache, sanity_run, tmp_path):
    """(spec, options, run directory) of a run that lacks a record; Tune's experiment holds the
    trial."""
    shutil.copytree(sanity_run.run_dir, tmp_path / "run")
    spec = SweepSpec(
        str(sanity),
        representations=("stats", "matrix_norms"),
        num_runs=2,
        settings={"mlp": dict(hidden_dim=16, epochs=3)},
    )
    options = RuntimeOptions(tmp_path, name="run", cache_dir=sanity_cache, log_to="none")
    run_dir = RunDir(tmp_path / "run")
    run_dir.record(TrialKey("all_layers", "stats", 42)).unlink()
    for snapshot in run_dir.tune.glob("*/experiment_state-*.json"):
        text = snapshot.read_text().replace(str(sanity_run.run_dir), str(tmp_path / "run"))
        snapshot.write_text(text.replace("TERMINATED", "PENDING"))
    return spec, options, run_dir


@pytest.mark.long
@pytest.mark.parametrize("restore", [True, False])
def test_nothing_of_tunes_is_unpickled_unless_its_experiment_is_restored(
    restore, interrupted, tmp_path
):
    spec, options, run_dir = interrupted
    mark = tmp_path / "unpickled"
    (tuner,) = run_dir.tune.glob("*/tuner.pkl")
    tuner.write_bytes(pickle.dumps(Bomb(mark)))
    assert run_sweep(spec, replace(options, tune_restore=restore)).summary["ran"] == 1
    assert mark.exists() == restore


@pytest.mark.long
@pytest.mark.parametrize("torn", ["experiment_state", "basic-variant-state"])
def test_an_experiment_that_tune_cannot_read_is_begun_anew(torn, interrupted, capsys):
    """Tune itself would say so in its log, and begin one with a trial of no configuration."""
    spec, options, run_dir = interrupted
    (path,) = run_dir.tune.glob(f"0/{torn}-*.json")
    if torn == "experiment_state":
        text = path.read_text()
        pickled = '\\"value\\": \\"80'
        assert pickled in text
        path.write_text(text.replace(pickled, pickled[:-2] + "ff"))
    else:
        path.write_bytes(b"")
    assert run_sweep(spec, options).summary["ran"] == 1
    assert (run_dir.tune / "1").exists()
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
