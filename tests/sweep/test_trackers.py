"""Trials told to experiment trackers, from their records."""

import json
import struct
import threading

import pytest
from tensorboardX.proto.event_pb2 import Event

from sweep import RuntimeOptions, SweepSpec, launch, run_sweep
from sweep.progress import Reporter
from sweep.trackers import TrackerFeed
from trainables.hyperparameters import Hyperparameters
from trainables.record import TrialKey, read_record, record_path

QUICK = Hyperparameters(hidden_dim=16, epochs=3)


@pytest.fixture
def spec(sanity):
    return SweepSpec(
        str(sanity), representations=("stats",), configs=("all_layers",), num_runs=2, hyper=QUICK
    )


@pytest.fixture
def options(tmp_path):
    return RuntimeOptions(output_dir=tmp_path / "results", cache_dir=tmp_path / "cache")


def read_events(folder):
    """The scalars of the one event file of a trial, and the tags of its summaries."""
    (path,) = folder.glob("events.out.tfevents.*")
    content, at, scalars, tags = path.read_bytes(), 0, {}, set()
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + length])
        at += length + 16
        for value in event.summary.value:
            tags.add(value.tag)
            if value.HasField("simple_value"):
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars, tags


@pytest.mark.usefixtures("local_ray")
def test_tensorboard_shows_what_the_records_say(spec, options):
    run_dir = run_sweep(spec, options).run_dir
    for seed in (42, 43):
        key = TrialKey("all_layers", "stats", seed)
        record = read_record(run_dir, key)
        scalars, tags = read_events(run_dir / "trackers/tensorboard" / str(key))
        for tag, name in (("val/acc", "val_acc_history"), ("train/loss", "train_loss_history")):
            curve = record["curves"][name]
            assert scalars[tag] == [(i, pytest.approx(v)) for i, v in enumerate(curve, 1)]
        for name, value in record["metrics"].items():
            if value is None:
                assert name not in scalars
            else:
                assert scalars[name] == [(0, pytest.approx(float(value)))]
        assert "_hparams_/session_start_info" in tags
    # A record that is made anew is told anew; the others are not.
    before = {p: p.stat().st_mtime_ns for p in (run_dir / "trackers").rglob("events.*")}
    record_path(run_dir, TrialKey("all_layers", "stats", 42)).unlink()
    run_sweep(spec, options)
    after = {p: p.stat().st_mtime_ns for p in (run_dir / "trackers").rglob("events.*")}
    assert len(after) == 2
    assert {p.parent.name for p in before.items() - after.items() for p in p[:1]} == {"seed-42"}


@pytest.mark.usefixtures("local_ray")
def test_none_writes_nothing(spec, options, tmp_path):
    silent = RuntimeOptions(tmp_path / "other", cache_dir=tmp_path / "cache", log_to="none")
    assert not (run_sweep(spec, silent).run_dir / "trackers").exists()


class Broken:
    """A tracker that is down, at first."""

    def __init__(self):
        self.told = []
        self.down = True

    def log(self, key, trial):
        if self.down:
            raise ConnectionError("tracker.example is down")
        self.told.append(key)


@pytest.mark.usefixtures("local_ray")
def test_a_broken_tracker_costs_a_warning_and_is_told_later(spec, options, monkeypatch, capsys):
    tracker = Broken()
    monkeypatch.setattr(launch, "make_tracker", lambda name, run_dir: tracker)
    result = run_sweep(spec, options, Reporter())
    assert result.summary["ran"] == 2
    said = capsys.readouterr().out
    assert said.count("is down") == 1
    assert "2 trials could not be logged" in said
    tracker.down = False
    record_path(result.run_dir, TrialKey("all_layers", "stats", 42)).unlink()
    assert run_sweep(spec, options).summary["ran"] == 1
    assert sorted(key.seed for key in tracker.told) == [42, 43]
    told = json.loads((result.run_dir / "trackers/tensorboard.json").read_text())
    assert set(told) == {"all_layers/stats/seed-42", "all_layers/stats/seed-43"}


def test_a_slow_tracker_keeps_nobody_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr("sweep.trackers._PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(
        "sweep.trackers.read_record",
        lambda run_dir, key: {
            "metrics": {}, "timing": {}, "feature_dim": 1, "num_layers": 1, "checksum": "x",
            "curves": {"val_acc_history": [], "train_loss_history": []},
        },
    )  # fmt: skip
    entered, release, warnings = threading.Event(), threading.Event(), []

    class Slow:
        def log(self, key, trial):
            entered.set()
            release.wait(20)

    with TrackerFeed("slow", Slow(), tmp_path, {}, warnings.append) as feed:
        feed.tell([TrialKey("all_layers", "stats", seed) for seed in range(5)])
        assert entered.wait(10)
    assert warnings == ["slow: 5 trials could not be logged; the same command again tries again"]
    release.set()
