"""Trials told to experiment trackers, from their records."""

import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from typer.testing import CliRunner

from lorasweep import RuntimeOptions, SweepSpec, cli, run_sweep
from lorasweep.features.common.files import sign, write_json
from lorasweep.sweep.driver import launch
from lorasweep.sweep.trackers import TrackedTrial, TrackerFeed, available, make_tracker
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.store.record import read_record, write_record
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

ROOT = Path(__file__).parents[2]
QUICK = {"mlp": dict(hidden_dim=16, epochs=3)}
KEYS = [TrialKey("all_layers", "stats", seed) for seed in (42, 43)]


@pytest.fixture(autouse=True)
def _nowhere_else(monkeypatch, tmp_path):
    """What the environment says of trackers does not count, and there is no login."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "WANDB_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def spec(sanity):
    return SweepSpec(
        str(sanity), representations=("stats",), configs=("all_layers",), num_runs=2, settings=QUICK
    )


@pytest.fixture
def options(tmp_path, sanity_cache):
    return RuntimeOptions(tmp_path / "results", cache_dir=sanity_cache, save_models="none")


@pytest.fixture
def again(sanity_run, spec, tmp_path):
    """Give the command of a complete sweep once more, with a tracker."""
    output = tmp_path / "é + results"
    shutil.copytree(sanity_run.run_dir, output / "run")

    def run(log_to):
        options = RuntimeOptions(
            output, "run", cache_dir=tmp_path / "cache", log_to=log_to, save_models="none"
        )
        result = run_sweep(spec, options)
        assert result.summary["ran"] == 0
        return result.run_dir

    return run


def change(run_dir, key):
    """Have a record say something else."""
    record = read_record(run_dir, key)
    record["metrics"]["test_acc"] = 0.125
    write_json(RunDir(run_dir).record(key), sign(record), indent=None)


def expected(run_dir, key):
    """What a tracker must show: metrics, curves, and where they come from."""
    record = read_record(run_dir, key)
    numbers = {**record["metrics"], **record["timing"]}
    metrics = {name: float(value) for name, value in numbers.items() if value is not None}
    curves = {
        "val/acc": record["curves"]["val_acc_history"],
        "train/loss": record["curves"]["train_loss_history"],
    }
    return metrics, curves, {name: record[name] for name in ("fingerprint", "checksum")}


# TensorBoard


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


def test_tensorboard_shows_what_the_records_say_and_replaces_what_changed(again):
    run_dir = again("tensorboard")
    for key in KEYS:
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
    before = {p: p.stat().st_mtime_ns for p in (run_dir / "trackers").rglob("events.*")}
    change(run_dir, KEYS[0])
    again("tensorboard")
    after = {p: p.stat().st_mtime_ns for p in (run_dir / "trackers").rglob("events.*")}
    assert len(after) == 2
    assert {path.parent.name for path, _ in before.items() - after.items()} == {"seed-42"}
    scalars, _ = read_events(run_dir / "trackers/tensorboard" / str(KEYS[0]))
    assert scalars["test_acc"] == [(0, 0.125)]


def test_none_writes_nothing(sanity_run, again):
    assert not (sanity_run.run_dir / "trackers").exists()
    assert not (again("none") / "trackers").exists()


# MLflow


def mlflow_runs(run_dir):
    """The runs of the store in the run directory, by name, and its client."""
    from mlflow import MlflowClient

    client = MlflowClient(make_tracker("mlflow", run_dir).uri)
    experiment = client.get_experiment_by_name(run_dir.name)
    runs = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: run for run in runs}, client


def check_mlflow(run_dir):
    runs, client = mlflow_runs(run_dir)
    assert set(runs) == set(map(str, KEYS))
    for key in KEYS:
        run = runs[str(key)]
        metrics, curves, origin = expected(run_dir, key)
        final = {name: values[-1] for name, values in curves.items()}
        assert run.data.metrics == pytest.approx({**metrics, **final})
        for name, values in curves.items():
            points = client.get_metric_history(run.info.run_id, name)
            assert sorted((point.step, point.value) for point in points) == [
                (epoch, pytest.approx(value)) for epoch, value in enumerate(values, 1)
            ]
        assert run.data.params["hidden_dim"] == "16"
        assert run.data.params["seed"] == run.data.tags["seed"] == str(key.seed)
        assert run.data.tags["config"] == "all_layers"
        assert run.data.tags["representation"] == "stats"
        assert run.data.tags.items() >= origin.items()
        assert run.info.status == "FINISHED"
        seconds = (run.info.end_time - run.info.start_time) / 1000
        assert seconds == pytest.approx(metrics["total_seconds"], abs=0.01)
    return runs


def test_mlflow_shows_what_the_records_say_and_replaces_what_changed(again, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run_dir = again("mlflow")
    before = check_mlflow(run_dir)
    change(run_dir, KEYS[0])
    assert again("mlflow") == run_dir
    after = check_mlflow(run_dir)
    same = [key for key in map(str, KEYS) if before[key].info.run_id == after[key].info.run_id]
    assert same == [str(KEYS[1])]
    assert not (tmp_path / "mlruns").exists()


def test_mlflow_takes_a_trial_of_any_length(tmp_path):
    losses = [1 / (i + 1) for i in range(1200)]
    trial = TrackedTrial(
        {f"parameter{i}": i for i in range(130)},
        {"test_acc": 0.5, "test_loss": float("inf")},
        {"train/loss": losses, "val/acc": losses[:3]},
        {},
        1.0,
        2.0,
    )
    make_tracker("mlflow", tmp_path).log(KEYS[0], trial)
    runs, client = mlflow_runs(tmp_path)
    run = runs[str(KEYS[0])]
    assert len(run.data.params) == 130
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [p.value for p in sorted(history, key=lambda p: p.step)] == losses


@pytest.mark.timeout(120)  # MLflow left to itself asks again for minutes
def test_a_server_that_is_away_costs_a_warning(again, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    run_dir = again("mlflow")
    said = capsys.readouterr().out
    assert said.count("mlflow: cannot log") == 1
    assert "2 trials could not be logged" in said
    # Nothing was told there; what is told elsewhere does not count either.
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    again("mlflow")
    check_mlflow(run_dir)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{run_dir}/other.db")
    again("mlflow")
    assert (run_dir / "other.db").exists()


# Weights & Biases


def read_wandb(path):
    """The records in a .wandb file: in blocks of 32 KiB, each a chain of checked fragments."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts, records = path.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while at < len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all of a record, or its last part
            records.append(Record.FromString(parts))
            parts = b""
    return records


