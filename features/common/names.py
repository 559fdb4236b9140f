"""Checking names a user typed against the known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from .errors import UserError


def nearest(name: str, known: Iterable[str]) -> str:
    """`: did you mean 'X'?` with the most similar known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f": did you mean {near[0]!r}?" if near else ""


def check_names(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Raise a `UserError` naming the nearest known name if one of `names` is unknown or doubled."""
    known = list(known)
    if not names:
        raise UserError(f"no {what} given; choose from {', '.join(known)}")
    for name in names:
        if name not in known:
            raise UserError(
                f"unknown {what} {name!r}{nearest(name, known) or ':'} known are {', '.join(known)}"
            )
    check_doubles(what, names)


def check_doubles(what: str, names: Sequence[str]) -> None:
    """Raise a `UserError` if one of `names` is there twice."""
    known: set[str] = set()
    for name in names:
        if name in known:
            raise UserError(f"{what} {name!r} is given twice")
        known.add(name)


def abbreviate(names: Sequence[str], most: int = 5) -> str:
    """The first few names, for a message."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
