"""Results of a family of configs: where each lies in the network, and its numbers by method."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lorasweep.features.layers.families import own_name
from lorasweep.features.layers.names import OTHER, LayerParts, parse_layer
from lorasweep.features.layers.pairing import layer_name
from lorasweep.sweep.store.sweep_file import SweepFile
from lorasweep.trainables.store.standing import in_order

from .cells import CellResult


@dataclass(frozen=True)
class Member:
    """A config of a family.

    Attributes:
        config: its whole name.
        name: its own, without the family's.
        parts: what the name of its layer says; None where it is not one layer.
        place: where along the network it lies, for axes: `down_blocks.0 · 1`.
        role: what it is there: `attn1.q`; "" where it is not one layer.
    """

    config: str
    name: str
    parts: LayerParts | None
    place: str
    role: str

    @property
    def short(self) -> str:
        """Its name for axes."""
        return f"{self.place}  {self.role}".strip()


@dataclass(frozen=True)
class FamilyResults:
    """A family's complete cells.

    Attributes:
        family: its name.
        members: in the order of the network; those with a complete cell.
        results: method -> config -> numbers; the method with the best member by validation first.
    """

    family: str
    members: list[Member]
    results: dict[str, dict[str, CellResult]]

    def ranks(self, method: str) -> dict[str, int]:
        """Return config -> its place, the best by validation first; see `Standing`."""
        of = self.results[method]
        ordered = in_order({config: result.standing for config, result in of.items()})
        return {config: rank for rank, config in enumerate(ordered, 1)}

    @property
    def places(self) -> list[str]:
        """Where members lie, in the order of the network."""
        return list(dict.fromkeys(member.place for member in self.members))

    @property
    def roles(self) -> list[str]:
        """What members are there, in the order of the network."""
        return list(dict.fromkeys(member.role for member in self.members))


def family_results(family: str, cells: list[CellResult], sweep: SweepFile) -> FamilyResults:
    """A family's complete cells, in the grid's order, put in order."""
    results: dict[str, dict[str, CellResult]] = {}
    for result in cells:
        results.setdefault(result.method, {})[result.config] = result
    ordered = sorted(cells, key=lambda result: result.standing.order)
    configs = list(dict.fromkeys(result.config for result in cells))
    return FamilyResults(
        family,
        _members(family, configs, sweep),
        {result.method: results[result.method] for result in ordered},
    )


_SIDES = {"down": "A (down)", "up": "B (up)"}


def _members(family: str, configs: list[str], sweep: SweepFile) -> list[Member]:
    if family != "each_layer":
        names = {config: own_name(config) for config in configs}
        return [Member(c, name, None, _SIDES.get(name, name), "") for c, name in names.items()]
    declared = sweep.declared["configs"]
    parts = [parse_layer(layer_name(declared[config]["tensors"][0])) for config in configs]
    places, roles = _places(parts), [_role(of) for of in parts]
    # Experts of one layer, say, have the same: then the whole path inside the block tells.
    many = Counter(zip(places, roles))
    twice = {role for (_, role), count in many.items() if count > 1}
    return [
        Member(config, own_name(config), of, place, _inside(of) if role in twice else role)
        for config, of, place, role in zip(configs, parts, places, roles)
    ]


def _places(parts: list[LayerParts]) -> list[str]:
    """Block and numbers, with the component where there are several; numbers that are 0 in every
    layer are left out."""
    several = len({of.component for of in parts}) > 1
    longest = max(len(of.numbers) for of in parts)
    told = [
        i for i in range(longest) if any(of.numbers[i : i + 1] not in ((), (0,)) for of in parts)
    ]
    found = []
    for of in parts:
        numbers = ".".join(str(of.numbers[i]) for i in told if i < len(of.numbers))
        block = of.block or "outside"
        place = f"{of.component} {block}" if several else block
        found.append(f"{place} · {numbers}" if numbers else place)
    return found


def _role(of: LayerParts) -> str:
    module = of.module.split(".")[-1]
    known = of.kind != OTHER and module not in ("", of.projection)
    return f"{module}.{of.projection}" if known else of.projection


def _inside(of: LayerParts) -> str:
    """The path of a layer inside its block."""
    return of.name.partition(f"{of.block}.")[2] if of.block else of.name
