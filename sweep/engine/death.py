"""Noticing that Ray itself has died: its core blocks or ends the driver, without a word."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from trainables.events import Event, RayDied, Warned

from ..interrupt import Interruption
from ..restart import RayDiedError, may_restart, restart, restarts

_Address = tuple[str, int]

_LOOK_SECONDS = 1.0
_SILENT_SECONDS = 3.0
_SILENT_SECONDS_FAR = 20.0
"""A server that is being moved may be gone for a while; Ray's core gives up after a minute."""

_CONNECT_SECONDS = 3.0
_EXIT_CODE = 1


@contextmanager
def ray_watched(
    publish: Callable[[Event], None], interruption: Interruption, *, ours: bool, local: bool
) -> Iterator[None]:
    """Watch the running Ray during the block.

    If it dies, that is published; then this process is replaced where it may be, or else the main
    thread is interrupted, and, should it hang in Ray, the process ended with exit code 1.

    Arguments:
        ours: the session was opened by us, not by the caller.
        local: Ray's processes are on this machine, and ours.

    Raises:
        RayDiedError: it died, and the block was left.
    """
    watch = _Watch(publish, interruption, ours, local)
    thread = threading.Thread(target=watch.run, name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        if watch.died:
            raise RayDiedError(f"Ray's {watch.died} died; finished work is kept") from error
        raise
    finally:
        watch.over.set()
        thread.join()


class _Watch:
    """Looks every second.

    Attributes:
        over: to be set when nobody needs Ray any more.
        died: what died; "" while all live.
    """

    def __init__(
        self,
        publish: Callable[[Event], None],
        interruption: Interruption,
        ours: bool,
        local: bool,
    ) -> None:
        self._publish, self._interruption = publish, interruption
        self._ours, self._local = ours, local
        self._servers = _servers()
        self._silent_since: dict[str, float] = {}
        self._missed: set[str] = set()
        self.over = threading.Event()
        self.died = ""

    def run(self) -> None:
        """Look until the block is over, or Ray is."""
        patience = _SILENT_SECONDS if self._local else _SILENT_SECONDS_FAR
        while not self.over.wait(_LOOK_SECONDS):
            if self._local:
                self._tell_of_helpers()
            for name, address in self._servers.items():
                if _answers(address):
                    self._silent_since.pop(name, None)
                    continue
                since = self._silent_since.setdefault(name, time.monotonic())
                if time.monotonic() - since >= patience and not self.over.is_set():
                    self.died = name
                    self._end()
                    return

    def _tell_of_helpers(self) -> None:
        """What else `ray.init` started: a run does without it."""
        for name in _dead_processes() - self._servers.keys() - self._missed:
            self._missed.add(name)
            with suppress(OSError):
                self._publish(Warned(f"Ray's {name} died: the run goes on without it"))

    def _end(self) -> None:
        again = self._ours and may_restart()
        with suppress(OSError):  # a full disk
            self._publish(RayDied(self.died, restarts() + 1 if again else 0))
        if not again:
            self._interruption.wake(_EXIT_CODE)
            return
        if self._local:
            _kill_processes()
        _give_back_stderr()
        restart()


def _servers() -> dict[str, _Address]:
    """Those without which a driver cannot be: Ray's own name -> where it listens."""
    import ray

    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    own = context.get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return {
        "gcs_server": (host.strip("[]"), int(port)),
        "raylet": (node["NodeManagerAddress"], node["NodeManagerPort"]),
    }


def _answers(address: _Address) -> bool:
    try:
        socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _dead_processes() -> set[str]:
    """Names of processes that `ray.init` started here and that are gone."""
    from ray._private import worker

    node = worker._global_node
    return {name for name, _ in node.dead_processes()} if node else set()


def _kill_processes() -> None:
    """End what is left of the Ray that was started here; workers follow their raylet."""
    from ray._private import worker

    node = worker._global_node
    if node is None:
        return
    with suppress(Exception):  # whatever Ray thinks of it, a new one is started
        node.kill_all_processes(check_alive=False)


def _give_back_stderr() -> None:
    """Have file descriptor 2 be what `sys.stderr` writes to."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
        os.dup2(sys.stderr.fileno(), 2)
