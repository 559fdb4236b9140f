"""Families of layer configs: names that stand for many configs of the dataset at hand.

A member is called FAMILY:OWN NAME. Whoever lists configs shows a family as one block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import digest

from .names import canonical_name, network_order, parse_layer
from .pairing import is_down, layer_name

_LONGEST = 180
"""Bytes of a config's name: with a seed's or a temporary file's, file systems take 255."""
_DIGITS = 8


@dataclass(frozen=True)
class ConfigFamily:
    """Configs that part the layer tensors of a dataset among them. Made by `family`.

    Attributes:
        name: what users type and what members' names begin with.
        version: part of trial fingerprints.
        own_name: the member that a layer tensor of this name belongs to, without the family's name.
        doc: one line of documentation.
        noun: what a member is called, for headings.
    """

    name: str
    version: str
    own_name: Callable[[str], str]
    doc: str
    noun: str

    def members(self, tensors: Iterable[str]) -> dict[str, list[str]]:
        """Name of every member -> its layer tensors in sorted order; in the order of the network.

        Arguments:
            tensors: all layer tensors of the dataset.
        """
        found: dict[str, list[str]] = {}
        for tensor in sorted(tensors, key=_tensor_order):
            found.setdefault(self.own_name(tensor), []).append(tensor)
        return {_short(f"{self.name}:{own}"): sorted(of) for own, of in found.items()}

    def member_version(self, tensors: Iterable[str]) -> str:
        """Part of its trials' fingerprints. Names may be read better one day: a member that has
        other tensors then is another one."""
        return f"{self.version}-{digest(list(tensors))[:12]}"


def family(name: str, *, version: int, noun: str) -> Callable[[Callable[[str], str]], ConfigFamily]:
    """Declare a function from a layer tensor's name to its member's as a family.

    Arguments:
        version: raise it when members' trials are to run again.
        noun: what a member is called.
    """

    def declare(own_name: Callable[[str], str]) -> ConfigFamily:
        doc = ((own_name.__doc__ or "").strip().splitlines() or [""])[0]
        return ConfigFamily(name, str(version), own_name, doc, noun)

    return declare


def _tensor_order(tensor: str) -> tuple[object, ...]:
    layer = layer_name(tensor)
    return network_order(layer), layer, not is_down(tensor)


def _short(name: str) -> str:
    """A name that fits into a path; what is cut off stays told apart by a digest."""
    if len(name.encode()) <= _LONGEST:
        return name
    head = name.encode()[: _LONGEST - _DIGITS - 1].decode(errors="ignore")
    return f"{head}~{digest(name)[:_DIGITS]}"


@family("each_layer", version=1, noun="layer")
def each_layer(tensor: str) -> str:
    """Every layer alone, both of its tensors."""
    return canonical_name(layer_name(tensor))


@family("each_block", version=1, noun="block")
def each_block(tensor: str) -> str:
    """Every block alone; what a component has outside of its blocks counts as one."""
    parts = parse_layer(layer_name(tensor))
    return f"{parts.component}.{parts.block or 'no_block'}"


@family("each_side", version=1, noun="side")
def each_side(tensor: str) -> str:
    """A (down) of all layers, and B (up) of all layers."""
    return "down" if is_down(tensor) else "up"


FAMILIES = {item.name: item for item in (each_layer, each_block, each_side)}
"""Every family whose members the names of a dataset's layer tensors decide."""


WITHOUT_TOP = "without_top"
"""`without_top:K` is all layers but the best K: a family whose members are asked for one by one and
whose layers a run decides, for every label its own."""


def without_count(config: str) -> int | None:
    """K of `without_top:K`; None of any other config.

    Raises:
        UserError: K is no number above 0.
    """
    name, _, count = config.partition(":")
    if name != WITHOUT_TOP:
        return None
    if not (count.isdecimal() and count.isascii() and count == str(int(count)) and int(count)):
        raise UserError(
            f"layer config {config!r}: need how many layers to leave out, as in {WITHOUT_TOP}:4"
        )
    return int(count)


def with_deciding(names: list[str], tensors: Collection[str]) -> list[str]:
    """Names of configs and families, and before the first `without_top:K` the family that decides
    it, if that is not named.

    Arguments:
        tensors: all layer tensors of the dataset; none: they are not known.

    Raises:
        UserError: a K is no number, or leaves no layer.
    """
    counts = [without_count(name) or 0 for name in names]
    if not any(counts):
        return names
    layers = len(each_layer.members(tensors))
    if tensors and max(counts) >= layers:
        raise UserError(
            f"layer config '{WITHOUT_TOP}:{max(counts)}': the dataset has {layers} layers, and "
            "some must be left"
        )
    if each_layer.name in names:
        return names
    first = next(i for i, count in enumerate(counts) if count)
    return [*names[:first], each_layer.name, *names[first:]]


def family_of(config: str) -> str | None:
    """The family that a config is a member of, by its name; None: of none."""
    name, colon, _ = config.partition(":")
    return name if colon and (name in FAMILIES or name == WITHOUT_TOP) else None


def own_name(config: str) -> str:
    """A member's name without its family's."""
    return config.partition(":")[2]


def noun_of(family: str) -> str:
    """What a family's member is called, for headings."""
    return FAMILIES[family].noun if family in FAMILIES else "left out"
