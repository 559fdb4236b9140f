"""One driver per run directory: driver.lock says which, and that it lives."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from features.core.errors import UserError
from features.core.files import locked_folder, write_json
from trainables.run_dir import RunDir


@dataclass(frozen=True)
class LockTimes:
    """Seconds.

    Attributes:
        heartbeat: between two heartbeats.
        dead_after: a driver on another host whose heartbeat does not change for so long is dead.
        poll: between two looks at such a heartbeat.
    """

    heartbeat: float = 5.0
    dead_after: float = 30.0
    poll: float = 0.5


_TIMES = LockTimes()


class LockLostError(UserError):
    """Another driver took the run directory: this one must write nothing more into it."""


class DriverLock:
    """A held lock.

    Attributes:
        lost: set once another driver has been seen to hold it.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._own = {
            "host": socket.gethostname(),
            "boot_id": _boot_id(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "token": uuid.uuid4().hex,
        }
        self.lost = threading.Event()

    def check(self) -> None:
        """Look whether the lock is still held; to be called before anything is written.

        Raises:
            LockLostError: it is not.
        """
        self._look()
        if self.lost.is_set():
            raise self.error()

    def error(self) -> LockLostError:
        """What to raise once the lock is lost."""
        holder = read_lock(self._run_dir)
        who = f"process {holder['pid']} on {holder['host']}" if holder else "another driver"
        return LockLostError(
            f"{self._run_dir} was taken over by {who}, which heard nothing of this one: "
            "nothing more was written from here"
        )

    def beat(self) -> None:
        """Write a heartbeat, unless the lock is lost."""
        with locked_folder(self._run_dir):
            self._look()
            if not self.lost.is_set():
                self._write()

    def take(self, on_wait: Callable[[str], None], times: LockTimes, patience: float = 0.0) -> None:
        """Wait until nobody else holds the lock, or until whoever does has been seen to live.

        Arguments:
            patience: seconds for which a living driver is waited for.

        Raises:
            UserError: a living driver holds it.
        """
        watch, told = HolderWatch(times), ""
        until = time.monotonic() + patience
        while True:
            with locked_folder(self._run_dir):
                holder = read_lock(self._run_dir)
                state = "dead" if holder is None else watch.look(holder)
                if holder is None or state == "dead":
                    self._write()
                    return
            who = f"process {holder['pid']} on {holder['host']}"
            if state == "alive" and time.monotonic() >= until:
                raise UserError(
                    f"{self._run_dir} is in use by {who}: "
                    "wait for it, or stop it with Ctrl-C or kill -INT"
                )
            if state != told:
                on_wait(
                    f"{self._run_dir} is in use by {who}: waiting for its end, up to {patience:g} s"
                    if state == "alive"
                    else f"{self._run_dir} is held by {who}: looking for a sign of life, "
                    f"up to {times.dead_after:g} s"
                )
            told = state
            time.sleep(times.poll)

    def release(self) -> None:
        """Remove the lock file, unless it is another's."""
        with suppress(FileNotFoundError), locked_folder(self._run_dir):
            self._look()
            if not self.lost.is_set():
                RunDir(self._run_dir).lock.unlink(missing_ok=True)

    def _look(self) -> None:
        holder = read_lock(self._run_dir)
        if holder is not None and holder.get("token") != self._own["token"]:
            self.lost.set()

    def _write(self) -> None:
        write_json(RunDir(self._run_dir).lock, {**self._own, "heartbeat": time.time()})


@contextmanager
def driver_lock(
    run_dir: Path,
    on_lost: Callable[[], None],
    *,
    on_wait: Callable[[str], None] = lambda line: None,
    times: LockTimes = _TIMES,
    patience: float = 0.0,
) -> Iterator[DriverLock]:
    """Hold the run directory for the block; a heartbeat is written every five seconds.

    A lock left by a dead driver is taken over. On the same host a driver is dead if its process is
    gone. On another, whose clock may differ, it is dead if its heartbeat has not changed while it
    was watched for 30 seconds.

    Arguments:
        on_lost: called from another thread if somebody else took the lock all the same.
        on_wait: told, in one line, that a driver on another host is being watched, or waited for.
        patience: seconds for which a living driver is waited for; it may be about to end.

    Raises:
        UserError: another driver holds it; names its host and process.
        LockLostError: another driver took it meanwhile; whatever else the block raised.
    """
    lock = DriverLock(run_dir)
    lock.take(on_wait, times, patience)
    stop = threading.Event()

    def keep_beating() -> None:
        while not stop.wait(times.heartbeat):
            # A full disk stops the run where it matters; the heartbeat tries again.
            with suppress(OSError):
                lock.beat()
            if lock.lost.is_set():
                on_lost()
                return

    thread = threading.Thread(target=keep_beating, name="driver-lock", daemon=True)
    thread.start()
    try:
        try:
            yield lock
        finally:
            stop.set()
            thread.join()
            lock.release()
    except (Exception, KeyboardInterrupt) as error:
        if lock.lost.is_set() and not isinstance(error, LockLostError):
            raise lock.error() from error
        raise
    if lock.lost.is_set():
        raise lock.error()


def read_lock(run_dir: Path) -> dict[str, Any] | None:
    """What driver.lock says; None if there is none or it is damaged.

    Besides, "written": when the file system says it was written.
    """
    try:
        with open(RunDir(run_dir).lock, "rb") as file:
            value = json.load(file)
            written = os.fstat(file.fileno()).st_mtime
        whole = {"host", "pid", "heartbeat"} <= value.keys()
        return {**value, "written": written} if whole else None
    except (OSError, ValueError, AttributeError):
        return None


class HolderWatch:
    """Finds out by repeated looks whether a lock's holder lives, comparing no two clocks."""

    def __init__(
        self, times: LockTimes = _TIMES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._dead_after = times.dead_after
        self._clock = clock
        self._seen: tuple[Any, Any] | None = None
        self._since = 0.0
        self._changed = False

    def look(self, holder: dict[str, Any]) -> Literal["alive", "dead", "unknown"]:
        """What is known of a holder, from this look and the earlier ones."""
        if _is_here(holder):
            return "alive" if _process_lives(holder) else "dead"
        now, heartbeat = self._clock(), (holder.get("token"), holder["heartbeat"])
        if heartbeat != self._seen:
            self._changed = self._seen is not None
            self._seen, self._since = heartbeat, now
        if now - self._since >= self._dead_after:
            return "dead"
        return "alive" if self._changed else "unknown"


def is_alive(holder: dict[str, Any], watch: HolderWatch | None = None) -> bool:
    """Whether the driver that wrote a lock is still running, as far as one look can tell.

    For a driver on another host that look compares the file's time with this host's clock, and
    is wrong if those differ by more than half a minute.

    Arguments:
        watch: for whoever looks often: what it has seen counts for more.
    """
    state = (watch or HolderWatch()).look(holder)
    if state == "unknown":
        return time.time() - holder["written"] < _TIMES.dead_after
    return state == "alive"


def _is_here(holder: dict[str, Any]) -> bool:
    return holder["host"] == socket.gethostname()


def _process_lives(holder: dict[str, Any]) -> bool:
    start = _process_start(holder["pid"])
    same_boot = holder.get("boot_id") == _boot_id()
    return same_boot and start is not None and start == holder.get("process_start")


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command's name, in parentheses, may hold spaces; the fields after it are counted from 3.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
