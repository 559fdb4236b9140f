"""Datasets on object storage: found by their URL, copied into the cache, each object once.

A dataset is read several times in full (its scan, its features, every trial on what is not cached),
and workers map its files into memory. So objects are copied, and all else is as with files. A copy
is named after what tells its object from an earlier one: a changed object is another file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from threading import Event, Lock
from typing import IO, Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import digest, remove_unfinished, require_folder, write_atomic
from lorasweep.features.common.lock import locked
from lorasweep.features.common.progress import Progress

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs"}
"""Scheme -> the package by which fsspec knows it, where that is not the one its error names."""

_ETAGS = ("ETag", "etag", "e_tag", "md5Hash", "blob_id")
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")
"""What file systems of fsspec call an object's ETag, and when it was written."""

_PIECE = 1 << 24
_AT_ONCE = 4


def is_url(name: str) -> bool:
    """Whether a dataset's name is a URL, s3://bucket/path say, and not a path."""
    return _URL.match(name) is not None


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A place among listed objects, with as much of `pathlib.Path` as finding a dataset needs.

    Attributes:
        path: below the dataset's URL; "." is the URL itself.
        root: the objects that were listed.
    """

    path: PurePosixPath
    root: Objects = field(compare=False)

    def __str__(self) -> str:
        return self.root.url if self.path == PurePosixPath() else f"{self.root.url}/{self.path}"

    def __truediv__(self, name: str | Path | ObjectPath) -> ObjectPath:
        return ObjectPath(self.path / str(name), self.root)

    @property
    def name(self) -> str:
        """Last component of the URL."""
        return PurePosixPath(str(self)).name

    @property
    def suffix(self) -> str:
        """Suffix of the name."""
        return PurePosixPath(str(self)).suffix

    def exists(self) -> bool:
        """Whether it is an object."""
        return self.path in self.root.stamps

    def is_file(self) -> bool:
        """The same: folders are not listed."""
        return self.exists()

    def read_text(self) -> str:
        """The object's content."""
        with _asking(str(self)):
            return self.root.system.cat_file(self.root.keys[self.path]).decode()

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """Objects below it whose name ends as the pattern, *.SUFFIX, does."""
        for path in self.root.stamps:
            if path.match(pattern) and path.is_relative_to(self.path):
                yield ObjectPath(path, self.root)

    def relative_to(self, other: ObjectPath) -> PurePosixPath:
        """Its path below another place."""
        return self.path.relative_to(other.path)


