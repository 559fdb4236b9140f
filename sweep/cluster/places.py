"""Places of a local Ray's files: one that cannot work is said before Ray starts."""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from lorasweep.features.common.errors import UserError

_LONGEST_SOCKET = 107
"""Bytes of a socket's path on Linux."""
_BELOW_TMPDIR = len("/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")
_TMPDIR_VARIABLES = ("RAY_TMPDIR", "TMPDIR")
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")


def require_places() -> None:
    """Check what a local Ray needs besides memory.

    Raises:
        UserError: its folder for temporary files cannot be used, or there is no loopback.
    """
    variable = next((name for name in _TMPDIR_VARIABLES if os.environ.get(name)), None)
    if variable:
        _require_tmpdir(variable, os.environ[variable])
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"Ray needs the loopback address 127.0.0.1: {error.strerror or error}"
        ) from error


def _require_tmpdir(variable: str, text: str) -> None:
    most = _LONGEST_SOCKET - _BELOW_TMPDIR
    if len(os.fsencode(text)) > most:
        raise UserError(
            f"{variable}={text} is too long: Ray's sockets lie below it, and their paths may have "
            f"{_LONGEST_SOCKET} bytes, so that {most} are left for {variable}"
        )
    place = Path(text)
    if variable == "TMPDIR" and not place.is_dir():
        return  # Python and Ray take /tmp then
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        reason = "is no folder" if place.is_file() else f"cannot be used: {error.strerror}"
        raise UserError(f"{variable}={text} {reason}: Ray keeps its files there") from error


@contextmanager
def auth_token(*, local: bool = True) -> Iterator[dict[str, str]]:
    """Variables that name a token of Ray's where its own place, ~/.ray, cannot be written.

    A container's user may have no home, or one that is read-only. The token is for one session.

    Arguments:
        local: whether Ray is started here; a cluster that is joined has its token.
    """
    if (
        not local
        or any(os.environ.get(name) for name in _TOKEN_VARIABLES)
        or _may_write(Path.home() / ".ray")
    ):
        yield {}
        return
    folder = Path(mkdtemp(prefix="lorasweep-"))  # of this user alone
    try:
        token = folder / "ray_auth_token"
        token.touch(0o600)
        token.write_text(uuid.uuid4().hex)
        yield {"RAY_AUTH_TOKEN_PATH": str(token)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _may_write(folder: Path) -> bool:
    """Return whether a file may be written there, the folder being made if need be."""
    token = folder / "auth_token"
    if token.is_file() and os.access(token, os.R_OK):
        return True
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
