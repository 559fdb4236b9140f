"""A mounted file system that writes down whatever changes it, and fails or kills at will.

It runs in a process of its own: whoever waits for it may hold Python's lock, as at a page fault.
"""

from __future__ import annotations

import multiprocessing
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

KILL = 0
"""Instead of an error number: the caller is killed."""


@dataclass(frozen=True)
class Operation:
    """Something that was asked of the file system and succeeded.

    Attributes:
        kind: open, create, write, truncate, rename, link, symlink, unlink, mkdir, rmdir, fsync (of
            a file) or fsyncdir.
        path: of what it is about, below the mount.
        handle: by which an open file is known until its number is used again.
        other: rename, link: the new path; symlink: what it points to.
        size: truncate: the new size; write: the offset.
        data: write: the bytes.
        by_worker: whether a worker of Ray's asked for it.
    """

    kind: str
    path: str
    handle: int = 0
    other: str = ""
    size: int = 0
    data: bytes = field(default=b"", repr=False)
    by_worker: bool = False


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the n-th of some operations; it goes wrong once.

    Attributes:
        kinds: of the operations that count.
        by_worker: whose operations count: workers', or everybody else's.
        number: counted from 1.
        error: an error number, or `KILL`.
        pattern: of the files whose operations count; "": of all.
    """

    kinds: frozenset[str]
    by_worker: bool
    number: int
    error: int
    pattern: str = ""


def pattern_of(path: str) -> str:
    """A path without what is not the same in two runs, or in two files of one kind."""
    return re.sub(r"(?<=/TrialWorker_)[^/]+|[0-9a-f]{8,}|\d+", "#", path)


class Mount:
    """A mounted recorder.

    Attributes:
        path: where it is mounted.
        folder: what lies below it.
    """

    def __init__(self, path: Path, folder: Path, connection: Connection) -> None:
        self.path, self.folder = path, folder
        self._connection = connection

    def _ask(self, question: Any) -> Any:
        self._connection.send(question)
        return self._connection.recv()

    def operations(self) -> list[Operation]:
        """Everything since it was mounted, or since this was asked last."""
        return self._ask("operations")

    def arm(self, fault: Fault | None) -> None:
        """Have something go wrong, counted from now; nothing, from now on."""
        self._ask(fault)

    def counted(self) -> int:
        """How many operations the fault counted, its own among them."""
        return self._ask("counted")


@contextmanager
def mounted(path: Path, folder: Path) -> Iterator[Mount]:
    """Mount a recorder over a folder for the block; both are made."""
    path.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(str(path), folder, theirs), daemon=True)
    server.start()
    theirs.close()
    try:
        ours.recv()
        yield Mount(path, folder, ours)
    finally:
        subprocess.run(["fusermount3", "-u", "-z", str(path)], check=False)
        server.join(2)
        if server.is_alive():
            server.kill()


def _serve(path: str, folder: Path, connection: Connection) -> None:
    from .files import serve  # needs libfuse

    serve(path, folder, connection)
