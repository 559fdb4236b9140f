"""Files that are either whole or not there, and their checksums."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import IO, Any

import xxhash

from .errors import UserError

_flushed: set[Path] = set()
"""Folders whose names this process has made durable, with those of all above."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], *, durable: bool = True) -> None:
    """Let `write` fill a temporary file, flush it to disk and rename it to `path`.

    The folder is created if needed. A reader sees the old file or the new one, never a part;
    on an error (a full disk, say) the temporary file is removed and `path` is untouched.

    Arguments:
        durable: whether to wait until the file would survive a power cut. Without, it survives
            the death of the process, and a checksum has to tell the rest.
    """
    make_folders([path.parent])
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        fsync_path(path.parent)


def remove_unfinished(folder: Path) -> None:
    """Remove from a folder what processes that were killed while they wrote have left there. Nobody
    may be writing."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def make_folders(folders: Iterable[Path]) -> None:
    """Make folders and those above them, where missing, so that they survive a power cut.

    What a folder's own flush promises is worth nothing while its name is not on disk. So each is
    flushed into the one above it, up to the root of its file system; also where it was there, whose
    maker may have been killed before it came to that, but once in a process.
    """
    for folder in folders:
        chain = [folder.absolute(), *folder.absolute().parents]
        made = set(takewhile(lambda path: not path.exists(), chain))
        folder.mkdir(parents=True, exist_ok=True)
        known = _flushed - made
        new = list(takewhile(lambda path: path not in known and not path.is_mount(), chain))
        for path in reversed(new):
            try:
                fsync_path(path.parent)
            except PermissionError:  # somebody else's, who made what is in it
                if path in made:
                    raise
            _flushed.add(path)


def require_folder(folder: Path, option: str = "") -> None:
    """Make a folder that can be written to, or raise a `UserError`.

    Arguments:
        option: what chooses another place, for the message.
    """
    advice = f"; {option} chooses another place" if option else ""
    try:
        make_folders([folder])
    except OSError as error:
        raise UserError(f"cannot make {folder}: {error.strerror}{advice}") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write to {folder}: permission denied{advice}")


def fsync_path(path: Path) -> None:
    """Make a file's content, or the renames inside a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomic(path, lambda file: file.write(text.encode()), durable=durable)


def write_json(path: Path, value: Any, *, indent: int | None = 2, durable: bool = True) -> None:
    """Write `value` as JSON, atomically. NaN and infinities are an error: JSON has none."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n", durable=durable)


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces. What fingerprints are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """xxh3-128 (32 hex digits) of a JSON value's canonical text."""
    return xxhash.xxh3_128_hexdigest(canonical_json(value))


def sign(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with a `checksum` over everything else in it."""
    body = {name: item for name, item in value.items() if name != "checksum"}
    return {**body, "checksum": digest(body)}


class DamagedFileError(ValueError):
    """A signed file that does not parse or whose checksum does not match."""


def read_signed_json(path: Path) -> dict[str, Any]:
    """Read what `sign` signed.

    Raises:
        DamagedFileError: it is not JSON, not an object, or its checksum differs.
        FileNotFoundError: it is not there.
    """
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedFileError(f"{path} is not valid JSON") from error
    if not isinstance(value, dict) or value.get("checksum") != sign(value)["checksum"]:
        raise DamagedFileError(f"{path} does not match its checksum")
    return value


def file_checksum(path: Path) -> str:
    """xxh3-128 of a file's bytes, read in pieces."""
    hasher = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            hasher.update(piece)
    return hasher.hexdigest()


def file_stamp(path: Path) -> list[Any]:
    """[path, size, mtime_ns, ctime_ns, inode]: changes whenever the file is written or replaced."""
    stat = path.stat()
    return [str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


_IN_PATHS = {"/": "+", ":": "="}


def path_name(name: str) -> str:
    """A name as a file's: representations are called `spectral/pca:64`, files `spectral+pca=64`."""
    return "".join(_IN_PATHS.get(character, character) for character in name)


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE}
_FORBIDDEN = {errno.EACCES, errno.EPERM}
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)


def is_disk_error(error: BaseException) -> bool:
    """Whether it is what a full, failing or forbidden disk raises."""
    if not isinstance(error, OSError):
        return False
    # What is forbidden without a file is another matter: a signal, a socket.
    return error.errno in _DISK or (error.errno in _FORBIDDEN and error.filename is not None)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for a moment, where its file system has locks: Lustre's and NFS' may have none,
    or only within a host. What must hold everywhere needs a lock file (features/common/lock.py)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)
