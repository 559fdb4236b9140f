"""Fits that trials leave for models to be made of: which stay, and how they are read."""

import pytest
import torch

from lorasweep.sweep.models.fits import FinishedFits, configs_to_keep, delete_fits
from lorasweep.sweep.request.grid import Entry, Grid
from lorasweep.sweep.request.spec import ALL, BEST, NONE
from lorasweep.trainables.classifiers.base import FitState
from lorasweep.trainables.store.events import TrialFinished
from lorasweep.trainables.store.record import write_record
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.trial import finished_fits
from lorasweep.trainables.trial.finished_fits import read_fit, write_fit

GRID = Grid(
    (Entry("stats", "mlp"), Entry("spectral", "mlp"), Entry("stats", "linear")),
    ("all_layers", "each_layer:unet.attn1.to_q"),
    (42, 43),
    unseeded=("linear",),
)
SCORES = {"stats": 0.5, "spectral": 0.7, "stats@linear": 0.6}


def left(run_dir):
    """Labels and seeds of the fits that are there."""
    return {
        (path.parent.name, path.stem.removeprefix("seed-"))
        for path in RunDir(run_dir).fits.rglob("*.safetensors")
    }


def finish(run_dir, key, label, fits):
    write_fit(run_dir, key, "fingerprint", FitState({"weights": torch.ones(2)}, {}))
    write_record(
        run_dir, key, "fingerprint", {"metrics": {"val_acc": SCORES[label]}, "feature_dim": 8}
    )
    fits.finished(TrialFinished(key, val_acc=SCORES[label]))


@pytest.mark.parametrize("mode", [BEST, ALL])
def test_of_complete_pairs_the_best_ones_stay(mode, tmp_path):
    fits = FinishedFits(tmp_path, GRID, mode)
    stats, spectral, linear = (GRID.keys_of(("all_layers", label)) for label in SCORES)
    finish(tmp_path, stats[0], "stats", fits)
    finish(tmp_path, spectral[0], "spectral", fits)
    finish(tmp_path, linear[0], "stats@linear", fits)
    # None but `linear` is complete: nothing can be said of the others yet.
    everything = {("stats", "42"), ("spectral", "42"), ("stats@linear", "42")}
    assert left(tmp_path) == everything
    # Another driver goes on: what was done before is in the records.
    fits = FinishedFits(tmp_path, GRID, mode)
    finish(tmp_path, stats[1], "stats", fits)
    everything |= {("stats", "43")}
    assert left(tmp_path) == (
        everything if mode == ALL else {("spectral", "42"), ("stats@linear", "42")}
    )
    finish(tmp_path, spectral[1], "spectral", fits)
    everything |= {("spectral", "43")}
    assert left(tmp_path) == (
        everything if mode == ALL else {("spectral", "42"), ("spectral", "43")}
    )
    delete_fits(tmp_path, spectral[:1])
    assert left(tmp_path) == {("spectral", "42")}
    delete_fits(tmp_path)
    assert not RunDir(tmp_path).fits.exists()


def test_fits_are_kept_of_configs_that_models_are_made_of():
    assert configs_to_keep(GRID, NONE) == []
    assert configs_to_keep(GRID, BEST) == ["all_layers"]
    assert configs_to_keep(GRID, ALL) == list(GRID.configs)


def test_a_fit_is_read_as_it_was_or_not_at_all(tmp_path, monkeypatch):
    key = GRID.keys[0]
    state = FitState({"weights": torch.arange(6.0).reshape(2, 3)}, {"k": 3})
    write_fit(tmp_path, key, "fingerprint", state)
    found = read_fit(tmp_path, key, "fingerprint")
    assert found.rest == state.rest
    assert found.tensors["weights"].equal(state.tensors["weights"])
    assert read_fit(tmp_path, key, "another") is None
    assert read_fit(tmp_path, GRID.keys[1], "fingerprint") is None
    path = RunDir(tmp_path).fit(key)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert read_fit(tmp_path, key, "fingerprint") is None
    monkeypatch.setattr(finished_fits, "LARGEST_BYTES", 23)
    write_fit(tmp_path, GRID.keys[1], "fingerprint", state)
    assert not RunDir(tmp_path).fit(GRID.keys[1]).exists()
