"""What a spec's names stand for: representations, layer configs and classifiers, found and loaded.

sweep.json keeps what they declared (versions, units, names of values, settings), so that whoever
reads a run directory needs neither them nor the code they came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from features.core.errors import UserError
from features.core.names import check_doubles
from features.core.plugins import Origin
from features.fitted import Fitted, fitted
from features.layer_configs import (
    DEFAULT_CONFIGS,
    LayerConfig,
    fitting_defaults,
    get_configs,
    parse_regexes,
)
from features.representations import (
    Representation,
    Unit,
    expand_groups,
    get_representation,
    get_representations,
)
from features.representations.base import shape_name
from features.scan import DatasetScan
from trainables.classifiers.base import Classifier, Config
from trainables.classifiers.catalogue import find_classifiers
from trainables.record import TrialKey
from trainables.splits import BY_CHANCE, SplitRule
from trainables.transforms import VERSION as TRANSFORM_VERSION
from trainables.transforms import split_transform, transformed_width

from .grid import Entry, Grid, Pair
from .spec import SweepSpec


@dataclass(frozen=True)
class Input:
    """What a classifier is given: a representation and what comes after standardising it.

    Attributes:
        name: what users type and results are filed under: `spectral/pca:64`.
        transform: "" for nothing more.
    """

    name: str
    representation: Representation
    transform: str

    @property
    def version(self) -> str:
        """Part of trial fingerprints."""
        own = self.representation.version
        return f"{own}+{self.transform}-{TRANSFORM_VERSION}" if self.transform else own


@dataclass(frozen=True)
class DeclaredClassifier:
    """A classifier with its settings, and where it was loaded from if it is not built in."""

    classifier: Classifier
    config: Config
    origin: Origin | None

    @property
    def version(self) -> int | str:
        """Part of trial fingerprints."""
        own = self.classifier.version
        return f"{own}-{self.origin.digest[:12]}" if self.origin else own

    def to_json(self) -> dict[str, Any]:
        """For sweep.json."""
        return {
            "version": self.version,
            "config": self.config.to_json(),
            "defaults": type(self.config)().to_json(),
            "seeded": self.classifier.seeded,
            **_origin_json(self.origin),
        }


@dataclass(frozen=True)
class Declared:
    """The objects behind a spec's names, by name, each in the spec's order.

    Attributes:
        inputs: representations with their transforms.
        entries: which classifier sees which of them.
        split: how the samples are split.
    """

    inputs: dict[str, Input]
    configs: dict[str, LayerConfig]
    classifiers: dict[str, DeclaredClassifier]
    entries: tuple[Entry, ...]
    split: SplitRule = BY_CHANCE

    @property
    def representations(self) -> list[Representation]:
        """Those behind the inputs."""
        return [item.representation for item in self.inputs.values()]

    def columns(self, config: str, name: str, scan: DatasetScan) -> list[str]:
        """The layer tensors or layers that an input of a config comes from.

        Raises:
            UserError: the config selects nothing of the dataset.
        """
        selected = self.configs[config].tensors(scan.tensors)
        if self.inputs[name].representation.unit is Unit.TENSOR:
            return selected
        layers = self.configs[config].layers(scan.layers)
        if not layers:
            raise UserError(
                f"representation {name!r} reads layers, and layer config {config!r} has no layer "
                "with both of its tensors"
            )
        return layers

    def fitted(self, key: TrialKey, scan: DatasetScan) -> Fitted | None:
        """What a trial's representation is fitted on; None if it is not a fitted one."""
        item = self.inputs[key.representation].representation
        if not item.kernel:
            return None
        train = self.split.split(scan.num_samples, key.seed).train
        return fitted(
            item, scan, train.tolist(), self.columns(key.config, key.representation, scan)
        )

    def all_fitted(self, keys: Iterable[TrialKey], scan: DatasetScan) -> list[Fitted]:
        """What some trials' representations are fitted on, without doubles."""
        alike = {
            (key.config, key.representation, key.seed if self.split.per_seed else None): key
            for key in keys
        }
        found = [self.fitted(key, scan) for key in alike.values()]
        return list({(one.stored.name, one.stored.version): one for one in found if one}.values())

    def cached_width(self, config: str, name: str, scan: DatasetScan) -> int:
        """Columns of an input's matrix as it is read from the cache."""
        item = self.inputs[name].representation
        shapes = scan.columns(item.unit)
        if item.unit is Unit.ADAPTER:
            return sum(map(item.width, shapes.values()))
        widths = {
            shape: item.width(shape) for shape in set(shapes.values())
        }  # few, of many columns
        return sum(widths[shapes[column]] for column in self.columns(config, name, scan))

    def features(self, config: str, name: str, scan: DatasetScan) -> int:
        """Columns of an input's matrix as a classifier sees it."""
        n_train = len(self.split.split(scan.num_samples).train)
        width = self.cached_width(config, name, scan)
        return transformed_width(self.inputs[name].transform, width, n_train)

    def refused(self, scan: DatasetScan) -> dict[Pair, str]:
        """(config, label) of what a classifier cannot read -> why."""
        found = {}
        for config in self.configs:
            for entry in self.entries:
                width = self.features(config, entry.representation, scan)
                why = self.classifiers[entry.classifier].classifier.refusal(width)
                if why:
                    found[config, entry.label] = why
        return found

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
        )
        if not grid.pairs:
            (config, label), why = next(iter(refused.items()))
            raise UserError(f"nothing is left to run: {config}/{label}: {why}")
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
                    "tensors": item.tensors(scan.tensors),
                    **({"regex": item.regex} if item.regex is not None else {}),
                    **_origin_json(item.origin),
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
            "features": {c: self.features(c, name, scan) for c in self.configs},
            **_origin_json(found.origin),
        }


