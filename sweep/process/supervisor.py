"""A parent process for a command that runs Ray, whose C++ core may end its process without a word.

The child does the work. If it ends out of order, or asks for it, another one is started: what
remains is grid − records, so that nothing else need be handed over.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar

from .signals import EXIT_CODE

MOST_RESTARTS = 3

_Result = TypeVar("_Result")

_AGAIN = 75
"""Exit code that asks for another child; EX_TEMPFAIL of sysexits.h."""

_BY_CORE = {1, -signal.SIGABRT, -signal.SIGSEGV}
"""How Ray's core ends a process: _Exit(1), or a failed check."""

_FORWARDED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_PR_SET_PDEATHSIG = 1

_enabled = _is_child = _untold = False
_restarts = 0


class RayDiedError(RuntimeError):
    """Ray died, and could not be started again from here. Finished work is kept."""


def enable() -> None:
    """Say that this process is a command of its own, which may have children."""
    global _enabled
    _enabled = True


def restarts() -> int:
    """How often this command was started again because Ray had died."""
    return _restarts


def may_restart() -> bool:
    """Whether `restart` works, once more."""
    return _is_child and _restarts < MOST_RESTARTS


def restart() -> NoReturn:
    """End this process at once, from any thread, and have another one started.

    A thread that waits in Ray's core for a dead server cannot be interrupted. To files it is as if
    the process had been killed.
    """
    os._exit(_AGAIN)


def untold_death() -> bool:
    """Whether Ray's core ended the process before this one, which nobody was told of. Once."""
    global _untold
    untold, _untold = _untold, False
    return untold


def supervised(work: Callable[[], _Result]) -> _Result:
    """Do some work in a child process, again where Ray died; without `enable`, in this one.

    In the child it returns what the work does. The parent exits as the last child did, and passes
    on the signals it gets. After one that stops the work it starts no other child: who stops all
    processes at once, as batch systems do, stops Ray's as well, whose death is no news then.
    """
    global _is_child, _untold, _restarts
    if not _enabled:
        return work()
    while True:
        parent, (read, write) = os.getpid(), os.pipe()
        os.set_blocking(read, False)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
        child = os.fork()
        if not child:
            os.close(read)
            _is_child = True
            _die_with(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            try:
                return work()
            finally:
                os.write(write, b".")
        os.close(write)
        code, stopped = _wait(child)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        in_order = _was_written(read)
        if in_order or not (code == _AGAIN or code in _BY_CORE):
            sys.exit(code if code >= 0 else 128 - code)
        if stopped:
            sys.exit(EXIT_CODE)
        if _restarts == MOST_RESTARTS:
            sys.exit("error: Ray died once more; finished work is kept: give the command again")
        _restarts += 1
        _untold = code != _AGAIN


def _die_with(parent: int) -> None:
    """Have this process killed when its parent is."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _wait(child: int) -> tuple[int, bool]:
    """The child's exit code, once it has ended (negative: the signal that ended it), and whether it
    was told to stop."""
    stopped = False
    while True:
        got = signal.sigwaitinfo({*_FORWARDED, signal.SIGCHLD})
        if got.si_signo != signal.SIGCHLD:
            # A SIGHUP that is ignored, as under nohup, stops nothing.
            ignored = signal.getsignal(got.si_signo) is signal.SIG_IGN
            stopped |= not ignored or got.si_signo != signal.SIGHUP
            # A terminal's Ctrl-C goes to both; what a process sent, to this one.
            if got.si_code <= 0:
                with suppress(ProcessLookupError):
                    os.kill(child, got.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), stopped


def _was_written(read: int) -> bool:
    try:
        return bool(os.read(read, 1))
    except BlockingIOError:  # a process of Ray has the other end
        return False
    finally:
        os.close(read)
