"""What a spec's names stand for: representations, layer configs and classifiers, found and loaded.

sweep.json keeps what they declared (versions, units, names of values, settings), so that whoever
reads a run directory needs neither them nor the code they came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import check_doubles
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.layers.configs import (
    DEFAULT_CONFIGS,
    LayerConfig,
    fitting_defaults,
    get_configs,
    parse_regexes,
)
from lorasweep.features.layers.factor_layout import Layout, layout_of
from lorasweep.features.layers.families import each_layer, family_of, without_count
from lorasweep.features.projections import ProjectionPlan, plan_projection
from lorasweep.features.representations import (
    Representation,
    Unit,
    expand_groups,
    get_representations,
)
from lorasweep.features.representations.base import shape_name
from lorasweep.trainables.classifiers.base import DataSize
from lorasweep.trainables.classifiers.catalogue import find_classifiers
from lorasweep.trainables.data.splits import BY_CHANCE, SplitRule
from lorasweep.trainables.data.transforms import transformed_width
from lorasweep.trainables.store.trial_key import TrialKey

from .declared_parts import (
    DeclaredClassifier,
    Input,
    find_input,
    origin_json,
    settings_of,
)
from .grid import Cell, Entry, Grid
from .spec import SweepSpec


@dataclass(frozen=True)
class Declared:
    """The objects behind a spec's names, by name, each in the spec's order.

    Attributes:
        inputs: representations with their transforms.
        entries: which classifier sees which of them.
        split: how the samples are split.
        decided: (config, method) -> layer tensors, of pairs that a run decides and has decided.
    """

    inputs: dict[str, Input]
    configs: dict[str, LayerConfig]
    classifiers: dict[str, DeclaredClassifier]
    entries: tuple[Entry, ...]
    split: SplitRule = BY_CHANCE
    decided: Mapping[Cell, list[str]] = field(default_factory=dict)

    @property
    def representations(self) -> list[Representation]:
        """Those behind the inputs."""
        return [item.representation for item in self.inputs.values()]

    @cached_property
    def by_method(self) -> dict[str, Entry]:
        """Method -> entry."""
        return {entry.method: entry for entry in self.entries}

    @cached_property
    def _known(self) -> dict[tuple[str, ...], Any]:
        """What was worked out before: a family has many configs, and each is asked often."""
        return {}

    def tensors(self, config: str, method: str, scan: DatasetScan) -> list[str]:
        """The layer tensors of a cell, in sorted order. Of one that is not decided yet they are all
        that there are: no decision can give more.

        Raises:
            UserError: the config selects nothing of the dataset.
        """
        if (config, method) in self.decided:
            return list(self.decided[config, method])
        return self.tensors_of(config, scan)

    def tensors_of(self, config: str, scan: DatasetScan) -> list[str]:
        """The layer tensors of a config that has the same ones for every method."""
        key = "tensors", config, scan.weights
        if key not in self._known:
            self._known[key] = self.configs[config].tensors(scan.tensors)
        return list(self._known[key])

    def columns(self, config: str, method: str, scan: DatasetScan) -> list[str]:
        """The layer tensors or layers that the features of a cell come from.

        Raises:
            UserError: the config selects nothing of the dataset, or nothing that the method's
                representation could read.
        """
        name = self.by_method[method].representation
        if self.inputs[name].representation.unit is Unit.TENSOR:
            return self.tensors(config, method, scan)
        layers = self._layers(config, method, scan)
        if not layers:
            raise UserError(
                f"representation {name!r} reads layers, and layer config {config!r} has no layer "
                "with both of its tensors"
            )
        return layers

    def projection(self, key: TrialKey, scan: DatasetScan) -> ProjectionPlan | None:
        """What a trial's representation is fitted on; None if it is not a fitted one."""
        item = self.inputs[key.representation].representation
        if not item.kernel:
            return None
        train = self.split.split(scan.num_samples, key.seed, key.fold).train
        return plan_projection(
            item,
            scan,
            train.tolist(),
            self.columns(key.config, key.method, scan),
            folds=bool(self.split.folds),
        )

    def projections(self, keys: Iterable[TrialKey], scan: DatasetScan) -> list[ProjectionPlan]:
        """What some trials' representations are fitted on, without doubles."""
        alike = {(*key.cell, *self.split.scope(key.seed, key.fold)): key for key in keys}
        found = [self.projection(key, scan) for key in alike.values()]
        return list({(one.stored.name, one.stored.version): one for one in found if one}.values())

    def _layers(self, config: str, method: str, scan: DatasetScan) -> list[str]:
        """The layers that a cell has both tensors of, in sorted order."""
        key = "layers", config, method if (config, method) in self.decided else "", scan.weights
        if key not in self._known:
            has = set(self.tensors(config, method, scan))
            self._known[key] = sorted(x.name for x in scan.layers if {x.down, x.up} <= has)
        return list(self._known[key])

    def cached_width(self, config: str, method: str, scan: DatasetScan) -> int:
        """Columns of a cell's matrix as it is read from the cache."""
        item = self.inputs[self.by_method[method].representation].representation
        if item.unit is Unit.ADAPTER:
            return item.width(())
        key = "widths", item.name, scan.weights
        if key not in self._known:  # few shapes, of many columns
            shapes = scan.columns(item.unit)
            by_shape = {shape: item.width(shape) for shape in set(shapes.values())}
            self._known[key] = {column: by_shape[shape] for column, shape in shapes.items()}
        widths = self._known[key]
        return sum(widths[column] for column in self.columns(config, method, scan))

    def features(self, config: str, method: str, scan: DatasetScan) -> int:
        """Columns of a cell's matrix as a classifier sees it."""
        key = "train", scan.weights
        if key not in self._known:
            self._known[key] = len(self.split.split(scan.num_samples).train)
        transform = self.inputs[self.by_method[method].representation].transform
        return transformed_width(
            transform, self.cached_width(config, method, scan), self._known[key]
        )

    def layout(self, config: str, method: str, scan: DatasetScan) -> Layout:
        """Where the layers' matrices stand in a cell's columns; empty unless its classifier reads
        them."""
        if not self.classifiers[self.by_method[method].classifier].classifier.reads_factors:
            return ()
        names = set(self.columns(config, method, scan))
        return layout_of(layer for layer in scan.layers if layer.name in names)

    def data_size(self, config: str, method: str, scan: DatasetScan) -> DataSize:
        """Return the size of what a cell's classifier sees."""
        return DataSize(
            scan.num_samples,
            self.features(config, method, scan),
            len(scan.classes),
            self.layout(config, method, scan),
        )

    def refused(self, scan: DatasetScan) -> dict[Cell, str]:
        """(config, method) of what cannot be run -> why."""
        found = {}
        for config in self.configs:
            for entry in self.entries:
                why = self._refusal(config, entry, scan)
                if why:
                    found[config, entry.method] = why
        # Only now it is known how many layers a method can rank.
        layers = [config for config in self.configs if family_of(config) == each_layer.name]
        for config in self.configs:
            count = without_count(config)
            for method in self.by_method if count else ():
                ranked = sum((layer, method) not in found for layer in layers)
                if count and ranked <= count:
                    found[config, method] = f"of the method's {ranked} layers none would be left"
        return found

    def _refusal(self, config: str, entry: Entry, scan: DatasetScan) -> str | None:
        found = self.inputs[entry.representation]
        classifier = self.classifiers[entry.classifier].classifier
        has_factors = found.representation.factors and not found.transform
        if classifier.reads_factors and not has_factors:
            return f"{classifier.name} reads the two matrices of every layer, as flat has them"
        unit = found.representation.unit
        if (
            family_of(config)
            and unit is Unit.LAYER
            and not self._layers(config, entry.method, scan)
        ):
            return "the representation reads layers, and there is none with both of its tensors"
        width = self.features(config, entry.method, scan)
        return classifier.refusal(width)

    def grid(self, scan: DatasetScan, seeds: list[int]) -> Grid:
        """Every trial, what cannot be read left out.

        Raises:
            UserError: nothing is left.
        """
        refused = self.refused(scan)
        grid = Grid(
            self.entries,
            tuple(self.configs),
            tuple(seeds),
            self._unseeded(),
            tuple(refused),
            self.split.folds,
        )
        if not grid.cells:
            (config, method), why = next(iter(refused.items()))
            raise UserError(f"nothing is left to run: {config}/{method}: {why}")
        return grid

    def _unseeded(self) -> tuple[str, ...]:
        """Classifiers of which one trial says all. Where every seed has a split, there is none."""
        if self.split.per_seed:
            return ()
        return tuple(n for n, c in self.classifiers.items() if not c.classifier.seeded)

    def copied(self, folder: Path) -> Declared:
        """The same, what is not built in to be loaded by workers from copies in a folder."""
        return replace(
            self,
            inputs={
                name: replace(item, representation=item.representation.copied(folder))
                for name, item in self.inputs.items()
            },
            configs={name: item.copied(folder) for name, item in self.configs.items()},
            classifiers={
                name: replace(item, origin=item.origin and item.origin.copied(folder))
                for name, item in self.classifiers.items()
            },
        )

    def to_json(self, scan: DatasetScan) -> dict[str, Any]:
        """For sweep.json."""
        return {
            "representations": {name: self._input_json(name, scan) for name in self.inputs},
            "configs": {
                name: {
                    "version": item.version,
                    **({} if without_count(name) else {"tensors": self.tensors_of(name, scan)}),
                    **({"regex": item.regex} if item.regex is not None else {}),
                    **origin_json(item.origin),
                }
                for name, item in self.configs.items()
            },
            "classifiers": {name: item.to_json() for name, item in self.classifiers.items()},
        }

    def _input_json(self, name: str, scan: DatasetScan) -> dict[str, Any]:
        item, found = self.inputs[name], self.inputs[name].representation
        shapes = dict.fromkeys(scan.columns(found.unit).values())
        return {
            "version": item.version,
            "unit": found.unit.value,
            "transform": item.transform,
            "values": {shape_name(shape): list(found.values(shape)) for shape in shapes},
            "features": self._widths(name, scan),
            **origin_json(found.origin),
        }

    def _widths(self, name: str, scan: DatasetScan) -> dict[str, int]:
        """Config -> width of an input there; without configs in which it is left out."""
        methods = [e.method for e in self.entries if e.representation == name]
        refused = self.refused(scan)
        return {
            config: self.features(config, method, scan)
            for config, method in product(self.configs, methods)
            if not without_count(config) and (config, method) not in refused
        }