def items(entries):
    return {
        entry.key or ".".join(entry.nested_key): json.loads(entry.value_json) for entry in entries
    }


def check_wandb(run_dir):
    """Compare the files of the offline runs with the records; returns them by seed."""
    found = {}
    for path in (run_dir / "trackers/wandb").glob("offline-run-*/*.wandb"):
        records = read_wandb(path)
        run = next(record.run for record in records if record.HasField("run"))
        config = items(run.config.update)
        key = TrialKey(config["config"], config["representation"], config["seed"])
        assert key.seed not in found
        found[key.seed] = path
        metrics, curves, origin = expected(run_dir, key)
        assert config.items() >= {"hidden_dim": 16, **origin}.items()
        assert (run.display_name, run.run_group) == (str(key), "all_layers/stats")
        assert run.project == run_dir.name
        history = [items(record.history.item) for record in records if record.HasField("history")]
        for name, values in curves.items():
            assert [(row["epoch"], row[name]) for row in history] == [
                (epoch, pytest.approx(value)) for epoch, value in enumerate(values, 1)
            ]
        summary = {}
        for record in records:
            summary.update(items(record.summary.update))
        assert {name: summary[name] for name in metrics} == pytest.approx(metrics)
        assert any(record.HasField("exit") for record in records)
    assert set(found) == {key.seed for key in KEYS}
    return found


def test_wandb_shows_what_the_records_say_and_replaces_what_changed(again, capfd):
    run_dir = again("wandb")
    before = check_wandb(run_dir)
    change(run_dir, KEYS[0])
    assert again("wandb") == run_dir
    after = check_wandb(run_dir)
    assert before[43] == after[43]
    assert before[42] != after[42]
    out, err = capfd.readouterr()
    assert not err
    assert "wandb" not in out.replace(str(run_dir), "")


