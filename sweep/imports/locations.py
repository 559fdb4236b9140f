"""Which adapters lie below some folders, and what they are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorasweep.features.adapters.errors import BadAdapterError
from lorasweep.features.adapters.locations import FOLDER_WEIGHTS, find_candidates


@dataclass(frozen=True)
class AdapterLocation:
    """Where an adapter lies.

    Attributes:
        root: the folder that was given, absolute.
        weights: its file below it.
        adapter: that file, or the folder that it stands for.
        above: the folder that its name is relative to.
    """

    root: Path
    weights: Path
    adapter: Path
    above: Path

    @property
    def name(self) -> str:
        """Its path below the folder that was given; no other one's."""
        return self.adapter.relative_to(self.above).as_posix()

    @property
    def folder(self) -> str:
        """Name of the folder above it."""
        return self.adapter.parent.name if self.adapter != self.root else self.adapter.name

    @property
    def names(self) -> tuple[str, ...]:
        """What a table may call it, the surest first: paths, as `find` prints them, too."""
        both = (self.weights, self.adapter)
        paths = [
            os.path.relpath(path, start)
            for start in (self.above, self.root, Path.cwd())
            for path in both
        ]
        return (*map(str, both), *paths, self.adapter.name, self.weights.name, self.adapter.stem)


def find_locations(folders: Sequence[Path]) -> tuple[list[AdapterLocation], dict[str, str]]:
    """The adapters below some folders in order of paths, each once, and path -> why it was passed
    over.

    Raises:
        BadAdapterError: a folder's matrices cannot be read.
    """
    # Not resolved: what the hub downloads are links to files without a suffix.
    roots = list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in folders))
    found: dict[str, tuple[Path, Path]] = {}  # by real paths
    aside: dict[str, str] = {}
    for root in roots:
        for path, reason, problem in find_candidates(root):
            if reason:
                aside[str(path)] = reason
                continue
            if problem:
                raise BadAdapterError(path, problem)
            real = os.path.realpath(path)
            _, first = found.setdefault(real, (root, path))
            if found[real] != (root, path):
                same = f"is the same file as {first}"
                aside[str(path)] = "lies in several of the folders" if first == path else same
    alone = Counter(path.parent for _, path in found.values())
    return [
        AdapterLocation(root, path, adapter, _above(root, roots, adapter))
        for root, path in found.values()
        for stands in [path.name in FOLDER_WEIGHTS and alone[path.parent] == 1]
        for adapter in [path.parent if stands else path]
    ], aside


def _above(root: Path, roots: Sequence[Path], adapter: Path) -> Path:
    if len({one.name for one in roots}) < len(roots):
        return Path(os.path.commonpath([one.parent for one in roots]))
    return root.parent if len(roots) > 1 or adapter == root else root