def declared_by(
    spec: SweepSpec, split: SplitRule = BY_CHANCE, tensors: Iterable[str] | None = None
) -> Declared:
    """Find and load what a spec names.

    Arguments:
        tensors: the dataset's layer tensors, which the default layer configs are fitted to and
            which decide what members families have; without them, a spec that names no configs
            stands for all default ones, and families have none.

    Raises:
        UserError: there is no such thing, it cannot be loaded, two have one name, or a setting is
            impossible.
    """
    names = spec.configs
    if names is None:
        names = DEFAULT_CONFIGS if tensors is None else fitting_defaults(tensors)
    configs = get_configs(names, parse_regexes(spec.config_regex), tensors or ())
    pairs = spec.pairs
    if pairs is None:
        if not spec.representations:
            get_representations(())  # says so
        find_classifiers(spec.classifiers)  # refused if there is none, or one twice
        pairs = tuple(product(expand_groups(spec.representations), spec.classifiers))
    pairs = tuple((name, c) for reference, c in pairs for name in expand_groups([reference]))
    inputs = {reference: find_input(reference) for reference, _ in pairs}
    references = list(dict.fromkeys(reference for _, reference in pairs))
    classifiers = dict(zip(references, find_classifiers(references)))
    entries = [Entry(inputs[r].name, classifiers[c][0].name) for r, c in pairs]
    check_doubles("pair", [entry.method for entry in entries])
    unknown = spec.settings.keys() - {c.name for c, _ in classifiers.values()}
    if unknown:
        raise UserError(
            f"settings are given for classifier {sorted(unknown)[0]!r}, which is not in the grid"
        )
    return Declared(
        {item.name: item for item in inputs.values()},
        {config.name: config for config in configs},
        {
            c.name: DeclaredClassifier(c, settings_of(c, spec.settings.get(c.name, {})), origin)
            for c, origin in classifiers.values()
        },
        tuple(entries),
        split,
    )
