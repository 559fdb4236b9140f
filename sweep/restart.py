"""Starting a command afresh in its own process, for when Ray has died in it."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

MOST_RESTARTS = 3
_RESTARTS = "LORASWEEP_RAY_RESTARTS"

_environment: dict[str, str] | None = None
"""Of a process that may be replaced, as it was started."""


class RayDiedError(RuntimeError):
    """Ray died, and could not be started again from here. Finished work is kept."""


def allow_restarts() -> None:
    """Say that this process does nothing but its command line, so that it may be replaced."""
    global _environment
    _environment = dict(os.environ)


def restarts() -> int:
    """How often this command was started again because Ray had died."""
    return int(os.environ.get(_RESTARTS, 0))


def may_restart() -> bool:
    """Whether the process may be replaced, once more."""
    return _environment is not None and restarts() < MOST_RESTARTS


def restart() -> NoReturn:
    """Replace this process by one of the same command line; its number stays.

    Ray's C++ core cannot be left once a call of it waits for a dead server: no signal reaches the
    thread, and after a minute the core ends the process. Any thread can do this, whatever the
    others wait for. To files it is as if the process had been killed.
    """
    assert _environment is not None
    environment = {**_environment, _RESTARTS: str(restarts() + 1)}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
