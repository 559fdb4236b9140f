"""Ctrl-C, SIGTERM and SIGHUP: stop within seconds, keep everything, say how to go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
_PATIENCE_SECONDS = 30.0
_SAME_SECONDS = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Handlers that turn the first signal into KeyboardInterrupt and let the second end the process
    at once. Outside the main thread, where Python allows none, nothing is done.

    A SIGHUP that is ignored, as under nohup, stays ignored; SIGINT does not, which a script's
    `command &` starts with ignored.

    Attributes:
        interrupted: whether a signal has come.
        asked: whether it came from outside, not from a thread that found the run at its end.
    """

    def __init__(self) -> None:
        self.interrupted = self.asked = False
        self._woken = False
        self._number, self._at = 0, 0.0
        self._exit_code = EXIT_CODE
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
            if self._before[signal.SIGHUP] is signal.SIG_IGN:
                del self._before[signal.SIGHUP]
        # Whatever hangs after a signal must not keep a machine that is being taken away.
        self._watchdog = threading.Timer(_PATIENCE_SECONDS, self._give_up)
        self._watchdog.daemon = True

    def install(self) -> None:
        """Install the handlers, once more after `ray.init`, which replaces that of SIGTERM."""
        for number in self._before:
            signal.signal(number, self._handle)

    def remove(self) -> None:
        """Install what there was before."""
        self._watchdog.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wake(self, exit_code: int = EXIT_CODE) -> None:
        """From another thread: interrupt the main thread, whatever it waits for, once.

        Arguments:
            exit_code: of the process, if the main thread hangs all the same.
        """
        main = threading.main_thread().ident
        if self._before and not self.interrupted and main is not None:
            self._exit_code, self._woken = exit_code, True
            # Here, not in the handler: a thread that waits in C++ runs none.
            self._watchdog.start()
            signal.pthread_kill(main, signal.SIGINT)

    def _give_up(self) -> None:
        os._exit(self._exit_code)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.interrupted:
            # timeout(1), or a whole process group, may be told twice of one and the same.
            if number == self._number and now - self._at < _SAME_SECONDS:
                return
            os._exit(EXIT_CODE)
        self.interrupted, self._number, self._at = True, number, now
        self.asked = not self._woken
        if not self._watchdog.is_alive():
            self._watchdog.start()
        raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Have signals end the block with KeyboardInterrupt, and a second one the process."""
    interruption = Interruption()
    interruption.install()
    try:
        yield interruption
    finally:
        interruption.remove()
