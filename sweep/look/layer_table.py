"""`lorasweep layers`: what layers a dataset has, and which layer configs have them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.shapes import read_shapes
from lorasweep.features.layers.configs import LAYER_CONFIGS, get_configs, parse_regexes
from lorasweep.features.layers.families import FAMILIES, family_of, without_count
from lorasweep.features.layers.names import LayerParts, network_order, parse_layer
from lorasweep.features.layers.pairing import Layer, pair_layers
from lorasweep.sweep.imports.open_dataset import find_source
from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
from lorasweep.sweep.watch.terminal import Reporter

_HEADER = ("layer", "component", "kind", "projection", "out × in", "rank", "scale", "configs")


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        parts: what its name says.
        layer: its tensors and shape; its name in the dataset's own spelling.
        configs: the layer configs that have both of its tensors.
    """

    parts: LayerParts
    layer: Layer
    configs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        outputs, inputs, rank = self.layer.shape
        return {
            "name": self.parts.name,
            "spelling": self.layer.name,
            "component": self.parts.component,
            "block": self.parts.block,
            "numbers": list(self.parts.numbers),
            "kind": self.parts.kind,
            "projection": self.parts.projection,
            "outputs": outputs,
            "inputs": inputs,
            "rank": rank,
            "scale_column": self.layer.scale,
            "configs": list(self.configs),
        }

    def cells(self) -> tuple[str, ...]:
        """As a row under `_HEADER`."""
        parts, (outputs, inputs, rank) = self.parts, self.layer.shape
        return (
            *(parts.name, parts.component, parts.kind, parts.projection),
            *(f"{outputs} × {inputs}", str(rank), "yes" if self.layer.scale else "no"),
            ", ".join(self.configs) or "none",
        )


@dataclass(frozen=True)
class LayerTable:
    """A dataset's layers.

    Attributes:
        rows: as data flows through the networks.
        unpaired: layer tensors that are no layer, for want of the other factor or of its rank.
        configs: layer configs that were asked about.
        families: family -> how many configs it stands for here.
    """

    rows: list[LayerRow]
    unpaired: list[str]
    configs: list[str]
    families: dict[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """Config -> how many layers it has."""
        found = Counter(config for row in self.rows for config in row.configs)
        return {config: found[config] for config in self.configs}

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "layers": [row.to_json() for row in self.rows],
            "unpaired": self.unpaired,
            "configs": self.counts,
            "families": self.families,
        }

    def lines(self) -> list[str]:
        """For people."""
        alone = [f"{name} {n}" for name, n in self.counts.items() if not family_of(name)]
        lines = [
            f"layers   {len(self.rows)}",
            *(["configs  " + ", ".join(alone)] if alone else []),
            "families " + ", ".join(f"{name} {count}" for name, count in self.families.items()),
        ]
        if self.unpaired:
            abbreviate = ", ".join(self.unpaired[:3]) + (", …" if len(self.unpaired) > 3 else "")
            lines.append(
                f"without a fitting other half: {len(self.unpaired)} tensors ({abbreviate})"
            )
        return [*lines, "", *_aligned([_HEADER, *(row.cells() for row in self.rows)])]


def read_layer_table(spec: SweepSpec, options: RuntimeOptions, reporter: Reporter) -> LayerTable:
    """The layers of a spec's dataset and its layer configs, from the names and shapes of columns.

    A spec that names no configs shows every built-in one.

    Raises:
        UserError: the dataset cannot be used, or a config that was asked for has none of it.
    """
    spec.validate()
    names = tuple(LAYER_CONFIGS) if spec.configs is None else spec.configs
    regexes = parse_regexes(spec.config_regex)
    for config in get_configs(names, regexes):  # refused before the dataset is looked for
        if without_count(config.name):
            raise UserError(f"layer config {config.name!r} has layers that only a run decides")
    source = find_source(spec, options, reporter, options.cache_dir)
    tensors, scales = read_shapes(source, spec.lora_rank)
    chosen = get_configs(names, regexes, tensors)
    for config in chosen:
        if spec.configs is not None or config.regex is not None:
            config.tensors(tensors)  # refused if it has none
    layers = pair_layers(tensors, scales)
    having = {config.name: set(config.layers(layers)) for config in chosen}
    rows = [
        LayerRow(
            parse_layer(layer.name),
            layer,
            tuple(name for name, names in having.items() if layer.name in names),
        )
        for layer in sorted(layers, key=lambda layer: network_order(layer.name))
    ]
    families = {name: len(item.members(tensors)) for name, item in FAMILIES.items()}
    paired = {tensor for layer in layers for tensor in (layer.down, layer.up)}
    return LayerTable(rows, sorted(tensors.keys() - paired), list(having), families)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths)).rstrip() for row in rows
    ]
