"""What is known of a representation with its transform, and of a classifier with its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.plugins import Origin
from lorasweep.features.representations import Representation, get_representation
from lorasweep.trainables.classifiers.base import Classifier, Settings
from lorasweep.trainables.data.transforms import VERSION as TRANSFORM_VERSION
from lorasweep.trainables.data.transforms import split_transform


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
    settings: Settings
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
            "config": self.settings.to_json(),
            "defaults": type(self.settings)().to_json(),
            "seeded": self.classifier.seeded,
            **origin_json(self.origin),
        }


def origin_json(origin: Origin | None) -> dict[str, Any]:
    """Where something was loaded from, for sweep.json; nothing of what is built in."""
    return {"origin": origin.to_json()} if origin else {}


def settings_of(classifier: Classifier, settings: Mapping[str, Any]) -> Settings:
    """A classifier's settings.

    Raises:
        UserError: one is unknown or impossible.
    """
    try:
        return classifier.Settings.from_json(settings)
    except UserError as error:
        raise UserError(f"classifier {classifier.name}: {error}") from error


def find_input(reference: str) -> Input:
    """A representation and its transform.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    of, transform = split_transform(reference)
    found = get_representation(of)
    name = f"{found.name}/{transform}" if transform else found.name
    return Input(name, found, transform)
