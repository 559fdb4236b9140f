"""Checking names a user typed against the known ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from .errors import UserError


def check_names(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Raise a `UserError` naming the nearest known name if one of `names` is unknown or doubled."""
    known = list(known)
    if not names:
        raise UserError(f"no {what} given; choose from {', '.join(known)}")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"unknown {what} {name!r}: {hint}known are {', '.join(known)}")
        if list(names).count(name) > 1:
            raise UserError(f"{what} {name!r} is given twice")
