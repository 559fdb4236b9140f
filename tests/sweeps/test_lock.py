"""One driver per run directory, and what becomes of one that lost it."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
from lorasweep.features.common import lock as lock_files
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.lock import HolderWatch, LockFile, LockLostError, LockTimes, is_alive
from lorasweep.features.compute.cache import exclusive
from lorasweep.sweep.process.signals import interruptible
from lorasweep.sweep.store.driver_lock import driver_lock
from lorasweep.trainables.store.events import TrialFinished
from lorasweep.trainables.store.record import write_record
from lorasweep.trainables.store.run_dir import RunDir
from tests.faults.chaos import command, read_events
from tests.sweeps.test_trackers import RECORD

FAST = LockTimes(heartbeat=0.05, dead_after=0.5, poll=0.02)
SETTLING = LockTimes(heartbeat=0.05, dead_after=0.5, poll=0.2)
PATIENT = LockTimes(heartbeat=0.05, dead_after=60, poll=0.02)


def read_lock(run_dir):
    return lock_files.read_lock(RunDir(run_dir).lock)


def driver_lock_of(run_dir):
    return LockFile(RunDir(run_dir).lock, run_dir)


def lock_file(**changes):
    return {
        "host": socket.gethostname(),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid_namespace": os.stat("/proc/self/ns/pid").st_ino,
        "pid": os.getpid(),
        "process_start": 1,
        "token": "x",
        "heartbeat": time.time(),
        **changes,
    }


def write_lock(run_dir, **changes):
    """Replace the lock, as its driver does."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / ".new").write_text(json.dumps(lock_file(**changes)))
    os.replace(run_dir / ".new", run_dir / "driver.lock")


@contextmanager
def beating(run_dir):
    """A driver on another host, whose clock is an hour behind."""
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            write_lock(run_dir, host="elsewhere", heartbeat=time.time() - 3600)

    write_lock(run_dir, host="elsewhere", heartbeat=time.time() - 3600)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


# Taking it


def test_a_live_driver_keeps_others_out(tmp_path):
    lost = []
    with driver_lock(tmp_path, lambda: lost.append(1)):
        holder = read_lock(tmp_path)
        assert holder["pid"] == os.getpid()
        assert is_alive(holder)
        with (
            pytest.raises(UserError, match=f"process {os.getpid()} on {holder['host']}"),
            driver_lock(tmp_path, lambda: None),
        ):
            pass
    assert read_lock(tmp_path) is None
    assert lost == []


@pytest.mark.parametrize(
    "lock",
    [
        {},  # the process id was given to another process
        {"pid": 2**22 + 1},
    ],
)
def test_a_dead_drivers_lock_is_taken_over_at_once_on_the_same_host(lock, tmp_path):
    write_lock(tmp_path, **lock)
    assert not is_alive(read_lock(tmp_path))
    waits = []
    with driver_lock(tmp_path, lambda: None, on_wait=waits.append):
        assert read_lock(tmp_path)["process_start"] > 1
    assert waits == []


