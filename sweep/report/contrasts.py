"""Planned contrasts: a kind of row against another, each by its best row by validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lorasweep.features.representations.catalogue import GROUPS
from lorasweep.sweep.request.grid import Entry


@dataclass(frozen=True)
class RowGroup:
    """Some rows of a grid.

    Attributes:
        name: what they have in common.
        holds: whether a row is of them.
    """

    name: str
    holds: Callable[[Entry], bool]


@dataclass(frozen=True)
class Contrast:
    """What is asked of two kinds of rows.

    Attributes:
        question: in a few words.
        first, second: the difference is first − second.
    """

    question: str
    first: RowGroup
    second: RowGroup


def _base(entry: Entry) -> str:
    """A representation without its size and transform."""
    return entry.representation.partition("/")[0].partition(":")[0]


def _among(name: str, bases: Iterable[str]) -> RowGroup:
    chosen = frozenset(bases)
    return RowGroup(name, lambda entry: _base(entry) in chosen)


def _classified_by(name: str, classifier: str) -> RowGroup:
    return RowGroup(name, lambda entry: entry.classifier == classifier)


_AS_STORED = ("flat", "flat_pca")
_INVARIANTS = {name.partition(":")[0] for name in GROUPS["update"]} - {*_AS_STORED, "canonical"}

_NINE = _among("statistics of A and of B", GROUPS["nine"])
_OF_UPDATE = _among("representations of ΔW", _INVARIANTS)
_CANONICAL = _among("canonical factors", ("canonical",))
_STORED = RowGroup(
    "factors as stored", lambda entry: _base(entry) == "flat" and entry.classifier != "gl_net"
)
_EQUIVARIANT = RowGroup(
    "gl_net on factors as stored",
    lambda entry: _base(entry) == "flat" and entry.classifier == "gl_net",
)

CONTRASTS = (
    Contrast("Reading ΔW instead of its factors", _OF_UPDATE, _NINE),
    Contrast("A common basis for the factors", _CANONICAL, _STORED),
    Contrast("Reading ΔW instead of a common basis", _OF_UPDATE, _CANONICAL),
    Contrast("A network that knows the symmetry", _EQUIVARIANT, _STORED),
    Contrast(
        "Fitted directions instead of random ones",
        _among("principal components of ΔW", ("update_pca",)),
        _among("random projections of ΔW", ("update_sketch",)),
    ),
    Contrast(
        "A linear classifier instead of an MLP",
        _classified_by("linear", "linear"),
        _classified_by("mlp", "mlp"),
    ),
)
"""What a report asks of a run, in its order; only what has rows of both kinds is answered."""
