"""Finding representations by what users type."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import replace

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import check_doubles
from lorasweep.features.common.plugins import Origin, check_own_name, load, require_origin

from .base import Representation

GROUP = "lorasweep.representations"
"""The entry points that bring representations."""

_NOT_DECLARING = ("base", "catalogue", "evaluate")


def _built_in() -> dict[str, Representation]:
    """Whatever the modules of this package declare, those of the default grid first."""
    found: dict[str, Representation] = {}
    package = __name__.rpartition(".")[0]
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if info.name not in _NOT_DECLARING:
            module = importlib.import_module(f"{package}.{info.name}")
            declared = [v for v in vars(module).values() if isinstance(v, Representation)]
            found |= {item.name: item for item in declared}
    return dict(sorted(found.items(), key=lambda item: not item[1].default))


REPRESENTATIONS: dict[str, Representation] = _built_in()
"""Every built-in representation by name, in the order of the documentation."""

DEFAULT_REPRESENTATIONS = tuple(name for name, r in REPRESENTATIONS.items() if r.default)


_OF_UPDATES = (
    *("update_spectrum", "update_sketch:128", "channel_norms", "canonical", "flat"),
    *("update_pca:256", "flat_pca:256"),
)

GROUPS: dict[str, tuple[str, ...]] = {
    "nine": DEFAULT_REPRESENTATIONS,
    "update": _OF_UPDATES,
    "all": (*DEFAULT_REPRESENTATIONS, *_OF_UPDATES),
}
"""Names that stand for several representations: those of the default grid; those of whole layers'
updates, one of each; both."""


def expand_groups(references: Sequence[str]) -> tuple[str, ...]:
    """The references, with those of its members where a group is named."""
    return tuple(name for given in references for name in GROUPS.get(given, (given,)))


def get_representation(reference: str) -> Representation:
    """A representation by what a user types: NAME or NAME:SIZE, where NAME is a built-in one, an
    entry point, `package.module:object` or `path/to/file.py:object`.

    Raises:
        UserError: there is none, it cannot be loaded, or its size is wrong.
    """
    name, size = _split_size(reference)
    if name in REPRESENTATIONS:
        return REPRESENTATIONS[name].of_size(size)
    return load_representation(
        require_origin(name, "representation", GROUP, REPRESENTATIONS, GROUPS), size
    )


def load_representation(origin: Origin, size: str | None = None) -> Representation:
    """A user's own representation; its version has the hash of its source.

    Raises:
        UserError: it cannot be loaded, has a built-in one's name, or its size is wrong.
    """
    found = load(origin, "representation", Representation)
    check_own_name(origin, "representation", found.name, REPRESENTATIONS)
    version = f"{found.version}-{origin.digest[:12]}"
    return replace(found, version=version, origin=origin).of_size(size)


def _split_size(reference: str) -> tuple[str, str | None]:
    head, colon, tail = reference.rpartition(":")
    is_size = colon and (head in REPRESENTATIONS or tail[:1].isdigit())
    return (head, tail) if is_size else (reference, None)


def get_representations(references: Sequence[str]) -> list[Representation]:
    """Several of them, `GROUPS` among them; a `UserError` if there are none or two have the same
    name."""
    if not references:
        raise UserError(f"no representation given; choose from {', '.join(REPRESENTATIONS)}")
    found = [get_representation(reference) for reference in expand_groups(references)]
    check_doubles("representation", [item.name for item in found])
    return found


def stored_representations(wanted: Iterable[Representation]) -> list[Representation]:
    """What must be computed so that all wanted ones can be read, without doubles."""
    return list({part.name: part for item in wanted for part in item.stored}.values())
