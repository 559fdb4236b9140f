"""What dies comes back: real processes, real files, real signals."""

import contextlib
import io
import ipaddress
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorasweep import RuntimeOptions, SweepSpec, cli, run_sweep
from lorasweep.sweep.watch.prometheus import read_targets
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.store.events import TrialProgress
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.state import read_state
from lorasweep.trainables.store.trial_key import TrialKey
from tests.faults.chaos import Chaos, command, compare, read_events, torment
from tests.faults.damage import Victim
from tests.processes import descendants, driver_of

LONG = ["--representations", "matrix_norms", "--configs", "all_layers", "--num-runs", "2"]
LONG += ["--epochs", "3200", "--patience", "3200", "--save-models", "none"]


def run_here(sweep):
    """Run a sweep to its end in this process, on the session's Ray; fails if it does."""
    result = CliRunner().invoke(cli.app, sweep[2:], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def reference(sanity, sanity_cache, tmp_path_factory):
    """An undisturbed run of two trials of several slices."""
    out = tmp_path_factory.mktemp("undisturbed")
    run_here(command(sanity, out, *LONG, "--cache-dir", str(sanity_cache)))
    return out / "run"


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)


def both_in_flight(run_dir):
    """Whether both trials have a slot."""
    return len(list((run_dir / "inflight").rglob("seed-*.safetensors"))) == 2


def start(sweep, out, *prefix):
    out.mkdir(exist_ok=True)
    with open(out / "log", "a") as log:
        return subprocess.Popen(
            [*prefix, *sweep], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        )


@pytest.mark.slow  # `make chaos` kills more, and compares more
def test_killed_at_random_a_sweep_ends_with_the_same_numbers(sanity, reference, tmp_path):
    sweep = command(sanity, tmp_path, *LONG)
    chaos = torment(sweep, tmp_path, random.Random(3), most_kills=3, mean=12)
    assert sum(chaos.kills.values()) == 3
    compare(tmp_path / "run", reference, chaos)
    assert chaos.different == []
    assert chaos.twice == 0
    assert not list((tmp_path / "run/inflight").rglob("*.safetensors"))


def worker_of(path: Path) -> int:
    """Process id of a trial worker's event file; 0 for the driver's."""
    own, pid = path.stem.split("-")[2], int(path.stem.rpartition("-")[2])
    return 0 if int(own) == pid else pid


def listening_addresses(pid):
    """Addresses that a process and its descendants accept TCP connections on, from /proc."""
    sockets = set()
    for process in descendants(pid):
        with contextlib.suppress(OSError):
            sockets |= {os.readlink(fd) for fd in Path(f"/proc/{process}/fd").iterdir()}
    addresses = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                words = bytes.fromhex(fields[1].split(":")[0])
                raw = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
                address = ipaddress.ip_address(raw)
                addresses.append(getattr(address, "ipv4_mapped", None) or address)
    return addresses


def resumed(run_dir):
    """How often a trial went on from its state."""
    return sum(event["event"] == "trial_resumed" for event in read_events(run_dir))


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        None,
    ],
)
def test_a_killed_worker_a_signal_and_a_killed_driver_cost_slices(
    number, sanity, sanity_cache, reference, tmp_path
):
    sweep = command(sanity, tmp_path, *LONG, "--cache-dir", str(sanity_cache))
    run_dir = tmp_path / "run"
    prefix = ["nohup"] if number == signal.SIGTERM else []
    driver = start(sweep, tmp_path, *prefix)
    wait_for(lambda: both_in_flight(run_dir))

    listening = listening_addresses(driver.pid)
    assert len(listening) > 5
    assert {address for address in listening if not address.is_loopback} == set()

    (metrics,) = read_targets(run_dir)  # they need no dashboard
    with urllib.request.urlopen(f"http://{metrics}/metrics") as answer:
        assert b"ray_" in answer.read()
    refused = CliRunner().invoke(cli.app, ["dashboard", str(run_dir)])
    assert refused.exit_code == 2
    assert "its driver has no dashboard" in refused.stderr

    own = driver_of(driver.pid)
    victim = next(e for e in (run_dir / "events").glob(f"*-{own}-*") if worker_of(e))
    os.kill(worker_of(victim), signal.SIGKILL)
    wait_for(lambda: resumed(run_dir) == 1)

    if prefix:
        driver.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert driver.poll() is None, "nohup keeps a SIGHUP away"
    if number:
        driver.send_signal(number)
        assert driver.wait(timeout=60) == 130
        text = (tmp_path / "log").read_text()
        assert "To resume: lorasweep run" in text
        assert "Traceback" not in text
        assert not (run_dir / "driver.lock").exists()
        assert not RunDir(run_dir).metrics_targets.exists()
        summary = json.loads((run_dir / "summary.json").read_text())
        assert summary["not_reached"] > 0
        driver = start(sweep, tmp_path)
        wait_for(lambda: resumed(run_dir) >= 2)
    before = resumed(run_dir)
    driver.kill()
    driver.wait()
    run_here(sweep)
    assert resumed(run_dir) > before
    for path in RunDir(run_dir).records():
        timing = json.loads(path.read_text())["timing"]
        assert timing["total_seconds"] >= timing["train_seconds"]
    assert (run_dir / "tune/0").exists()
    assert not (run_dir / "tune/1").exists(), "Tune's experiment was restored"
    chaos = Chaos()
    compare(run_dir, reference, chaos)
    assert chaos.different == []