@pytest.mark.long
def test_wandb_leaves_no_process_and_says_nothing(again):
    run_dir = again("none")
    process = subprocess.Popen(
        [sys.executable, ROOT / "cli.py", "restore", run_dir, "--log-to", "wandb"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert not err
    assert "wandb" not in out.replace(str(run_dir), "")
    check_wandb(run_dir)
    latest = max((run_dir / "events").iterdir(), key=lambda path: path.name)
    wanted = f"--pid\0{latest.stem.split('-')[2]}\0".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert wanted not in path.read_bytes()
        except OSError:
            continue


def test_a_wandb_server_that_is_away_costs_a_warning(again, monkeypatch, capsys):
    monkeypatch.setattr("lorasweep.sweep.trackers.wandb._PATIENCE_SECONDS", 1)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    again("wandb")
    said = capsys.readouterr().out
    assert said.count("wandb: cannot log") == 1
    assert "2 trials could not be logged" in said


# Any


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_refused_before_anything_starts(name, monkeypatch, sanity, tmp_path):
    monkeypatch.setattr(available, "find_spec", lambda package: None)
    args = ["run", "--dataset", str(sanity), "--output-dir", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.app, [*args, "--log-to", name])
    assert result.exit_code == 2
    assert f"error: --log-to {name} needs packages that are not installed ({name}" in result.stderr
    assert result.stderr.endswith(f": pip install 'lorasweep[{name}]'\n")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "nothing_but_a_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not available._installed("nothing_but_a_folder")
    assert available._installed("wandb")


def test_nothing_to_tell_loads_no_tracker(again):
    run_dir = again("tensorboard")
    script = (
        "import sys; from lorasweep.cli import app\n"
        "def call(*args):\n"
        "    try: app(list(args))\n"
        "    except SystemExit as end: assert not end.code\n"
        f"call('status', {str(run_dir)!r}); call('run', '--help')\n"
        f"call('restore', {str(run_dir)!r}, '--log-to', 'tensorboard', '--save-models', 'none')\n"
        "assert not {'mlflow', 'wandb', 'tensorboardX', 'ray', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 skipped, 0 run" in done.stdout


class Broken:
    """A tracker that is down, at first."""

    place = ""

    def close(self):
        pass

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
    # There is nothing left to run, but something to tell; then not even that.
    tracker.down = False
    for _ in range(2):
        assert run_sweep(spec, options).summary["ran"] == 0
        assert sorted(key.seed for key in tracker.told) == [42, 43]
    told = json.loads((result.run_dir / "trackers/tensorboard.json").read_text())["told"]
    assert set(told) == set(map(str, KEYS))
    change(result.run_dir, KEYS[0])
    assert run_sweep(spec, options).summary["ran"] == 0
    assert sorted(key.seed for key in tracker.told) == [42, 42, 43]


RECORD = {
    "metrics": {}, "timing": {"total_seconds": 1.0}, "feature_dim": 1, "num_layers": 1,
    "curves": {"val_acc_history": [], "train_loss_history": []},
}  # fmt: skip


@pytest.fixture
def five(tmp_path):
    """Trials that have records."""
    keys = [TrialKey("all_layers", "stats", seed) for seed in range(5)]
    for key in keys:
        write_record(tmp_path, key, "fingerprint", RECORD)
    return keys


class Slow(Broken):
    """Takes its time over the first trial."""

    def __init__(self):
        super().__init__()
        self.entered, self.release = threading.Event(), threading.Event()

    def log(self, key, trial):
        self.told.append(key)
        self.entered.set()
        self.release.wait(20)


def test_nothing_is_told_of_a_run_directory_that_is_anothers_by_now(five, tmp_path):
    tracker, lost, warnings = Slow(), threading.Event(), []
    held = lambda: not lost.is_set()  # noqa: E731
    with TrackerFeed("slow", tracker, tmp_path, lambda name: {}, warnings.append, held) as feed:
        feed.tell(five)
        assert tracker.entered.wait(10)
        lost.set()
        tracker.release.set()
    assert tracker.told == five[:1]
    assert not RunDir(tmp_path).trackers.exists()
    assert warnings == []


def test_a_slow_tracker_keeps_nobody_waiting(five, tmp_path, monkeypatch):
    monkeypatch.setattr("lorasweep.sweep.trackers.feed._PATIENCE_SECONDS", 0.2)
    tracker, warnings = Slow(), []
    with TrackerFeed(
        "slow", tracker, tmp_path, lambda name: {}, warnings.append, lambda: True
    ) as feed:
        feed.tell(five)
        assert tracker.entered.wait(10)
    assert warnings == ["slow: 5 trials could not be logged; the same command again tries again"]
    tracker.release.set()
