"""Plug-ins: found by name, known by a hash of their source, loaded from a copy.

A reference is `package.module:object`, `path/to/file.py:object`, or the name of an entry point.
The source of an object is every .py file under its package's top folder, or its file and the
siblings it imports. Its hash is part of all that depends on it, so that an edit counts as another
version. Workers load it from a copy, by path: an object pickled from a file would not be found by
them, and a file that is edited during a sweep would give two kinds of numbers.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import re
import shutil
import sys
import traceback
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from .errors import UserError
from .files import fsync_path, write_atomic
from .names import nearest
from .old_plugins import imports_old_names, old_names

T = TypeVar("T")

_OURS = "lorasweep"

_FILE = re.compile(r"(?P<file>.+\.py):(?P<object>[A-Za-z_]\w*)")
_MODULE = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<object>[A-Za-z_]\w*)")


class PluginError(UserError):
    """A user's own code cannot be loaded; `traceback` says where it failed."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.traceback = trace


@dataclass(frozen=True)
class Origin:
    """Where an object that is not built in comes from.

    Attributes:
        root: the folder its files lie in: that of the package or of the file.
        module: dotted name within the root.
        object: its name in the module.
        digest: xxh3-128 over the relative paths and contents of its source files.
    """

    root: Path
    module: str
    object: str
    digest: str

    @property
    def reference(self) -> str:
        """`path/to/file.py:object`, which leads to it again."""
        path = self.root / Path(*self.module.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        return f"{file}:{self.object}"

    def copied(self, folder: Path) -> Origin:
        """The same in folder/<digest>, copied there unless it is there already."""
        target = folder / self.digest
        if not target.exists():
            partial = folder / f".{self.digest}.{os.getpid()}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            for name in source_files(self.root, self.module):
                content = (self.root / name).read_bytes()
                write_atomic(partial / name, lambda file: file.write(content))
            try:
                os.replace(partial, target)
                fsync_path(folder)
            except OSError:  # somebody else was faster
                shutil.rmtree(partial, ignore_errors=True)
        return Origin(target, self.module, self.object, self.digest)

    def to_json(self) -> dict[str, str]:
        """As a JSON object."""
        return {
            "root": str(self.root),
            "module": self.module,
            "object": self.object,
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, str]) -> Origin:
        """From what `to_json` gave."""
        return cls(Path(value["root"]), value["module"], value["object"], value["digest"])


# Finding


def require_origin(
    reference: str, kind: str, group: str, known: Collection[str], hints: Iterable[str] = ()
) -> Origin:
    """The source behind what is no built-in thing's name.

    Arguments:
        kind: of things, for messages.
        group: of entry points.
        known: names of the built-in things.
        hints: what else may have been meant.

    Raises:
        UserError: there is no such thing.
    """
    origin = find_origin(reference, group)
    if origin is None:
        hint = nearest(reference, [*known, *hints]) or ":"
        raise UserError(f"unknown {kind} {reference!r}{hint} known are {', '.join(known)}")
    return origin


def check_own_name(origin: Origin, kind: str, name: str, known: Collection[str]) -> None:
    """Raise a `UserError` if what a user brings has a built-in thing's name."""
    if name in known:
        raise UserError(f"{origin.reference}: the name {name!r} is that of a built-in {kind}")


def find_origin(reference: str, group: str) -> Origin | None:
    """The source behind a reference, without running it; None if it is none.

    Raises:
        UserError: it has the form of one, and there is no such file or package.
    """
    from importlib.metadata import entry_points  # slow to import, and help does not need it

    entry = next(iter(entry_points(group=group, name=reference)), None)
    if entry is not None:
        reference = entry.value
    if match := _FILE.fullmatch(reference):
        file = Path(match["file"]).expanduser().absolute()
        if not file.is_file():
            raise UserError(f"{reference}: there is no file {file}")
        root, parts = file.parent, [] if file.name == "__init__.py" else [file.stem]
        while (root / "__init__.py").exists():
            parts.insert(0, root.name)
            root = root.parent
    elif match := _MODULE.fullmatch(reference):
        parts = match["module"].split(".")
        found = _top_folder(parts[0])
        if found is None:
            raise UserError(f"{reference}: there is no package {parts[0]!r} to import")
        root = found
    else:
        return None
    module = ".".join(parts)
    return Origin(root, module, match["object"], source_digest(root, module))


