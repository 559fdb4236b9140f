"""The FUSE file system itself; see `mount`."""

from __future__ import annotations

import errno
import os
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import mfusepy

from .mount import KILL, Fault, Operation, pattern_of


class RecordingFiles(mfusepy.Operations):
    """Passes everything on to a folder."""

    use_ns = True

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.operations: list[Operation] = []
        self.fault: Fault | None = None
        self.counted = 0
        self.ready = threading.Event()

    def init(self, path: str) -> None:
        self.ready.set()

    def _place(self, path: str) -> str:
        return self._folder + path

    def _note(self, kind: str, path: str, **details: Any) -> None:
        self.operations.append(Operation(kind, path, by_worker=_caller_is_worker(), **details))

    def _strike(self, kind: str, path: str) -> None:
        """Fail or kill, if it is this operation's turn."""
        fault = self.fault
        if fault is None or kind not in fault.kinds:
            return
        if fault.pattern not in ("", pattern_of(path)) or fault.by_worker != _caller_is_worker():
            return
        self.counted += 1
        if self.counted != fault.number:
            return
        if fault.error == KILL:
            os.kill(_caller(), signal.SIGKILL)
            raise mfusepy.FuseOSError(errno.EINTR)
        raise mfusepy.FuseOSError(fault.error)

    # What changes something

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        self._strike("create", path)
        handle = os.open(self._place(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)
        self._note("create", path, handle=handle)
        return handle

    def open(self, path: str, flags: int) -> int:
        # The kernel says where to write, also if it is the end.
        handle = os.open(self._place(path), flags & ~(os.O_APPEND | os.O_CREAT | os.O_EXCL))
        self._note("open", path, handle=handle)
        if flags & os.O_TRUNC:
            self._note("truncate", path)
        return handle

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._strike("write", path)
        data = bytes(data)
        written = os.pwrite(fh, data, offset)
        self._note("write", path, handle=fh, size=offset, data=data[:written])
        return written

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self._strike("truncate", path)
        os.truncate(self._place(path), length)
        self._note("truncate", path, size=length)
        return 0

    def rename(self, old: str, new: str) -> int:
        self._strike("rename", old)
        os.rename(self._place(old), self._place(new))
        self._note("rename", old, other=new)
        return 0

    def link(self, target: str, source: str) -> int:
        self._strike("link", source)
        os.link(self._place(source), self._place(target))
        self._note("link", source, other=target)
        return 0

    def symlink(self, target: str, source: str) -> int:
        self._strike("symlink", target)
        os.symlink(source, self._place(target))
        self._note("symlink", target, other=source)
        return 0

    def unlink(self, path: str) -> int:
        self._strike("unlink", path)
        os.unlink(self._place(path))
        self._note("unlink", path)
        return 0

    def mkdir(self, path: str, mode: int) -> int:
        self._strike("mkdir", path)
        os.mkdir(self._place(path), mode)
        self._note("mkdir", path)
        return 0

    def rmdir(self, path: str) -> int:
        self._strike("rmdir", path)
        os.rmdir(self._place(path))
        self._note("rmdir", path)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._strike("fsync", path)
        self._note("fsync", path, handle=fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._strike("fsyncdir", path)
        self._note("fsyncdir", path)
        return 0

    # What changes nothing that a cut could take

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._place(path), mode)
        return 0

    def chown(self, path: str, uid: int, gid: int) -> int:
        os.lchown(self._place(path), uid, gid)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self._place(path), ns=times, follow_symlinks=False)
        return 0

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        stat = os.fstat(fh) if fh and path is None else os.lstat(self._place(path))
        names = ("mode", "ino", "nlink", "uid", "gid", "size", "blocks")
        times = {
            f"st_{name}": getattr(stat, f"st_{name}_ns") for name in ("atime", "mtime", "ctime")
        }
        return {**{f"st_{name}": getattr(stat, f"st_{name}") for name in names}, **times}

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        with os.scandir(self._place(path)) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        # Names without an inode number would be taken for removed ones.
        numbered = [(n, {"st_ino": s.st_ino, "st_mode": s.st_mode}, 0) for n, s in found]
        return [(".", {"st_ino": 1}, 0), ("..", {"st_ino": 1}, 0), *numbered]

    def readlink(self, path: str) -> str:
        return os.readlink(self._place(path))

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        stat = os.statvfs(self._place(path))
        names = ("bavail", "bfree", "blocks", "bsize", "favail", "ffree", "files", "frsize")
        return {f"f_{name}": getattr(stat, f"f_{name}") for name in (*names, "namemax")}


def _caller() -> int:
    return mfusepy.fuse_get_context()[2]


def _caller_is_worker() -> bool:
    try:
        return Path(f"/proc/{_caller()}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


def serve(path: str, folder: Path, connection: Connection) -> None:
    """Mount it, and answer what `Mount` asks until it is unmounted."""
    files = RecordingFiles(folder)

    def answer() -> None:
        files.ready.wait()
        connection.send("mounted")
        while True:
            try:
                question = connection.recv()
            except (EOFError, OSError):
                return
            if question == "operations":
                found, files.operations = files.operations, []
                connection.send(found)
            elif question == "counted":
                connection.send(files.counted)
            else:
                files.fault, files.counted = question, 0
                connection.send(None)

    threading.Thread(target=answer, daemon=True).start()
    # Inode numbers are the folder's, and what is removed while it is open is gone.
    options = {"use_ino": True, "hard_remove": True}
    mfusepy.FUSE(files, path, foreground=True, nothreads=True, **options)
