"""Ctrl-C, SIGTERM and SIGHUP: stop within seconds, keep everything, say how to go on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130
_PATIENCE_SECONDS = 30.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Turn the first signal into KeyboardInterrupt and let the second end the process at once.

    Yields a function that installs the handlers again: `ray.init` replaces that of SIGTERM.
    A SIGHUP that is ignored, as under nohup, stays ignored; SIGINT does not, which a script's
    `command &` starts with ignored. Outside the main thread, where Python allows no handlers,
    nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    hung_up_on = before[signal.SIGHUP] is not signal.SIG_IGN
    caught = [number for number in _SIGNALS if number != signal.SIGHUP or hung_up_on]
    # Whatever hangs after a signal must not keep a machine that is being taken away.
    watchdog = threading.Timer(_PATIENCE_SECONDS, os._exit, [EXIT_CODE])
    watchdog.daemon = True
    interrupted = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            os._exit(EXIT_CODE)
        interrupted = True
        watchdog.start()
        raise KeyboardInterrupt(signal.Signals(number).name)

    def install() -> None:
        for number in caught:
            signal.signal(number, handle)

    install()
    try:
        yield install
    finally:
        watchdog.cancel()
        for number in caught:
            signal.signal(number, before[number])
