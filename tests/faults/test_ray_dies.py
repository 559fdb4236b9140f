"""A process of Ray itself is killed: it is said, and the run goes on by itself."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorasweep.sweep.cluster.ray_monitor import ray_watched
from lorasweep.sweep.process.signals import EXIT_CODE, interruptible
from lorasweep.sweep.process.supervisor import MOST_RESTARTS
from tests.faults.chaos import Chaos, command, compare, read_events, undisturbed
from tests.processes import descendants

LONG = ["--representations", "matrix_norms", "--configs", "all_layers", "--num-runs", "2"]
LONG += ["--epochs", "1200", "--patience", "1200"]


@pytest.fixture(scope="module")
def reference(sanity, tmp_path_factory):
    """An undisturbed run of two trials of several slices."""
    out = tmp_path_factory.mktemp("undisturbed")
    undisturbed(command(sanity, out, *LONG), out)
    return out / "run"


def title(pid):
    """A process's command line, or what it calls itself."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def find(driver, *words):
    """The first process below the driver in whose program or arguments one of the words is."""
    for pid in sorted(descendants(driver.pid)):
        if any(word in title(pid).split(" --")[0] for word in words):
            return pid
    return None


def wait_for(condition, driver, seconds=200):
    """What the condition returns, once that is something; fails if the driver ends before."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert driver.poll() is None, "the driver ended"
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.02)
    return found


def deaths(run_dir):
    """Events that tell of Ray's death."""
    return [event for event in read_events(run_dir) if event["event"] == "ray_died"]


def start(sweep, out):
    out.mkdir(exist_ok=True)
    with open(out / "log", "w") as log:
        return subprocess.Popen(
            sweep, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )


def in_trials(out, driver):
    """Whether a trial has a slot, so that Tune and its workers are at work."""
    return any((out / "run" / "inflight").rglob("seed-*.safetensors"))


def in_features(out, driver):
    """Whether Ray Data has a worker."""
    return find(driver, "PoolWorker")


VITAL = ["gcs_server", "raylet/raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent"]
HELPERS = ["log_monitor", "multiprocessing.forkserver", "dashboard/dashboard.py"]


@pytest.mark.slow
@pytest.mark.parametrize("when", [in_features, in_trials])
@pytest.mark.parametrize("process", [*VITAL, *HELPERS])
def test_a_process_of_ray_is_killed_and_no_number_changes(
    process, when, sanity, reference, tmp_path
):
    driver = start(command(sanity, tmp_path, *LONG, "--dashboard"), tmp_path)
    wait_for(lambda: when(tmp_path, driver), driver)
    os.kill(wait_for(lambda: find(driver, process), driver), signal.SIGKILL)
    killed = time.time()
    assert driver.wait(timeout=280) == 0, (tmp_path / "log").read_text()
    told = deaths(tmp_path / "run")
    assert len(told) == (process in VITAL)
    assert all(event["time"] - killed < 30 for event in told)
    text = (tmp_path / "log").read_text()
    assert text.count("starting afresh for what remains") == len(told)
    assert "Traceback" not in text
    assert "state-dump" not in text, "Ray's own pages are in logs/"
    chaos = Chaos()
    compare(tmp_path / "run", reference, chaos)
    assert chaos.different == []
    assert not (tmp_path / "run" / "driver.lock").exists()


@pytest.mark.slow
def test_ray_is_started_again_three_times_at_most(sanity, reference, tmp_path):
    sweep = command(sanity, tmp_path, *LONG)
    driver = start(sweep, tmp_path)
    for number in range(MOST_RESTARTS + 1):
        wait_for(lambda: len(deaths(tmp_path / "run")) == number, driver)
        os.kill(wait_for(lambda: find(driver, "gcs_server"), driver), signal.SIGKILL)
        wait_for(lambda: len(deaths(tmp_path / "run")) > number, driver)
    assert driver.wait(timeout=90) == 1
    text = (tmp_path / "log").read_text()
    assert "finished work is kept" in text
    assert "Traceback" not in text
    undisturbed(sweep, tmp_path)
    chaos = Chaos()
    compare(tmp_path / "run", reference, chaos)
    assert chaos.different == []


