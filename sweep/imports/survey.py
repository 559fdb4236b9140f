"""Looking at every file of some folders, without reading weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.adapter_files.adapter import LayerShape, open_adapter
from features.adapter_files.errors import BadAdapterError
from features.adapter_files.matrix import real_file
from features.adapter_files.places import PEFT_CONFIG, adapter_place, walk_weights
from features.core.errors import UserError
from features.core.files import file_stamp

from .labels import LabelSource, Row, Value

Progress = Callable[[int, int], None]

_VAGUE = ("sd-1-or-2", "unet", "text-encoder", "transformer", "llm", "unknown")
"""Bases of adapters that do not show more; they are taken for the one base that others show."""


@dataclass(frozen=True)
class Found:
    """An adapter that was found.

    Attributes:
        weights: its file, absolute.
        name: its path below the folder that was given.
        folder: name of the folder above it.
        stamp: of the file and of PEFT's configuration, see `file_stamp`.
        base: the model it was trained on.
        facts: format, algorithm and dtype.
        dora: whether B·A alone is not its update.
        shapes: layer -> (outputs, inputs, rank); shared by adapters that are alike.
        fused: layers whose ranks may be smaller, see `AdapterFile`.
        columns: whatever else is known of it.
        label: None: it has none.
    """

    weights: str
    name: str
    folder: str
    stamp: list[Any]
    base: str
    facts: dict[str, str]
    dora: bool
    shapes: Mapping[str, LayerShape]
    fused: frozenset[str]
    columns: Row
    label: Value | None


@dataclass
class Survey:
    """What is in some folders.

    Attributes:
        found: adapters in order of paths.
        bad: path -> what is wrong with it.
    """

    found: list[Found] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)

    def of_base(self, base: str | None) -> list[Found]:
        """The adapters of one base.

        Raises:
            UserError: there are several and none is chosen, or none of the one that is; says what
                there is.
        """
        counts = Counter(item.base for item in self.found)
        definite = [name for name in counts if name not in _VAGUE]
        chosen = base
        if chosen is None:
            if len(definite) > 1 or (not definite and len(counts) > 1):
                raise UserError(
                    f"the adapters are of several base models ({self._bases()}): choose one with "
                    "--base"
                )
            chosen = definite[0] if definite else next(iter(counts))
        elif chosen not in counts:
            raise UserError(f"no adapter of base {chosen!r}; there are {self._bases()}")
        vague = _VAGUE if definite == [chosen] else ()
        return [item for item in self.found if item.base == chosen or item.base in vague]

    def _bases(self) -> str:
        counts = Counter(item.base for item in self.found)
        first = {item.base: item.name for item in reversed(self.found)}
        return "; ".join(
            f"{name}: {count}, like {first[name]}" for name, count in counts.most_common()
        )


def survey(
    folders: Sequence[Path],
    labels: LabelSource,
    lokr_rank: int,
    on_progress: Progress | None = None,
) -> Survey:
    """Look at every file below some folders that may be an adapter's.

    Raises:
        UserError: there is none.
    """
    # Not resolved: what the hub downloads are links to files without a suffix.
    roots = [Path(os.path.abspath(folder)) for folder in folders]
    files = [(root, weights) for root in roots for weights in walk_weights(root)]
    if not files:
        raise UserError(
            f"no .safetensors, .pt, .pth or .bin file in {', '.join(map(str, folders))}"
        )
    result = Survey()
    known: dict[tuple[Any, ...], Mapping[str, LayerShape]] = {}
    # Threads, because a folder on a network or a cold disk is waited for.
    with ThreadPoolExecutor(16) as pool:
        several = len(folders) > 1
        looked = pool.map(lambda f: _look(f[0], f[1], labels, lokr_rank, several=several), files)
        for done, ((_, weights), item) in enumerate(zip(files, looked), 1):
            if isinstance(item, str):
                result.bad[str(weights)] = item
            else:
                shapes = known.setdefault(tuple(item.shapes.items()), item.shapes)
                result.found.append(_sharing(item, shapes))
            if on_progress:
                on_progress(done, len(files))
    return result


def _sharing(item: Found, shapes: Mapping[str, LayerShape]) -> Found:
    return item if item.shapes is shapes else Found(**{**vars(item), "shapes": shapes})


def _look(
    root: Path, weights: Path, labels: LabelSource, lokr_rank: int, *, several: bool
) -> Found | str:
    """What there is to know of an adapter, or why it cannot be used."""
    try:
        beside = [
            path for path in (real_file(weights), weights.with_name(PEFT_CONFIG)) if path.exists()
        ]
        stamp = [file_stamp(path) for path in beside]
        adapter = open_adapter(weights, lokr_rank)
        place = adapter_place(weights)
        folder = place.parent.name if place != root else place.name
        below = weights.relative_to(root.parent if several or place == root else root)
        name = (below.parent if place != weights else below).as_posix()
        names = (
            *(below.as_posix(), name, weights.relative_to(root).as_posix()),
            *(place.relative_to(root).as_posix(), place.name, weights.name, place.stem),
            str(weights),
        )
        columns = labels.columns(names, weights, adapter.header)
    except BadAdapterError as error:
        return error.reason
    except (OSError, ValueError) as error:
        return str(error)
    return Found(
        weights=str(weights),
        name=name,
        folder=folder,
        stamp=stamp,
        base=adapter.base,
        facts={
            "format": adapter.format,
            "algorithm": "+".join(adapter.algorithms),
            "dtype": "+".join(adapter.dtypes),
        },
        dora=adapter.dora,
        shapes=adapter.shapes,
        fused=adapter.fused,
        columns=columns,
        label=labels.label(columns, folder, adapter.header),
    )