@dataclass(frozen=True, eq=False)
class Objects:
    """Everything below a URL.

    Attributes:
        url: without a slash at its end.
        system: fsspec's file system.
        keys: path below the URL -> the file system's name of the object.
        stamps: path below the URL -> [URL, size in bytes, ETag or time]: another one if the object
            was written anew.
    """

    url: str
    system: Any
    keys: dict[PurePosixPath, str]
    stamps: dict[PurePosixPath, list[Any]]

    @property
    def top(self) -> ObjectPath:
        """The URL as a place."""
        return ObjectPath(PurePosixPath(), self)

    def copy(
        self, chosen: list[ObjectPath], cache: Path, on_progress: Progress | None = None
    ) -> list[Path]:
        """Copy objects into `cache`/objects, those that are not there yet.

        A copy is whole or not there. Two runs do not copy at the same time.

        Arguments:
            on_progress: called with (MB done, MB in all) where there is something to copy.

        Returns:
            The copies, in the order of the objects.

        Raises:
            UserError: an object cannot be read, or is being written meanwhile; or there is no
                folder to write to.
            OSError: the disk is full, or fails.
        """
        folder = cache.absolute() / "objects"
        stamps = [self.stamps[place.path] for place in chosen]
        copies = [folder / f"{digest(s)}{p.suffix}" for p, s in zip(chosen, stamps)]

        def lacking() -> list[tuple[ObjectPath, Path]]:
            return [
                (place, copy)
                for place, copy, stamp in zip(chosen, copies, stamps)
                if not copy.exists() or copy.stat().st_size != stamp[1]
            ]

        if not lacking():
            return copies
        require_folder(folder)
        with locked(folder / ".copying", lambda: None, str(folder)) as held:
            remove_unfinished(folder)
            missing = lacking()
            total = sum(self.stamps[place.path][1] for place, _ in missing)
            done, lock, stopped = 0, Lock(), Event()

            def count(size: int) -> None:
                nonlocal done
                if stopped.is_set():
                    raise InterruptedError
                with lock:
                    done += size
                    if on_progress:
                        on_progress(done // 10**6, max(total // 10**6, 1))

            with ThreadPoolExecutor(_AT_ONCE) as pool:
                futures = [pool.submit(self._copy, *each, count) for each in missing]
                try:
                    for future in futures:
                        future.result()
                        held.check()
                except BaseException:
                    stopped.set()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return copies

    def _copy(self, place: ObjectPath, copy: Path, count: Callable[[int], None]) -> None:
        key = self.keys[place.path]

        def write(out: IO[bytes]) -> None:
            with _asking(str(place)):
                given = self.system.open(key, "rb", block_size=_PIECE)
            with closing(given):
                while True:
                    with _asking(str(place)):
                        piece = given.read(_PIECE)
                    if not piece:
                        break
                    out.write(piece)  # not asked of the storage: a full disk is another matter
                    count(len(piece))
            with _asking(str(place)):
                self.system.invalidate_cache()
                now = _stamp(str(place), self.system.info(key))
            if now != self.stamps[place.path] or out.tell() != now[1]:
                raise UserError(f"{place} has changed while it was copied; start again")

        write_atomic(copy, write)


def list_objects(url: str) -> Objects:
    """List what lies below a URL; anything that fsspec knows.

    Credentials are those that the file system's own package finds: environment, profiles.

    Raises:
        UserError: the package is missing, nothing is there, it may not be read or cannot be
            reached; or the URL holds credentials, which would be written down with it.
    """
    url = url.rstrip("/")
    scheme, _, rest = url.partition("://")
    if re.match(r"[^/]*:[^/]*@", rest) or (scheme in ("http", "https") and "?" in rest):
        raise UserError(
            f"the {scheme}:// URL of --dataset holds credentials, which would be written into "
            "sweep.json; leave them to the environment"
        )
    import fsspec

    package = _PACKAGES.get(scheme)
    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        how = f"pip install {package}" if package else _first_line(error)
        raise UserError(f"{scheme}:// needs a package that is not installed: {how}") from error
    except ValueError as error:
        raise UserError(f"cannot read {url}: {_first_line(error)}") from error
    with _asking(url):
        system.invalidate_cache()
        found = system.find(root, detail=True)
    root = root.rstrip("/")
    keys, stamps = {}, {}
    for key, info in found.items():
        if info.get("type") == "directory" or key.endswith("/"):
            continue
        path = PurePosixPath(key[len(root) :].lstrip("/"))
        keys[path] = key
        stamps[path] = _stamp(url if path == PurePosixPath() else f"{url}/{path}", info)
    if not keys:
        raise UserError(f"there is nothing at {url}")
    return Objects(url, system, keys, stamps)


def _stamp(url: str, info: dict[str, Any]) -> list[Any]:
    """An ETag says more than a time: the same bytes written again are the same object."""
    for name in (*_ETAGS, *_TIMES):
        if value := info.get(name):
            # One file system may say a time as a number in its listing and as a date elsewhere.
            told = value.timestamp() if isinstance(value, datetime) else value
            return [url, info["size"], str(told)]
    raise UserError(
        f"cannot tell whether {url} changes: its storage gives neither an ETag nor a time; "
        "copy the dataset to a file system"
    )


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """Turn what a storage's package raises into one line.

    Each has dozens of types of its own, and all of them mean that this cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"there is nothing at {url}") from error
    except Exception as error:
        raise UserError(f"cannot read {url}: {_first_line(error)[:300]}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
