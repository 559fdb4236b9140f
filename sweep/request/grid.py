"""The grid: every (config, representation, classifier, seed, fold) that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from lorasweep.features.layers.families import FAMILIES, family_of
from lorasweep.trainables.store.trial_key import DEFAULT_CLASSIFIER, TrialKey, method_name


class Entry(NamedTuple):
    """A representation and the classifier that sees it."""

    representation: str
    classifier: str = DEFAULT_CLASSIFIER

    @property
    def method(self) -> str:
        """What it is called: `spectral`, `spectral@linear`."""
        return method_name(*self)


Cell = tuple[str, str]
"""(config, method): what the seeds of a trial share."""


@dataclass(frozen=True)
class Grid:
    """What a run asks for.

    Attributes:
        entries: in the order results list them.
        configs: layer configs.
        seeds: ascending.
        unseeded: classifiers that no seed changes; of them one trial is run, with the first seed.
        left_out: cells that make no sense: their classifier cannot read their features.
        folds: those of the split; none where a seed has one trial.
    """

    entries: tuple[Entry, ...]
    configs: tuple[str, ...]
    seeds: tuple[int, ...]
    unseeded: tuple[str, ...] = ()
    left_out: tuple[Cell, ...] = ()
    folds: tuple[str, ...] = ()

    @cached_property
    def by_method(self) -> dict[str, Entry]:
        """Method -> entry."""
        return {entry.method: entry for entry in self.entries}

    @property
    def representations(self) -> list[str]:
        """Every representation of an entry."""
        return list(dict.fromkeys(entry.representation for entry in self.entries))

    @property
    def classifiers(self) -> list[str]:
        """Every classifier of an entry."""
        return list(dict.fromkeys(entry.classifier for entry in self.entries))

    @cached_property
    def cells(self) -> list[Cell]:
        """(config, method), configs outermost."""
        cells = [(config, entry.method) for config in self.configs for entry in self.entries]
        left_out = set(self.left_out)
        return [cell for cell in cells if cell not in left_out]

    @cached_property
    def _methods_of(self) -> dict[str, list[str]]:
        methods: dict[str, list[str]] = {config: [] for config in self.configs}
        for config, method in self.cells:
            methods[config].append(method)
        return methods

    def methods_of(self, config: str) -> list[str]:
        """Methods of a config's cells."""
        return self._methods_of[config]

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """What is shown as one block -> its configs: families with their members, and every other
        config by itself."""
        groups: dict[str, list[str]] = {}
        for config in self.configs:
            groups.setdefault(family_of(config) or config, []).append(config)
        return groups

    @property
    def families(self) -> dict[str, list[str]]:
        """Family -> its members in the grid."""
        return {name: of for name, of in self.groups.items() if family_of(of[0])}

    @property
    def asked_configs(self) -> list[str]:
        """What users type for its configs: of a family whose members the dataset decides its
        name."""
        return [
            name
            for family, configs in self.groups.items()
            for name in ([family] if family in FAMILIES else configs)
        ]

    @property
    def ordinary_configs(self) -> list[str]:
        """Configs that are of no family."""
        return [config for config in self.configs if family_of(config) is None]

    def seeds_of(self, method: str) -> tuple[int, ...]:
        """The seeds that an entry is run with."""
        alone = self.by_method[method].classifier in self.unseeded
        return self.seeds[:1] if alone else self.seeds

    def keys_of(self, cell: Cell) -> list[TrialKey]:
        """The trials of a cell: by seed, and of a seed by fold."""
        config, method = cell
        representation, classifier = self.by_method[method]
        return [
            TrialKey(config, representation, seed, classifier, fold)
            for seed in self.seeds_of(method)
            for fold in self.folds or ("",)
        ]

    @cached_property
    def keys(self) -> list[TrialKey]:
        """Every trial, seeds innermost, so that a worker's next trial can reuse its matrix."""
        return [key for cell in self.cells for key in self.keys_of(cell)]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; folds stand in it only where there are some."""
        value = {
            "entries": [list(entry) for entry in self.entries],
            "configs": list(self.configs),
            "seeds": list(self.seeds),
            "unseeded": list(self.unseeded),
            "left_out": [list(cell) for cell in self.left_out],
        }
        return {**value, "folds": list(self.folds)} if self.folds else value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Grid:
        """From a JSON object."""
        return cls(
            tuple(Entry(*entry) for entry in value["entries"]),
            tuple(value["configs"]),
            tuple(value["seeds"]),
            tuple(value["unseeded"]),
            tuple((config, method) for config, method in value["left_out"]),
            tuple(value.get("folds", ())),
        )
