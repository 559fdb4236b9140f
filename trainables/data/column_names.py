"""What the columns of a feature matrix are called, and which of them belong together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lorasweep.features.layers.names import parse_tensor

LONGEST_FAMILY = 16
"""So many values NAME_1, NAME_2, … (or NAME_1_1, …) of a layer are kinds of their own; more are one
kind, NAME."""

Group = NDArray[np.int64]
"""Ascending indices of columns."""

_STEM = re.compile(r"(.+?)(?:_\d+)+")
_NUMBERED = re.compile(r"(.+?)(?:_(0|[1-9]\d*))?_(0|[1-9]\d*)")


@dataclass(frozen=True)
class ColumnNames:
    """Names of a feature matrix's columns.

    Attributes:
        columns: layer tensors, or layers, in the matrix's order.
        values: of each of them, a name for every value.
    """

    columns: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @property
    def count(self) -> int:
        """Columns of the matrix."""
        return sum(map(len, self.values))

    def name(self, index: int) -> tuple[str, str]:
        """(layer tensor or layer, value) of one of the matrix's columns."""
        for column, names in zip(self.columns, self.values):
            if index < len(names):
                return column, names[index]
            index -= len(names)
        raise IndexError("the matrix has no such column")

    @cached_property
    def by_layer(self) -> dict[str, Group]:
        """Layer -> its columns: those of both of its tensors."""
        layers = [layer_of(column) for column in self.columns]
        known = {name: i for i, name in enumerate(dict.fromkeys(layers))}
        codes = np.repeat([known[layer] for layer in layers], list(map(len, self.values)))
        return dict(zip(known, _groups(codes, len(known))))

    @cached_property
    def by_kind(self) -> dict[str, Group]:
        """Kind of value -> its columns in all layers; see `kinds`."""
        lists = list(dict.fromkeys(self.values))
        found = kinds(lists)
        known = {
            name: i for i, name in enumerate(dict.fromkeys(found[n] for of in lists for n in of))
        }
        coded = {of: np.array([known[found[name]] for name in of], dtype=np.int64) for of in lists}
        codes = np.concatenate([coded[of] for of in self.values])
        return dict(zip(known, _groups(codes, len(known))))


def layer_of(column: str) -> str:
    """The layer that a layer tensor is of; a layer is its own."""
    parsed = parse_tensor(column)
    return parsed.layer if parsed else column


def kinds(lists: Iterable[tuple[str, ...]]) -> dict[str, str]:
    """Value name -> its kind: the name itself; of a long family without its number.

    The first singular value of one layer is like that of another; the 700th output channel is not,
    and there may be thousands of them. The longest family of any list decides.

    Arguments:
        lists: the names of a column's values, for every kind of column there is.
    """
    stems: dict[str, str] = {}
    longest: Counter[str] = Counter()
    for names in lists:
        matches = {name: _STEM.fullmatch(name) for name in names}
        stems |= {name: match[1] if match else "" for name, match in matches.items()}
        for stem, count in Counter(match[1] for match in matches.values() if match).items():
            longest[stem] = max(longest[stem], count)
    return {
        name: stem if stem and longest[stem] > LONGEST_FAMILY else name
        for name, stem in stems.items()
    }


def _groups(codes: NDArray[np.int64], count: int) -> list[Group]:
    """The indices of every code from 0 to count − 1."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.searchsorted(codes[order], np.arange(1, count)))


# As JSON


def names_to_json(values: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    """Lists of names, each once and numbered runs shortened, and which column has which list."""
    lists = {names: i for i, names in enumerate(dict.fromkeys(values))}
    return {"lists": list(map(_shortened, lists)), "columns": [lists[names] for names in values]}


def names_from_json(value: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    """What `names_to_json` was given."""
    lists = [tuple(_spelled_out(names)) for names in value["lists"]]
    return tuple(lists[i] for i in value["columns"])


def _shortened(names: tuple[str, ...]) -> list[Any]:
    """A name is itself; NAME_3, NAME_4, NAME_5 are [NAME, [3, 3]], a stem, the first number and how
    many; NAME_1_7, NAME_1_8, NAME_2_7, NAME_2_8 are [NAME, [1, 2], [7, 2]]."""
    parsed = [_parsed(name) for name in names]
    found: list[Any] = []
    at = 0
    while at < len(names):
        name = parsed[at]
        if name is None:
            found.append(names[at])
            at += 1
            continue
        stem, outer, inner = name
        width = _run(parsed, at, 1, lambda i: [(stem, outer, inner + i)])
        height = 1
        if outer is not None:
            row = range(inner, inner + width)
            height = _run(parsed, at, width, lambda i: [(stem, outer + i, j) for j in row])
        sizes = [[inner, width]] if outer is None else [[outer, height], [inner, width]]
        found.append([stem, *sizes])
        at += width * height
    return found


Parsed = tuple[str, int | None, int]


def _parsed(name: str) -> Parsed | None:
    match = _NUMBERED.fullmatch(name)
    if match is None:
        return None
    return match[1], None if match[2] is None else int(match[2]), int(match[3])


def _run(
    parsed: list[Parsed | None], at: int, step: int, expected: Callable[[int], list[Parsed]]
) -> int:
    """How many times `step` names after another are those that are expected, from `at` on."""
    count = 1
    while parsed[at + count * step : at + (count + 1) * step] == expected(count):
        count += 1
    return count


def _spelled_out(names: list[Any]) -> Iterable[str]:
    for item in names:
        if isinstance(item, str):
            yield item
        else:
            stem, *sizes = item
            ranges = (range(first, first + count) for first, count in sizes)
            yield from ("_".join([stem, *map(str, of)]) for of in product(*ranges))
