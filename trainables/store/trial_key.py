"""Trial keys: which layers, features, classifier and seed a trial is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lorasweep.features.common.files import path_name

DEFAULT_CLASSIFIER = "mlp"
"""Classifier of trials that name none; methods, paths and fingerprints leave its name out."""


def method_name(representation: str, classifier: str) -> str:
    """Return the name of a representation seen by a classifier: `spectral`, `spectral@linear`."""
    return representation if classifier == DEFAULT_CLASSIFIER else f"{representation}@{classifier}"


@dataclass(frozen=True, order=True)
class TrialKey:
    """Which trial: layers, features, classifier and a seed."""

    config: str
    representation: str
    seed: int
    classifier: str = DEFAULT_CLASSIFIER

    @property
    def method(self) -> str:
        """Its representation and classifier; see `entry_label`."""
        return method_name(self.representation, self.classifier)

    @property
    def cell(self) -> tuple[str, str]:
        """(config, method): what it shares with the other seeds."""
        return self.config, self.method

    @property
    def path(self) -> str:
        """<config>/<method>/seed-<seed>, as it is in file names."""
        return f"{path_name(self.config)}/{path_name(self.method)}/seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.config}/{self.method}/seed-{self.seed}"

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
