"""Noticing that Ray itself has died: its core blocks or ends the driver, without a word."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lorasweep.features.common.errors import UserError
from lorasweep.sweep.process.signals import Interruption
from lorasweep.sweep.process.supervisor import RayDiedError, may_restart, restart, restarts
from lorasweep.trainables.store.events import Event, RayDied, Warned

_Address = tuple[str, int]

_VITAL = "gcs_server", "raylet"
"""What a driver cannot do without. Ray's agents take their raylet with them."""

_LOOK_SECONDS = 1.0
_SILENT_SECONDS = 20.0
"""A server elsewhere that is being moved may be gone for a while; Ray's core gives up after 60."""

_LAST_LOOK_SECONDS = 8.0
"""A raylet that lost an agent tells its node's death before it ends."""

_CONNECT_SECONDS = 3.0
_EXIT_CODE = 1


@contextmanager
def ray_watched(
    publish: Callable[[Event], None], interruption: Interruption, *, ours: bool, local: bool
) -> Iterator[None]:
    """Watch Ray during the block, in which it may be started, too.

    If it dies, that is published; then the command is started again where that may be, or else the
    main thread is interrupted, and, should it hang in Ray, the process ended with exit code 1.

    Arguments:
        ours: it is not the caller's, who would have to start it again.
        local: it is started here, in the block.

    Raises:
        RayDiedError: it died, and the block was left.
        KeyboardInterrupt: it died while the block was being interrupted.
    """
    watch = _Watch(publish, interruption, ours, local)
    thread = threading.Thread(target=watch.run, name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    except (UserError, KeyboardInterrupt) as error:
        if watch.died:
            raise watch.error() from error
        raise
    except BaseException as error:
        # What Ray raises where it is dying comes before its end.
        watch.look_once_more()
        if watch.died:
            raise watch.error() from error
        raise
    finally:
        watch.over.set()
        thread.join()


class _Watch:
    """Looks every second.

    Attributes:
        over: to be set when nobody needs Ray any more.
        died: what died; "" while all live.
        stopped: the run was being interrupted by then. Whoever told all processes to stop has
            told Ray's, too.
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
        self._servers: dict[str, _Address] = {}
        self._silent_since: dict[str, float] = {}
        self._missed: set[str] = set()
        self._ending = threading.Lock()
        self.over = threading.Event()
        self.died = ""
        self.stopped = False

    def run(self) -> None:
        """Look until the block is over, or Ray is."""
        while not self.over.wait(_LOOK_SECONDS):
            if dead := self._find_dead(_SILENT_SECONDS):
                self._end(dead)
                return

    def look_once_more(self) -> None:
        """Something was raised: if Ray is dying, wait a little for its end."""
        until = time.monotonic() + _LAST_LOOK_SECONDS
        while not self.died and time.monotonic() < until:
            if dead := self._find_dead(0.0):
                self._end(dead)
                return
            if _own_node_lives():
                return
            time.sleep(_LOOK_SECONDS / 10)

    def error(self) -> BaseException:
        """What to raise once it died."""
        if self.stopped:
            return KeyboardInterrupt()
        return RayDiedError(f"Ray's {self.died} died; finished work is kept")

    def _find_dead(self, patience: float) -> str | None:
        return self._dead_here() if self._local else self._silent(patience)

    def _dead_here(self) -> str | None:
        dead = _dead_processes()
        for name in sorted(dead - {*_VITAL} - self._missed):
            self._missed.add(name)
            with suppress(OSError):
                self._publish(Warned(f"Ray's {name} died: the run goes on without it"))
        return next((name for name in _VITAL if name in dead), None)

    def _silent(self, patience: float) -> str | None:
        if not self._servers:
            with suppress(Exception):  # not there yet, or dying: asked again
                self._servers = _servers()
        for name, address in self._servers.items():
            if _answers(address):
                self._silent_since.pop(name, None)
                continue
            since = self._silent_since.setdefault(name, time.monotonic())
            if time.monotonic() - since >= patience:
                return name
        return None

    def _end(self, dead: str) -> None:
        with self._ending:  # by whichever thread saw it first
            if self.died:
                return
            self.died, self.stopped = dead, self._interruption.interrupted
            if self.stopped:
                return
            again = self._ours and may_restart()
            with suppress(OSError):  # a full disk
                self._publish(RayDied(f"Ray's {dead} died", restarts() + 1 if again else 0))
            if again:
                if self._local:
                    _kill_processes()
                restart()
            if threading.current_thread() is not threading.main_thread():
                self._interruption.wake(_EXIT_CODE)


def _servers() -> dict[str, _Address]:
    """Where those of a cluster listen that its driver needs; empty before Ray is initialised."""
    import ray

    if not ray.is_initialized():
        return {}
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    own = context.get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == own)
    return {
        "gcs_server": (host.strip("[]"), int(port)),
        "raylet": (node["NodeManagerAddress"], node["NodeManagerPort"]),
    }


def _own_node_lives() -> bool:
    """Whether Ray says so of the node this driver is on; True where there is none yet."""
    import ray

    if not ray.is_initialized():
        return True
    try:
        own = ray.get_runtime_context().get_node_id()
        return any(node["NodeID"] == own and node["Alive"] for node in ray.nodes())
    except Exception:  # it can no longer be asked
        return False


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
