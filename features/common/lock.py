"""Lock files: which process holds something, and that it lives.

Nothing depends on the locks of a file system, which a shared one may not have: whoever holds a lock
file writes it anew every few seconds, and is watched for that.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .errors import UserError
from .files import locked_folder, write_json

_READS, _READ_AGAIN_SECONDS = 5, 0.2
"""Of a file that is there and cannot be read: on NFS it may just have been replaced."""

Holder = dict[str, Any]
"""What a lock file says of the process that holds it."""

State = Literal["alive", "ending", "dead", "unknown"]
"""Of a holder; "ending": it was killed, and the kernel has yet to take it down."""

_PF_EXITING = 0x4
_SIGKILL_PENDING = 1 << (signal.SIGKILL - 1)


@dataclass(frozen=True)
class LockTimes:
    """Seconds.

    Attributes:
        heartbeat: between two heartbeats.
        dead_after: a holder on another host whose heartbeat does not change for so long is dead.
        poll: between two looks at such a heartbeat.
    """

    heartbeat: float = 5.0
    dead_after: float = 30.0
    poll: float = 0.5


TIMES = LockTimes()


class LockLostError(UserError):
    """Another process took what this one held: this one must write nothing more into it."""


class LockFile:
    """A lock file, which this process may come to hold.

    Attributes:
        lost: set once it was seen that this process holds it no more.

    Arguments:
        path: the file; its folder must be there.
        what: it is about, for messages.
    """

    def __init__(self, path: Path, what: object) -> None:
        self._path, self._what = path, what
        self._own = {
            "host": socket.gethostname(),
            "boot_id": _boot_id(),
            "pid_namespace": _pid_namespace(),
            "pid": os.getpid(),
            "process_start": _process_start(os.getpid()),
            "token": uuid.uuid4().hex,
        }
        self._taken = False
        self.lost = threading.Event()

    def held(self) -> bool:
        """Look whether the lock is held; to be asked before anything is written.

        Raises:
            OSError: the file cannot be read.
        """
        holder = read_lock(self._path)
        # One that does not say whose it is was damaged, and is written anew.
        ours = holder is not None and holder.get("token", self._own["token"]) == self._own["token"]
        if self._taken and not ours:
            self.lost.set()
        return self._taken and not self.lost.is_set()

    def check(self) -> None:
        """The same, as an error.

        Raises:
            LockLostError: it is held no more.
            OSError: the file cannot be read.
        """
        if not self.held():
            raise self.error()

    def error(self) -> LockLostError:
        """What to raise once the lock is lost."""
        holder = None
        with suppress(OSError):
            holder = read_lock(self._path)
        return LockLostError(
            f"{self._what} was taken over by {name_of(holder)}, which heard nothing of this one: "
            "nothing more was written from here"
        )

    def beat(self) -> None:
        """Write a heartbeat, unless the lock is lost."""
        with locked_folder(self._path.parent):
            if self.held():
                self._write()

    def take(
        self, on_wait: Callable[[str], None], times: LockTimes = TIMES, patience: float = math.inf
    ) -> None:
        """Wait until nobody else holds the lock, or until whoever does has been seen to live.

        A holder on this host is dead if its process is gone; one that was killed and is not gone
        yet, which takes a second where it had much memory, is waited for. On another host, whose
        clock may differ, it is dead if its heartbeat has not changed while it was watched for
        `dead_after` seconds.

        Arguments:
            on_wait: told, in one line, that a holder is being watched, or waited for.
            patience: seconds for which a living holder is waited for.

        Raises:
            UserError: a living process holds it; names its host and process.
            OSError: the file cannot be read or written.
        """
        watch, told = HolderWatch(times), ""
        until = time.monotonic() + patience
        while True:
            with locked_folder(self._path.parent):
                if self._make():
                    self._taken = True
                    return
                holder = read_lock(self._path)
                # None: it has just been released, or a file system has yet to see it.
                state: State = "unknown" if holder is None else watch.look(holder)
                if state == "dead":
                    self._write()
            if holder is not None and state == "dead":
                # Another process may have found the same, where nothing keeps it out meanwhile.
                if not _is_here(holder):
                    time.sleep(times.poll)
                if self._is_ours():
                    self._taken = True
                    return
                continue
            who = name_of(holder)
            if state == "alive" and time.monotonic() >= until:
                raise UserError(
                    f"{self._what} is in use by {who}: "
                    "wait for it, or stop it with Ctrl-C or kill -INT"
                )
            if holder is not None and state not in (told, "ending"):
                on_wait(
                    f"{self._what} is in use by {who}: waiting for its end, up to {patience:g} s"
                    if state == "alive"
                    else f"{self._what} is held by {who}: looking for a sign of life, "
                    f"up to {times.dead_after:g} s"
                )
                told = state
            time.sleep(times.poll)

    @contextmanager
    def beating(
        self, on_lost: Callable[[], None] = lambda: None, times: LockTimes = TIMES
    ) -> Iterator[None]:
        """Write heartbeats during the block, and release the lock after it.

        Arguments:
            on_lost: called from another thread if somebody else took the lock all the same.
        """
        stop = threading.Event()

        def keep_beating() -> None:
            while not stop.wait(times.heartbeat):
                # A full disk stops the work where it matters; the heartbeat tries again.
                with suppress(OSError):
                    self.beat()
                if self.lost.is_set():
                    on_lost()
                    return

        thread = threading.Thread(target=keep_beating, name="lock-file", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.release()

    def release(self) -> None:
        """Remove the lock file, unless it is another's. One that cannot be removed lapses."""
        with suppress(OSError), locked_folder(self._path.parent):
            if self.held():
                self._taken = False
                self._path.unlink(missing_ok=True)

    def _make(self) -> bool:
        """Make the file, which only one process can; whether that was this one."""
        try:
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            return False
        try:
            self._write()
        except BaseException:
            self._path.unlink(missing_ok=True)
            raise
        return True

    def _is_ours(self) -> bool:
        holder = read_lock(self._path)
        return holder is not None and holder.get("token") == self._own["token"]

    def _write(self) -> None:
        write_json(self._path, {**self._own, "heartbeat": time.time()})


