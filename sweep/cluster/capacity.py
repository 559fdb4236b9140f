"""Nodes for some work: waited for, made sure that they see its files, and missed if all leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from lorasweep.features.common.errors import UserError
from lorasweep.features.compute.nodes import Nodes, RequiredPaths
from lorasweep.sweep.process.signals import Interruption
from lorasweep.sweep.request.spec import RuntimeOptions
from lorasweep.trainables.store.events import Event

from .session import Waiting

_LOOK_SECONDS = 2.0
_JOIN_SECONDS = 5.0
_EXIT_CODE = 2


@contextmanager
def capacity(
    options: RuntimeOptions,
    nodes: Sequence[Nodes],
    required_paths: RequiredPaths,
    require: Callable[[], None],
    publish: Callable[[Event], None],
    interruption: Interruption,
) -> Iterator[None]:
    """Have nodes for some work during the block. Ray must be running.

    On a cluster they are waited for, up to `cluster_wait` seconds: before the block; in it, when
    work is shared out anew (`Nodes.wait`) and when all of them have left.

    Arguments:
        nodes: looked at; their `wait` is set.
        shared: what they must see.
        require: raises a `UserError` where the work cannot go on.

    Raises:
        UserError: a node does not see the files; or `require` still raises it after the time.
    """
    watch = _Watch(options, nodes, require, publish, interruption)
    for each in nodes:
        each.required_paths, each.joined, each.wait = (
            required_paths,
            bool(options.cluster),
            watch.wait,
        )
    watch.wait(starting=True)
    thread = threading.Thread(target=watch.run, name="capacity", daemon=True)
    if options.cluster:
        thread.start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if watch.lacking and not isinstance(error, UserError):
            raise watch.lacking from error
        raise
    finally:
        watch.over.set()
        if options.cluster:
            thread.join(_JOIN_SECONDS)


class _Watch:
    """Looks whether there is room.

    Attributes:
        over: to be set when nobody needs it any more.
        lacking: why the block was ended; None: it was not.
    """

    def __init__(
        self,
        options: RuntimeOptions,
        nodes: Sequence[Nodes],
        require: Callable[[], None],
        publish: Callable[[Event], None],
        interruption: Interruption,
    ) -> None:
        self._options, self._nodes, self._require = options, nodes, require
        self._publish, self._interruption = publish, interruption
        self._waited_for = False
        self.over = threading.Event()
        self.lacking: UserError | None = None

    def wait(self, *, starting: bool = False) -> None:
        """Wait until there is room: nodes may be on their way.

        Arguments:
            starting: nothing is done yet, and a node that does not see the files is no mishap.
        """
        waiting = self._waiting()
        self._waited_for = True
        try:
            while True:
                for each in self._nodes:
                    if each.several():
                        each.look()
                    if starting:
                        each.require_shared()
                lacking = self._lacking()
                if lacking is None:
                    return
                waiting.once_more(lacking)
        finally:
            self._waited_for = False

    def run(self) -> None:
        """Look until the block is over, or there is no room for too long."""
        waiting = None
        while not self.over.wait(_LOOK_SECONDS):
            lacking = None
            if not self._waited_for:
                with suppress(Exception):  # Ray may be dying: that is watched elsewhere
                    lacking = self._lacking()
            if lacking is None:
                waiting = None
                continue
            waiting = waiting or self._waiting()
            try:
                waiting.once_more(lacking)
            except UserError as error:
                self.lacking = error
                self._interruption.wake(_EXIT_CODE)
                return

    def _lacking(self) -> UserError | None:
        try:
            self._require()
        except UserError as error:
            return error
        return None

    def _waiting(self) -> Waiting:
        return Waiting(self._options.cluster_wait if self._options.cluster else 0.0, self._publish)


def require_cpu(nodes: Nodes) -> None:
    """Raise a `UserError` where no node that takes part has a CPU."""
    if not any(node.get("CPU") for node in nodes.each()):
        raise UserError("Ray has no CPU")
