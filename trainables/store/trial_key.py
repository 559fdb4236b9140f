"""Trial keys: which layers, features, classifier and seed a trial is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lorasweep.features.common.files import path_name

DEFAULT_CLASSIFIER = "mlp"
"""What trials are of that do not say; its name is left out of labels, paths and fingerprints."""


def entry_label(representation: str, classifier: str) -> str:
    """What a representation seen by a classifier is called: `spectral`, `spectral@linear`."""
    return representation if classifier == DEFAULT_CLASSIFIER else f"{representation}@{classifier}"


@dataclass(frozen=True, order=True)
class TrialKey:
    """Which trial: layers, features, classifier and a seed."""

    config: str
    representation: str
    seed: int
    classifier: str = DEFAULT_CLASSIFIER

    @property
    def label(self) -> str:
        """Its representation and classifier; see `entry_label`."""
        return entry_label(self.representation, self.classifier)

    @property
    def pair(self) -> tuple[str, str]:
        """(config, label): what it shares with the other seeds."""
        return self.config, self.label

    @property
    def path(self) -> str:
        """<config>/<label>/seed-<seed>, as it is in file names."""
        return f"{path_name(self.config)}/{path_name(self.label)}/seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.config}/{self.label}/seed-{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrialKey:
        """From a JSON object; an old one has no classifier."""
        return cls(**value)

    def identity(self) -> dict[str, Any]:
        """What fingerprints are taken of: without the classifier if it is the default, as before
        there were others."""
        value = self.to_json()
        if self.classifier == DEFAULT_CLASSIFIER:
            del value["classifier"]
        return value