def _origin_json(origin: Origin | None) -> dict[str, Any]:
    return {"origin": origin.to_json()} if origin else {}


def declared_by(
    spec: SweepSpec, split: SplitRule = BY_CHANCE, tensors: Iterable[str] | None = None
) -> Declared:
    """Find and load what a spec names.

    Arguments:
        tensors: the dataset's layer tensors, which the default layer configs are fitted to; without
            them, a spec that names no configs stands for all default ones.

    Raises:
        UserError: there is no such thing, it cannot be loaded, two have one name, or a setting is
            impossible.
    """
    names = spec.configs
    if names is None:
        names = DEFAULT_CONFIGS if tensors is None else fitting_defaults(tensors)
    configs = get_configs(names, parse_regexes(spec.config_regex))
    pairs = spec.pairs
    if pairs is None:
        if not spec.representations:
            get_representations(())  # says so
        find_classifiers(spec.classifiers)  # refused if there is none, or one twice
        pairs = tuple(product(expand_groups(spec.representations), spec.classifiers))
    pairs = tuple((name, c) for reference, c in pairs for name in expand_groups([reference]))
    inputs = {reference: _input(reference) for reference, _ in pairs}
    references = list(dict.fromkeys(reference for _, reference in pairs))
    classifiers = dict(zip(references, find_classifiers(references)))
    entries = [Entry(inputs[r].name, classifiers[c][0].name) for r, c in pairs]
    check_doubles("pair", [entry.label for entry in entries])
    unknown = spec.settings.keys() - {c.name for c, _ in classifiers.values()}
    if unknown:
        raise UserError(
            f"settings are given for classifier {sorted(unknown)[0]!r}, which is not in the grid"
        )
    return Declared(
        {item.name: item for item in inputs.values()},
        {config.name: config for config in configs},
        {
            c.name: DeclaredClassifier(c, _config(c, spec.settings.get(c.name, {})), origin)
            for c, origin in classifiers.values()
        },
        tuple(entries),
        split,
    )


def _config(classifier: Classifier, settings: Mapping[str, Any]) -> Config:
    try:
        return classifier.Config.from_json(settings)
    except UserError as error:
        raise UserError(f"classifier {classifier.name}: {error}") from error


def _input(reference: str) -> Input:
    of, transform = split_transform(reference)
    found = get_representation(of)
    name = f"{found.name}/{transform}" if transform else found.name
    return Input(name, found, transform)
