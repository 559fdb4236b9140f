"""Looking at every file of some folders, without reading weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from lorasweep.features.adapters.adapter import LayerShape, open_adapter
from lorasweep.features.adapters.bases import Base
from lorasweep.features.adapters.errors import BadAdapterError
from lorasweep.features.adapters.locations import component_weights
from lorasweep.features.adapters.matrix import real_file
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import file_stamp
from lorasweep.features.common.progress import Progress
from lorasweep.features.formats.catalogue import PEFT

from .checkpoints import LAST
from .labels import LabelSource, Row, Value
from .locations import AdapterLocation, find_locations

ANY_BASE = "any"
"""Value of `--base` where adapters of several bases are wanted together."""


@dataclass(frozen=True)
class SurveyedAdapter:
    """An adapter that was found.

    Attributes:
        weights: its file, absolute.
        name: its path below the folder that was given.
        folder: name of the folder above it.
        stamp: of the file and of PEFT's configuration, see `file_stamp`.
        base: what is known of the model it was trained on.
        facts: format, algorithm and dtype.
        dora: whether B·A alone is not its update.
        shapes: layer -> (outputs, inputs, rank); shared by adapters that are alike.
        fused: layers whose ranks may be smaller, see `AdapterFile`.
        unread: layer -> what is ignored of it, see `AdapterFile`.
        columns: whatever else is known of it.
        label: None: it has none.
        row: key of its row in a table of labels; None: there is none.
    """

    weights: str
    name: str
    folder: str
    stamp: list[Any]
    base: Base
    facts: dict[str, str]
    dora: bool
    shapes: Mapping[str, LayerShape]
    fused: frozenset[str]
    unread: Mapping[str, set[str]]
    columns: Row
    label: Value | None
    row: str | None

    def has_changed(self) -> bool:
        """Whether its files are others than when it was looked at, by sizes and times: another
        machine may see other inodes."""
        try:
            return any(file_stamp(Path(path))[1:3] != known for path, *known, _, _ in self.stamp)
        except FileNotFoundError:
            return True


@dataclass
class Survey:
    """What is in some folders.

    Attributes:
        found: adapters in order of paths.
        bad: path -> what is wrong with it.
        aside: path -> why it was passed over.
    """

    found: list[SurveyedAdapter] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)

    def of_base(self, asked: str | None) -> list[SurveyedAdapter]:
        """Return the adapters of the bases that are asked for; without any, all, if they may be of
        one base.

        Arguments:
            asked: bases, separated by commas; `any`: all adapters; None: nobody has chosen.

        Raises:
            UserError: they are of several bases and none is chosen, or none is of a chosen one;
                says what there is.
        """
        if asked is None:
            bases = list(dict.fromkeys(item.base for item in self.found))
            if not all(one.goes_with(other) for one, other in combinations(bases, 2)):
                raise UserError(
                    f"the adapters are of several base models ({self._bases()}): choose with "
                    "--base; it takes several, separated by commas, and any"
                )
            return self.found
        if asked == ANY_BASE:
            return self.found
        chosen = []
        names = [name.strip() for name in asked.split(",")]
        for name in names:
            fitting = [item for item in self.found if item.base.is_chosen(name)]
            if not fitting:
                raise UserError(f"no adapter of base {name!r}; there are {self._bases()}")
            chosen += fitting
        certain = Base((names[0],)) if len(names) == 1 else None
        return [
            # An adapter that may be of several bases is of the one that somebody names.
            replace(item, base=certain if certain and len(item.base.names) > 1 else item.base)
            for item in {item.weights: item for item in chosen}.values()
        ]

    def _bases(self) -> str:
        counts = Counter(item.base for item in self.found)
        first = {item.base: item.name for item in reversed(self.found)}
        return "; ".join(
            f"{base.in_words}: {count}, like {first[base]}" for base, count in counts.most_common()
        )


def survey(
    folders: Sequence[Path],
    labels: LabelSource,
    lokr_rank: int,
    on_progress: Progress | None = None,
    checkpoints: str = LAST,
) -> Survey:
    """Look at every file below some folders that may be an adapter's.

    Arguments:
        checkpoints: what `--checkpoints` says.

    Raises:
        UserError: there is none.
    """
    places, aside = find_locations(folders, checkpoints)
    if not places and aside:
        path, reason = next(iter(aside.items()))
        raise UserError(f"no adapter is left: {len(aside)} are passed over; {path} {reason}")
    if not places:
        raise UserError(
            f"no .safetensors, .pt, .pth or .bin file in {', '.join(map(str, folders))}"
        )
    result = Survey(aside=aside)
    known: dict[tuple[Any, ...], Mapping[str, LayerShape]] = {}
    # Threads, because a folder on a network or a cold disk is waited for.
    with ThreadPoolExecutor(16) as pool:
        looked = pool.map(lambda place: _look(place, labels, lokr_rank), places)
        for done, (place, item) in enumerate(zip(places, looked), 1):
            if isinstance(item, str):
                result.bad[str(place.weights)] = item
            else:
                shapes = known.setdefault(tuple(item.shapes.items()), item.shapes)
                result.found.append(_sharing(item, shapes))
            if on_progress:
                on_progress(done, len(places))
    return result


def _sharing(item: SurveyedAdapter, shapes: Mapping[str, LayerShape]) -> SurveyedAdapter:
    return item if item.shapes is shapes else SurveyedAdapter(**{**vars(item), "shapes": shapes})


def _look(place: AdapterLocation, labels: LabelSource, lokr_rank: int) -> SurveyedAdapter | str:
    """What there is to know of an adapter, or why it cannot be used."""
    weights = place.weights
    try:
        files = [real_file(weights)]
        if weights.is_dir():
            files = list(component_weights(weights).values())
        configs = [path.with_name(PEFT.config) for path in files]
        beside = [path for path in (*files, *configs) if path.exists()]
        stamp = [file_stamp(path) for path in beside]
        adapter = open_adapter(weights, lokr_rank)
        names = place.names if labels.rows else ()
        metadata = labels.lookup(names, weights, place.folder, adapter.header)
    except BadAdapterError as error:
        return error.reason
    except (OSError, ValueError) as error:
        return str(error)
    return SurveyedAdapter(
        weights=str(weights),
        name=place.name,
        folder=place.folder,
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
        unread=adapter.unread,
        columns=metadata.columns,
        label=metadata.label,
        row=metadata.row,
    )