FROM_PYTHON = """
import sys, threading, time
from pathlib import Path
from lorasweep import RayDiedError, RuntimeOptions, SweepSpec, run_sweep

spec = SweepSpec(sys.argv[1], representations=("matrix_norms",), configs=("all_layers",),
                 num_runs=2, settings={"mlp": dict(epochs=100000, patience=100000)})
out = Path(sys.argv[2])
options = RuntimeOptions(out, name="run", cache_dir=out / "cache", dashboard=False)
try:
    run_sweep(spec, options)
except RayDiedError as error:
    print("CAUGHT", error)
"""


@pytest.mark.slow
def test_a_python_caller_is_told_by_an_error(sanity, tmp_path):
    driver = start([sys.executable, "-c", FROM_PYTHON, str(sanity), str(tmp_path)], tmp_path)
    wait_for(lambda: in_trials(tmp_path, driver), driver)
    os.kill(find(driver, "raylet/raylet"), signal.SIGKILL)
    assert driver.wait(timeout=120) == 0
    assert "CAUGHT Ray's raylet died" in (tmp_path / "log").read_text()
    assert [event["restart"] for event in deaths(tmp_path / "run")] == [0]


SUPERVISED = """
import os, signal, sys, time
from lorasweep.sweep.process import supervisor

def work():
    print(os.getpid(), supervisor.restarts(), supervisor.untold_death(), flush=True)
    match sys.argv[1]:
        case "asks":
            if supervisor.may_restart():
                supervisor.restart()
        case "vanishes":
            os._exit(1)
        case "fails":
            sys.exit(1)
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "waits":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
            time.sleep(60)
        case "is stopped with Ray":
            signal.signal(signal.SIGTERM, lambda *_: supervisor.restart())
            time.sleep(60)

supervisor.enable()
supervisor.supervised(work)
"""


def supervised(case):
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, case],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("case", "children", "code", "untold"),
    [
        ("asks", 1 + MOST_RESTARTS, 0, 0),
        ("vanishes", 1 + MOST_RESTARTS, 1, MOST_RESTARTS),
        ("fails", 1, 1, 0),
        ("is killed", 1, 128 + signal.SIGKILL, 0),
    ],
)
def test_a_child_that_ray_ended_is_followed_by_another(case, children, code, untold):
    parent = supervised(case)
    out, errors = parent.communicate(timeout=60)
    assert parent.returncode == code
    pids, counts, told = zip(*(line.split() for line in out.splitlines()))
    assert len(set(pids)) == children
    assert counts == tuple(map(str, range(children)))
    assert told.count("True") == untold
    assert ("Ray died once more" in errors) == (case == "vanishes")


def test_a_child_gets_the_signals_of_its_parent_and_dies_with_it():
    parent = supervised("waits")
    parent.stdout.readline()
    time.sleep(0.2)  # until it has its handler
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=60) == 42
    parent = supervised("waits")
    child = int(parent.stdout.readline().split()[0])
    parent.kill()
    parent.wait()
    wait_until_gone(child)


def wait_until_gone(pid, seconds=30):
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{pid}/cmdline").exists() and title(pid):
        assert time.monotonic() < deadline, "it lives"
        time.sleep(0.02)


def test_a_child_that_ray_ended_after_a_stop_is_followed_by_none():
    """Whoever stops all processes, as a batch system does, stops Ray's, too."""
    parent = supervised("is stopped with Ray")
    parent.stdout.readline()
    time.sleep(0.2)  # until it has its handler
    parent.send_signal(signal.SIGTERM)
    out, _ = parent.communicate(timeout=60)
    assert parent.returncode == EXIT_CODE
    assert out == "", "no other child"


def test_ray_that_dies_while_the_run_is_interrupted_is_no_news(monkeypatch):
    told, restarted = [], []
    dead = set()
    monkeypatch.setattr("lorasweep.sweep.cluster.ray_monitor._LOOK_SECONDS", 0.02)
    monkeypatch.setattr("lorasweep.sweep.cluster.ray_monitor._dead_processes", lambda: dead)
    monkeypatch.setattr("lorasweep.sweep.cluster.ray_monitor.may_restart", lambda: True)
    monkeypatch.setattr("lorasweep.sweep.cluster.ray_monitor.restart", lambda: restarted.append(1))

    def stopped_with_ray():
        with (
            interruptible() as interruption,
            ray_watched(told.append, interruption, ours=True, local=True),
        ):
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                dead.add("raylet")
                time.sleep(0.3)
                raise RuntimeError("Ray's words for it") from None

    with pytest.raises(KeyboardInterrupt):
        stopped_with_ray()
    assert (told, restarted) == ([], [])