LARGE = """
import sys
from pathlib import Path
from lorasweep.features.common.lock import LockFile
lock = LockFile(Path(sys.argv[1]) / "driver.lock", "it")
lock.take(print)
memory = b"x" * (1 << 30)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_driver_that_was_killed_and_is_not_gone_yet_is_waited_for(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", LARGE, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    assert HolderWatch().look(read_lock(tmp_path)) == "alive"
    holder.kill()
    state = HolderWatch().look(read_lock(tmp_path))
    assert state in ("ending", "dead"), "a GiB takes the kernel a while"
    waits = []
    with driver_lock(tmp_path, lambda: None, on_wait=waits.append):
        assert read_lock(tmp_path)["pid"] == os.getpid()
    assert waits == []
    assert holder.wait() == -signal.SIGKILL
    holder.stdin.close()
    holder.stdout.close()


def test_a_driver_on_another_host_lives_while_its_heartbeat_changes(tmp_path):
    waits = []
    with (
        beating(tmp_path),
        pytest.raises(UserError, match="on elsewhere: wait for it"),
        driver_lock(tmp_path, lambda: None, on_wait=waits.append, times=PATIENT),
    ):
        pass
    (line,) = waits
    assert f"held by process {os.getpid()} on elsewhere: looking for a sign of life" in line


@pytest.mark.parametrize("ahead", [-3600, 0, 3600])
def test_a_dead_driver_on_another_host_is_waited_for_whatever_its_clock_says(ahead, tmp_path):
    write_lock(tmp_path, host="elsewhere", heartbeat=time.time() + ahead)
    waits = []
    with driver_lock(tmp_path, lambda: None, on_wait=waits.append, times=FAST):
        assert read_lock(tmp_path)["host"] == socket.gethostname()
    assert len(waits) == 1


def test_a_lock_that_is_released_meanwhile_is_taken(tmp_path):
    write_lock(tmp_path, host="elsewhere")
    release = (tmp_path / "driver.lock").unlink
    with driver_lock(tmp_path, lambda: None, on_wait=lambda line: release(), times=PATIENT):
        assert read_lock(tmp_path)["host"] == socket.gethostname()


@pytest.mark.parametrize(
    "lock",
    [
        {"boot_id": "of another machine of this name"},
        {"pid_namespace": 1},
        {"pid_namespace": None},  # an earlier version's
    ],
)
def test_the_name_of_a_host_is_not_enough_to_look_for_its_process(lock, tmp_path):
    """Containers and machines may share it; this one's process numbers then mean nothing."""
    write_lock(tmp_path, pid=2**22 + 1, **lock)
    waits = []
    with driver_lock(tmp_path, lambda: None, on_wait=waits.append, times=FAST):
        pass
    assert len(waits) == 1


def test_a_damaged_lock_is_watched_like_one_of_another_host(tmp_path):
    (tmp_path / "driver.lock").write_text('{"host": ')
    waits = []
    with driver_lock(tmp_path, lambda: None, on_wait=waits.append, times=FAST):
        assert read_lock(tmp_path)["pid"] == os.getpid()
    (line,) = waits
    assert "held by another process: looking for a sign of life" in line