@contextmanager
def locked(
    path: Path, on_wait: Callable[[], None], what: str = "it", times: LockTimes = TIMES
) -> Iterator[LockFile]:
    """Hold a lock file, which is there during the block only; whoever holds it is waited for.

    Arguments:
        on_wait: called once, if another process has to be waited for.
        what: see `LockFile`.
    """
    lock, told = LockFile(path, what), False

    def tell(line: str) -> None:
        nonlocal told
        if not told:
            on_wait()
        told = True

    lock.take(tell, times)
    with lock.beating(times=times):
        yield lock


def read_lock(path: Path) -> Holder | None:
    """What a lock file says; None: there is none.

    Besides, "written": when the file system says it was written. Of a damaged file that and a
    "heartbeat", which changes with it, are all.

    Raises:
        OSError: it is there, and cannot be read.
    """
    for attempt in range(_READS):
        try:
            with open(path, "rb") as file:
                content, stat = file.read(), os.fstat(file.fileno())
            break
        except FileNotFoundError:
            return None
        except OSError:
            if attempt == _READS - 1:
                raise
            time.sleep(_READ_AGAIN_SECONDS)
    try:
        value = json.loads(content)
        if {"host", "pid", "heartbeat", "token"} <= value.keys():
            return {**value, "written": stat.st_mtime}
    except (ValueError, AttributeError):
        pass
    return {"heartbeat": [stat.st_ino, stat.st_mtime_ns], "written": stat.st_mtime}


def name_of(holder: Holder | None) -> str:
    """Who holds a lock, for messages."""
    if holder is None or "host" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder['host']}"


class HolderWatch:
    """Finds out by repeated looks whether a lock's holder lives, comparing no two clocks.

    It does where its heartbeat has changed twice: once may be what a file system kept from before.
    """

    def __init__(
        self, times: LockTimes = TIMES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._dead_after = times.dead_after
        self._clock = clock
        self._seen: tuple[Any, Any] | None = None
        self._since = 0.0
        self._changes = -1

    def look(self, holder: Holder) -> State:
        """What is known of a holder, from this look and the earlier ones."""
        if _is_here(holder):
            return _process_state(holder["pid"], holder.get("process_start"))
        now, heartbeat = self._clock(), (holder.get("token"), holder["heartbeat"])
        if heartbeat != self._seen:
            self._changes += 1
            self._seen, self._since = heartbeat, now
        if now - self._since >= self._dead_after:
            return "dead"
        return "alive" if self._changes >= 2 else "unknown"


def is_alive(holder: Holder, watch: HolderWatch | None = None) -> bool:
    """Whether the process that wrote a lock is still running, as far as one look can tell.

    For a process on another host that look compares the file's time with this host's clock, and
    is wrong if those differ by more than half a minute.

    Arguments:
        watch: for whoever looks often: what it has seen counts for more.
    """
    state = (watch or HolderWatch()).look(holder)
    if state == "unknown":
        return time.time() - holder["written"] < TIMES.dead_after
    return state in ("alive", "ending")


def _is_here(holder: Holder) -> bool:
    """Whether its process number means something here. Two machines may have one name, and two
    containers one machine."""
    here = socket.gethostname(), _boot_id(), _pid_namespace()
    said = holder.get("host"), holder.get("boot_id"), holder.get("pid_namespace")
    return all(here) and here == said


def _process_state(pid: int, start: int | None) -> State:
    """Of the process of this number that started at some time; see `_process_start`."""
    process = Path(f"/proc/{pid}")
    try:
        fields = _stat(process)
        if int(fields[19]) != start:
            return "dead"
        if fields[0] in "ZX":  # that is its first thread, whose others may be at work still
            return "ending" if len(os.listdir(process / "task")) > 1 else "dead"
        pending = re.findall(r"^(?:Sig|Shd)Pnd:\s*(\w+)", (process / "status").read_text(), re.M)
    except OSError:
        return "dead"
    killed = any(int(mask, 16) & _SIGKILL_PENDING for mask in pending)
    return "ending" if killed or int(fields[6]) & _PF_EXITING else "alive"


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _process_start(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process."""
    try:
        return int(_stat(Path(f"/proc/{pid}"))[19])
    except OSError:
        return None


def _stat(process: Path) -> list[str]:
    """The fields of its stat from the third on: the second, a command's name, may hold spaces."""
    return (process / "stat").read_text().rpartition(")")[2].split()
