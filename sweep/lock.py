"""One driver per run directory: driver.lock says which, and that it lives."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from features.core.errors import UserError
from features.core.files import write_json

_HEARTBEAT_SECONDS = 5.0
_DEAD_AFTER_SECONDS = 30.0
_FILE = "driver.lock"


@contextmanager
def driver_lock(run_dir: Path, on_lost: Callable[[], None]) -> Iterator[None]:
    """Hold the run directory for the block; a heartbeat is written every five seconds.

    A lock left by a dead driver is taken over: on the same host it is dead if its process is gone,
    on another if its heartbeat is more than 30 seconds old.

    Arguments:
        on_lost: called from another thread if somebody else took the lock all the same.

    Raises:
        UserError: another driver holds it; names its host and process.
    """
    own = {
        "host": socket.gethostname(),
        "boot_id": _boot_id(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "token": uuid.uuid4().hex,
    }
    path = run_dir / _FILE
    with _serialised(run_dir):
        holder = read_lock(run_dir)
        if holder is not None and is_alive(holder):
            raise UserError(
                f"{run_dir} is in use by process {holder['pid']} on {holder['host']}: "
                "wait for it, or stop it with Ctrl-C or kill -INT"
            )
        _beat(path, own)
    stop = threading.Event()

    def keep_beating() -> None:
        while not stop.wait(_HEARTBEAT_SECONDS):
            holder = read_lock(run_dir)
            if holder is not None and holder.get("token") != own["token"]:
                on_lost()
                return
            try:
                _beat(path, own)
            except OSError:
                # A full disk stops the run where it matters; the heartbeat tries again.
                continue

    thread = threading.Thread(target=keep_beating, name="driver-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        holder = read_lock(run_dir)
        if holder is not None and holder.get("token") == own["token"]:
            path.unlink(missing_ok=True)


def read_lock(run_dir: Path) -> dict[str, Any] | None:
    """What driver.lock says; None if there is none or it is damaged."""
    try:
        value = json.loads((run_dir / _FILE).read_bytes())
        return value if {"host", "pid", "heartbeat"} <= value.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def is_alive(holder: dict[str, Any]) -> bool:
    """Whether the driver that wrote a lock is still running."""
    if holder["host"] == socket.gethostname():
        start = _process_start(holder["pid"])
        same_boot = holder.get("boot_id") == _boot_id()
        return same_boot and start is not None and start == holder.get("process_start")
    return time.time() - holder["heartbeat"] < _DEAD_AFTER_SECONDS


def _beat(path: Path, own: dict[str, Any]) -> None:
    write_json(path, {**own, "heartbeat": time.time()})


@contextmanager
def _serialised(folder: Path) -> Iterator[None]:
    """One process of this host at a time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
