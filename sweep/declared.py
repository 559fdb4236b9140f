"""What a spec's names stand for: representations, layer configs and classifiers, found and loaded.

sweep.json keeps what they declared (versions, units, names of values, settings), so that whoever
reads a run directory needs neither them nor the code they came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.core.plugins import Origin
from features.layer_configs import LayerConfig, get_configs
from features.representations import Representation, Unit, get_representations
from features.representations.base import shape_name
from features.scan import DatasetScan

from .spec import SweepSpec


@dataclass(frozen=True)
class Declared:
    """The objects behind a spec's names, by name.

    Attributes:
        representations: in the spec's order.
        configs: in the spec's order.
    """

    representations: dict[str, Representation]
    configs: dict[str, LayerConfig]

    def columns(self, config: str, representation: str, scan: DatasetScan) -> list[str]:
        """The cache columns that a pair's features come from.

        Raises:
            UserError: the config selects nothing of the dataset.
        """
        selected = self.configs[config].tensors(scan.tensors)
        if self.representations[representation].unit is Unit.TENSOR:
            return selected
        return self.configs[config].layers(scan.layers)

    def features(self, config: str, representation: str, scan: DatasetScan) -> int:
        """Width of a pair's feature matrix."""
        item = self.representations[representation]
        shapes = scan.columns(item.unit)
        return sum(item.width(shapes[c]) for c in self.columns(config, representation, scan))

    def copied(self, folder: Path) -> Declared:
        """The same, what is not built in to be loaded by workers from copies in a folder."""
        return Declared(
            {name: item.copied(folder) for name, item in self.representations.items()},
            {name: item.copied(folder) for name, item in self.configs.items()},
        )

    def to_json(self, scan: DatasetScan) -> dict[str, Any]:
        """For sweep.json."""
        return {
            "representations": {
                name: {
                    "version": item.version,
                    "unit": item.unit.value,
                    "values": {
                        shape_name(shape): list(item.values(shape))
                        for shape in dict.fromkeys(scan.columns(item.unit).values())
                    },
                    "features": {c: self.features(c, name, scan) for c in self.configs},
                    **_origin_json(item.origin),
                }
                for name, item in self.representations.items()
            },
            "configs": {
                name: {
                    "version": item.version,
                    "tensors": item.tensors(scan.tensors),
                    **_origin_json(item.origin),
                }
                for name, item in self.configs.items()
            },
        }


def _origin_json(origin: Origin | None) -> dict[str, Any]:
    return {"origin": origin.to_json()} if origin else {}


def declared_by(spec: SweepSpec) -> Declared:
    """Find and load what a spec names.

    Raises:
        UserError: there is no such thing, it cannot be loaded, or two have one name.
    """
    representations = get_representations(spec.representations)
    configs = get_configs(spec.configs)
    return Declared({r.name: r for r in representations}, {c.name: c for c in configs})
