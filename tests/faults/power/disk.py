"""What a power cut may leave of a file system, by what POSIX promises and nothing more.

Promised is, of a file, what was written before its last fsync; of a folder, which names it had at
its last fsync. Everything since may be lost: names of each folder for itself, but in their order;
of a file's bytes, any.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .mount import Operation

_PAGE = 4096


@dataclass
class _File:
    """A file's changes in order, and how many of them are promised.

    A change is (offset, bytes), or (size, None) where it was truncated.
    """

    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    promised: int = 0

    def content(self, count: int | None = None) -> bytearray:
        """What it held after some of its changes; by default, after all."""
        content = bytearray()
        for offset, data in self.changes[:count]:
            size = offset if data is None else max(len(content), offset + len(data))
            content = content[:size].ljust(size, b"\0")
            if data is not None:
                content[offset : offset + len(data)] = data
        return content

    def after_cut(self, rng: random.Random) -> bytes:
        """What may be left of it."""
        old, new = self.content(self.promised), self.content()
        if self.promised == len(self.changes):
            return bytes(new)
        match rng.choice(("old", "new", "torn", "zeros", "pages")):
            case "old":
                return bytes(old)
            case "new":
                return bytes(new)
            case "torn":
                last = rng.randrange(self.promised, len(self.changes))
                offset, data = self.changes[last]
                torn = _File(self.changes[:last])
                if data is not None:
                    torn.changes.append((offset, data[: rng.randrange(len(data) + 1)]))
                return bytes(torn.content())
            case kind:
                # The new size is on disk, but not, or not all of, what was written.
                left = old[: len(new)].ljust(len(new), b"\0")
                if kind == "zeros":
                    return bytes(left)
                for start in range(0, len(new), _PAGE):
                    if rng.random() < 0.5:
                        left[start : start + _PAGE] = new[start : start + _PAGE]
                return bytes(left)


@dataclass
class _Link:
    target: str


@dataclass
class _Folder:
    """A folder's changes in order, each {name: what it means now, or None}."""

    changes: list[dict[str, _Node | None]] = field(default_factory=list)
    promised: int = 0
    names: dict[str, _Node] = field(default_factory=dict)

    def change(self, change: dict[str, _Node | None]) -> None:
        self.changes.append(change)
        _update(self.names, change)

    def after_cut(self, kept: int) -> dict[str, _Node]:
        names: dict[str, _Node] = {}
        for change in self.changes[:kept]:
            _update(names, change)
        return names


_Node = _File | _Folder | _Link


def _update(names: dict[str, _Node], change: dict[str, _Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


class Disk:
    """A file system that was empty, after some operations."""

    def __init__(self) -> None:
        self._root = _Folder()
        self._open: dict[int, _File] = {}

    def apply(self, operations: Iterable[Operation]) -> None:
        """Do what was done."""
        for operation in operations:
            self._apply(operation)

    def content(self, path: str) -> bytes:
        """What a file holds, cut or no cut, as long as there is power."""
        file = self._find(path)
        assert isinstance(file, _File)
        return bytes(file.content())

    def cut(self, folder: Path, rng: random.Random) -> None:
        """Write into an empty folder what may be left if the power is cut now.

        One time in five each, all new names are lost, and all are kept: every combination with what
        is left of files is met.
        """
        names = rng.choice(("lost", "kept", "any", "any", "any"))
        self._write(self._root, folder, names, rng)

    def _write(self, node: _Folder, folder: Path, names: str, rng: random.Random) -> None:
        most = len(node.changes)
        kept = {"lost": node.promised, "kept": most}.get(names, rng.randint(node.promised, most))
        for name, child in node.after_cut(kept).items():
            place = folder / name
            if isinstance(child, _Folder):
                place.mkdir()
                self._write(child, place, names, rng)
            elif isinstance(child, _Link):
                place.symlink_to(child.target)
            else:
                place.write_bytes(child.after_cut(rng))

    def _find(self, path: str) -> _Node:
        node: _Node = self._root
        for name in path.split("/")[1:]:
            if name:
                assert isinstance(node, _Folder)
                node = node.names[name]
        return node

    def _parent(self, path: str) -> tuple[_Folder, str]:
        parent, name = os.path.split(path)
        folder = self._find(parent)
        assert isinstance(folder, _Folder)
        return folder, name

    def _apply(self, operation: Operation) -> None:
        path, handle = operation.path, operation.handle
        match operation.kind:
            case "open" | "create":
                if operation.kind == "create":
                    self._add(path, _File())
                file = self._find(path)
                assert isinstance(file, _File)
                self._open[handle] = file
            case "write":
                self._open[handle].changes.append((operation.size, operation.data))
            case "truncate":
                file = self._find(path)
                assert isinstance(file, _File)
                file.changes.append((operation.size, None))
            case "fsync":
                self._open[handle].promised = len(self._open[handle].changes)
            case "fsyncdir":
                folder = self._find(path)
                assert isinstance(folder, _Folder)
                folder.promised = len(folder.changes)
            case "mkdir":
                self._add(path, _Folder())
            case "symlink":
                self._add(path, _Link(operation.other))
            case "link":
                self._add(operation.other, self._find(path))
            case "unlink" | "rmdir":
                folder, name = self._parent(path)
                folder.change({name: None})
            case "rename":
                self._rename(path, operation.other)

    def _add(self, path: str, node: _Node) -> None:
        folder, name = self._parent(path)
        folder.change({name: node})

    def _rename(self, old: str, new: str) -> None:
        """One change of a folder; from one folder to another, one of each."""
        node = self._find(old)
        (source, old_name), (target, new_name) = self._parent(old), self._parent(new)
        if source is target:
            source.change({old_name: None, new_name: node})
        else:
            source.change({old_name: None})
            target.change({new_name: node})
