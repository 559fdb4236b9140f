"""Which adapters lie below some folders, and what they are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorasweep.features.adapters.adapter import open_adapter
from lorasweep.features.adapters.errors import BadAdapterError
from lorasweep.features.adapters.locations import find_candidates, join_components
from lorasweep.features.formats.catalogue import FOLDER_WEIGHTS

from .checkpoints import LAST, passed_over, run_of


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
        """Name of the folder above it; of a checkpoint above its run."""
        place = self.adapter
        run = run_of(place)
        place = place if run is None or place == self.root else run
        return place.parent.name if place != self.root else place.name

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


def find_locations(
    folders: Sequence[Path], checkpoints: str = LAST
) -> tuple[list[AdapterLocation], dict[str, str]]:
    """The adapters below some folders in order of paths, each once, and path -> why it was passed
    over.

    Arguments:
        checkpoints: what `--checkpoints` says.

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
    neighbours = _no_adapters([path for _, path in found.values()])
    aside |= {str(path): reason for path, reason in neighbours.items()}
    own = [(root, path) for root, path in found.values() if path not in neighbours]
    joined = join_components([path for _, path in own])
    own = list({joined[path]: (root, joined[path]) for root, path in own}.values())
    alone = Counter(path.parent for _, path in own)
    places = [
        AdapterLocation(root, path, adapter, _above(root, roots, adapter))
        for root, path in own
        for stands in [path.name in FOLDER_WEIGHTS and alone[path.parent] == 1]
        for adapter in [path.parent if stands else path]
    ]
    earlier = passed_over([place.adapter for place in places], checkpoints)
    aside |= {str(path): reason for path, reason in earlier.items()}
    return [place for place in places if place.adapter not in earlier], aside


def _no_adapters(paths: Sequence[Path]) -> dict[Path, str]:
    """Files beside the adapter that a folder stands for and that are none -> why.

    They decide neither layout nor labels: a value head, the rest of what was trained.
    """
    folders = {path.parent for path in paths if path.name in FOLDER_WEIGHTS}
    reasons = {}
    for path in paths:
        if path.parent in folders and path.name not in FOLDER_WEIGHTS:
            try:
                open_adapter(path)
            except BadAdapterError as error:
                reasons[path] = f"lies beside an adapter, and is none: {error.reason}"
    return reasons


def _above(root: Path, roots: Sequence[Path], adapter: Path) -> Path:
    if len({one.name for one in roots}) < len(roots):
        return Path(os.path.commonpath([one.parent for one in roots]))
    return root.parent if len(roots) > 1 or adapter == root else root