class Stops(Reporter):
    """Asks the run to stop in the middle of a trial's second slice."""

    def __init__(self, file):
        super().__init__(file=file)
        self.at = 0.0

    def take(self, event):
        super().take(event)
        if isinstance(event, TrialProgress) and not self.at:
            self.at = time.time() + 1
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()


@pytest.mark.usefixtures("local_ray")
def test_a_run_that_is_to_stop_loses_no_slice(sanity, sanity_cache, tmp_path):
    spec = SweepSpec(
        str(sanity),
        representations=("matrix_norms",),
        configs=("all_layers",),
        num_runs=1,
        settings={"mlp": dict(epochs=100_000, patience=100_000)},
    )
    options = RuntimeOptions(tmp_path, "run", cache_dir=sanity_cache, log_to="none")
    out = io.StringIO()
    stops = Stops(out)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(spec, options, stops)
    assert "stopping  as soon as" in out.getvalue()
    events = read_events(tmp_path / "run")
    slices = [event for event in events if event["event"] == "trial_progress"]
    assert len(slices) == 2, "the one that was under way ended"
    assert slices[0]["time"] <= stops.at < slices[1]["time"]
    state = read_state(tmp_path / "run", TrialKey.from_json(slices[-1]["key"]))
    assert state.rest["train_seconds"] == pytest.approx(
        sum(event["slice_seconds"] for event in slices)
    )


TWICE = """
import sys, time
from lorasweep.sweep.process.signals import interruptible
with interruptible():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopping", flush=True)
        time.sleep(60)
"""


def heed_signals():
    """What runs in the background of a script, or under nohup, ignores some; so do its children."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def test_a_second_signal_ends_at_once():
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", TWICE],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_damaged_files_are_repaired_and_no_number_changes(tmp_path):
    victim = Victim(tmp_path)
    rng = random.Random(1)
    kinds = {victim.case(rng) for _ in range(8)}
    assert len(kinds) > 4


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_a_full_disk_is_told_and_harms_nothing(sanity, tmp_path):
    """A file-size limit: writing fails as on a full disk, in the driver and in its workers."""
    options = ("--representations", "stats", "--num-runs", "1", "--save-models", "none")
    sweep = command(sanity, tmp_path, *options)
    script = f"ulimit -f 2; exec {' '.join(sweep)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "the disk says: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    run_here(sweep)


@pytest.mark.slow
def test_a_full_file_system_is_told_and_the_run_goes_on_when_there_is_room(sanity, tmp_path):
    """A real small file system, where mounting is allowed."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not allow mounting")
    try:
        sweep = command(sanity, small, "--representations", "stats,matrix_norms", "--num-runs", "4")
        sweep[sweep.index("--cache-dir") + 1] = str(tmp_path / "cache")
        done = subprocess.run(sweep, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        kept = {p: p.read_bytes() for p in small.rglob("seed-*.json") if "checkpoints" in p.parts}
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        again = subprocess.run(sweep, capture_output=True, text=True, cwd=tmp_path)
        assert again.returncode == 0, again.stdout + again.stderr
        assert f"{len(kept)} skipped, {16 - len(kept)} run, 0 failed" in again.stdout
        assert {p: p.read_bytes() for p in kept} == kept
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