@pytest.mark.parametrize("reason", [errno.ESTALE, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("again", [2, 100])
def test_a_lock_that_cannot_be_read_is_not_free(reason, again, tmp_path, monkeypatch):
    other = driver_lock_of(tmp_path)
    other.take(print, FAST)
    failures = iter(range(again))

    def open_(path, mode):
        if next(failures, None) is not None:
            raise OSError(reason, os.strerror(reason), str(path))
        return open(path, mode)

    monkeypatch.setattr(lock_files, "_READ_AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(lock_files, "open", open_, raising=False)
    refused = UserError if again == 2 else OSError
    with pytest.raises(refused), driver_lock(tmp_path, lambda: None):
        pass
    monkeypatch.undo()
    other.check()


def test_a_heartbeat_that_changed_once_is_no_sign_of_life(tmp_path):
    """A file system may have kept what it was before."""
    write_lock(tmp_path, host="elsewhere", heartbeat=1.0)
    change = threading.Timer(0.1, write_lock, [tmp_path], dict(host="elsewhere", heartbeat=2.0))
    change.start()
    with driver_lock(tmp_path, lambda: None, times=FAST):
        assert change.finished.is_set()


def test_of_several_drivers_that_find_a_free_or_dead_lock_one_gets_it(tmp_path, monkeypatch):
    """Also where the file system has no locks that would keep them apart meanwhile."""
    monkeypatch.setattr(fcntl, "flock", refuse_locks)
    for lock in (None, {"host": "elsewhere"}):
        if lock:
            write_lock(tmp_path, **lock)
        came, start = [], threading.Barrier(4)

        def take():
            start.wait()
            mine = driver_lock_of(tmp_path)
            with suppress(UserError):
                mine.take(lambda line: None, SETTLING, patience=0.0)
                came.append(mine)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (holder,) = came
        holder.check()
        holder.release()


def refuse_locks(descriptor, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_one_look_at_another_host_goes_by_the_file_and_several_by_the_heartbeat(tmp_path):
    now = 0.0
    watch = HolderWatch(clock=lambda: now)
    write_lock(tmp_path, host="elsewhere", heartbeat=7.0)
    assert is_alive(read_lock(tmp_path), watch)
    os.utime(tmp_path / "driver.lock", (0, time.time() - 31))
    assert not is_alive(read_lock(tmp_path))
    for at, heartbeat in ((5.0, 8.0), (10.0, 9.0)):
        now = at
        write_lock(tmp_path, host="elsewhere", heartbeat=heartbeat)
        os.utime(tmp_path / "driver.lock", (0, time.time() - 31))
        alive = is_alive(read_lock(tmp_path), watch)
    assert alive, "it has changed twice, whatever the clocks say"
    now = 41.0
    os.utime(tmp_path / "driver.lock")
    assert not is_alive(read_lock(tmp_path), watch), "it has not changed for long"


def test_a_second_driver_is_refused_on_the_command_line(sanity, tmp_path):
    out = tmp_path / "out"
    with beating(out / "run"):
        done = subprocess.run(
            command(sanity, out, "--num-runs", "1"), capture_output=True, text=True, cwd=tmp_path
        )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {out / 'run'} is in use by process {os.getpid()} on els")
    assert "looking for a sign of life" in done.stdout


# Losing it


@pytest.fixture
def sigint_ignored():
    """As in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_ignored")
def test_the_main_thread_is_woken_when_the_lock_is_lost(tmp_path):
    def hold_and_wait():
        with (
            interruptible() as interruption,
            driver_lock(tmp_path, interruption.wake, times=FAST),
        ):
            write_lock(tmp_path, host="elsewhere", pid=12, token="other")
            time.sleep(60)

    with pytest.raises(LockLostError, match="taken over by process 12 on elsewhere"):
        hold_and_wait()
    assert read_lock(tmp_path)["token"] == "other"


def test_a_lost_lock_is_noticed_where_something_would_be_written(tmp_path):
    lock = driver_lock_of(tmp_path)
    lock.take(print, FAST)
    lock.check()
    write_lock(tmp_path, host="elsewhere", token="other")
    with pytest.raises(LockLostError):
        lock.check()
    assert lock.lost.is_set()
    lock.beat()
    lock.release()
    assert read_lock(tmp_path)["token"] == "other"


def test_a_lock_that_was_taken_and_released_meanwhile_is_lost(tmp_path):
    frozen = driver_lock_of(tmp_path)
    frozen.take(print, FAST)
    write_lock(tmp_path, host="elsewhere", token="other")
    RunDir(tmp_path).lock.unlink()
    with pytest.raises(LockLostError):
        frozen.check()
    frozen.beat()
    assert read_lock(tmp_path) is None


def nothing_more(run, key):
    """In place of the trials: another driver takes the run directory, then a tracker is told of a
    trial."""
    write_lock(run.run_dir, host="elsewhere", token="other")
    run.stream.publish(TrialFinished(key))


def interrupted(run, key):
    nothing_more(run, key)
    raise KeyboardInterrupt


def fails(run, key):
    nothing_more(run, key)
    raise RuntimeError("Tune's wrapping of what became of it")


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.parametrize("trials", [nothing_more, interrupted, fails])
def test_a_driver_that_lost_its_lock_writes_nothing(trials, thread, sanity, tmp_path, monkeypatch):
    before = {}

    def run_trials(run, cache, fingerprints, todo):
        write_record(run.run_dir, todo[0], fingerprints[todo[0]], RECORD)
        before.update(contents(run.run_dir))
        trials(run, todo[0])

    monkeypatch.setattr(
        "lorasweep.sweep.driver.launch.engine", lambda run: nullcontext(tmp_path / "cache")
    )
    monkeypatch.setattr("lorasweep.sweep.driver.launch.run_trials", run_trials)
    spec = SweepSpec(str(sanity), representations=("stats",), num_runs=1, settings={})
    options = RuntimeOptions(tmp_path, "run", cache_dir=tmp_path / "cache")
    raised = []

    def run():
        try:
            run_sweep(spec, options)
        except BaseException as error:
            raised.append(error)

    if thread:
        other = threading.Thread(target=run)
        other.start()
        other.join()
    else:
        run()
    run_dir = tmp_path / "run"
    assert [type(error) for error in raised] == [LockLostError]
    assert read_lock(run_dir)["token"] == "other"
    assert contents(run_dir) == before
    assert {"done", "interrupted"}.isdisjoint(e["event"] for e in read_events(run_dir))


@pytest.mark.slow
def test_a_training_driver_that_loses_its_lock_ends_in_one_line(sanity, tmp_path):
    """Started by a script with `&`: SIGINT is ignored from the start."""
    sweep = command(
        sanity, tmp_path, "--representations", "stats", "--configs", "all_layers",
        "--num-runs", "2", "--epochs", "100000", "--patience", "100000", "--log-to", "none",
    )  # fmt: skip
    run_dir = tmp_path / "run"
    with open(tmp_path / "log", "w") as log:
        driver = subprocess.Popen(
            ["bash", "-c", '"$@" & wait $!', "script", *sweep], stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 200
        while len(list((run_dir / "inflight").rglob("seed-*.safetensors"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        pid = read_lock(run_dir)["pid"]
        write_lock(run_dir, host="elsewhere", token="other")
        assert driver.wait(timeout=90) == 2
        assert not Path(f"/proc/{pid}").exists()
    finally:
        driver.kill()
        driver.wait()
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith(f"error: {run_dir} was taken over by process")
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not (run_dir / "summary.json").exists()
    assert not (run_dir / "results.json").exists()
    assert read_lock(run_dir)["token"] == "other"
    assert {"done", "interrupted"}.isdisjoint(e["event"] for e in read_events(run_dir))


def contents(run_dir):
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in sorted(run_dir.rglob("*"))
        if path.is_file() and path.name != "driver.lock"
    }


def test_a_living_driver_is_waited_for_by_who_has_patience(tmp_path):
    lines, times = [], LockTimes(heartbeat=0.05, dead_after=60, poll=0.02)
    other = driver_lock_of(tmp_path)
    other.take(lines.append, times)
    timer = threading.Timer(0.3, other.release)
    timer.start()
    with driver_lock(tmp_path, lambda: None, on_wait=lines.append, times=times, patience=60):
        assert timer.finished.is_set()
    assert len(lines) == 1
    assert "waiting for its end" in lines[0]


@pytest.mark.parametrize(
    ("variables", "may_follow"),
    [
        ({}, False),
        ({"SLURM_RESTART_COUNT": "0"}, False),
        ({"SLURM_RESTART_COUNT": "1"}, True),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, True),
    ],
)
def test_who_has_patience(variables, may_follow, monkeypatch):
    for name in ("RAY_ADDRESS", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert RuntimeOptions().may_follow == may_follow


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_no_error(tmp_path, monkeypatch, reason):
    """As Lustre is without its mount option, and some NFS."""

    def refuse(descriptor, operation):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with driver_lock(tmp_path, lambda: None) as lock, exclusive(tmp_path, "weights", lambda: None):
        lock.check()
        lock.beat()
        in_use = pytest.raises(UserError, match="is in use by process")
        with in_use, driver_lock(tmp_path, lambda: None):
            pass
    assert not RunDir(tmp_path).lock.exists()


def test_another_error_of_a_lock_is_one(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    told = pytest.raises(OSError, match=os.strerror(errno.EIO))
    with told, exclusive(tmp_path, "weights", lambda: None):
        pass