def _top_folder(name: str) -> Path | None:
    """The folder that a top-level package or module lies in."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin)
    return file.parent.parent if file.name == "__init__.py" else file.parent


def source_files(root: Path, module: str) -> list[Path]:
    """The source of a module, relative to its root, sorted."""
    top = module.split(".")[0]
    if (root / top).is_dir():
        found = [file.relative_to(root) for file in (root / top).rglob("*.py")]
        return sorted(file for file in found if not any(part[0] == "." for part in file.parts))
    found, todo = [], [Path(f"{top}.py")]
    while todo:
        file = todo.pop()
        if file in found or not (root / file).is_file():
            continue
        found.append(file)
        for name in {name.split(".")[0] for name in _imported(root / file)} - {_OURS}:
            if (root / name / "__init__.py").is_file():
                todo += [f.relative_to(root) for f in (root / name).rglob("*.py")]
            todo.append(Path(f"{name}.py"))
    return sorted(found)


def _imported(file: Path) -> set[str]:
    """Dotted names of the modules that a file imports, relative ones left out."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return set()  # loading it will say so
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def source_digest(root: Path, module: str) -> str:
    """xxh3-128 over the relative paths and contents of a module's source files."""
    hasher = xxhash.xxh3_128()
    for name in source_files(root, module):
        content = (root / name).read_bytes()
        hasher.update(f"{name.as_posix()} {len(content)};".encode())
        hasher.update(content)
    return hasher.hexdigest()


# Loading


def load(origin: Origin, kind: str, expected: type[T]) -> T:
    """The object itself; its module is run once per process and content.

    Arguments:
        kind: "a representation", for messages.

    Raises:
        PluginError: its module fails, has no such object, or the object is of another kind.
    """
    found = _attribute(origin)
    if not isinstance(found, expected):
        raise PluginError(f"{origin.reference} is no {kind} but {_article(type(found).__name__)}")
    return found


@cache
def _attribute(origin: Origin) -> Any:
    files = source_files(origin.root, origin.module)
    tops = {name.parts[0].removesuffix(".py") for name in files}
    _forget(tops, origin.root)
    imported = {name for file in files for name in _imported(origin.root / file)}
    old = imports_old_names(imported)
    sys.path.insert(0, str(origin.root))
    importlib.invalidate_caches()
    try:
        with old_names(origin.root, tops) if old else nullcontext():
            module = importlib.import_module(origin.module)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        trace = traceback.format_exc()
        reason = (str(error).splitlines() or [""])[0]
        raise PluginError(
            f"{origin.reference} cannot be loaded: {type(error).__name__}: {reason}", trace
        ) from error
    finally:
        # What it imports later, it finds behind everything else.
        sys.path.remove(str(origin.root))
        if str(origin.root) not in sys.path:
            sys.path.append(str(origin.root))
    if not hasattr(module, origin.object):
        hint = nearest(origin.object, [name for name in vars(module) if name[0] != "_"])
        raise PluginError(f"{origin.reference}: the module has no {origin.object!r}{hint}")
    return getattr(module, origin.object)


def _forget(tops: Iterable[str], root: Path) -> None:
    """Have modules of these names imported anew, if they are there from another place."""
    for top in tops:
        if top == _OURS:
            raise PluginError(f"{root / top}.py has the name of this program: rename it")
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            file = getattr(sys.modules[name], "__file__", None)
            if file is None or not Path(file).is_relative_to(root):
                if top in sys.stdlib_module_names:
                    raise PluginError(
                        f"{root / top}.py has the name of a module of Python's: rename it"
                    )
                del sys.modules[name]


def _article(name: str) -> str:
    return f"an object of type {name}"
