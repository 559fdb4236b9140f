"""Trial keys: which layers, features, classifier, seed and fold a trial is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from lorasweep.features.common.files import path_name

DEFAULT_CLASSIFIER = "mlp"
"""Classifier of trials that name none; methods, paths and fingerprints leave its name out."""


def method_name(representation: str, classifier: str) -> str:
    """Return the name of a representation seen by a classifier: `spectral`, `spectral@linear`."""
    return representation if classifier == DEFAULT_CLASSIFIER else f"{representation}@{classifier}"


def fold_folder(fold: str) -> str:
    """Return a fold's folder: two values of a column never share one."""
    return f"fold-{quote(fold, safe='')}"


@dataclass(frozen=True, order=True)
class TrialKey:
    """Trial: layers, features, classifier, a seed and a fold.

    Attributes:
        fold: of `--split kfold:K` its number; of `leave-out:COLUMN` the value whose adapters are
            tested; "" where the split has no folds.
    """

    config: str
    representation: str
    seed: int
    classifier: str = DEFAULT_CLASSIFIER
    fold: str = ""

    @property
    def method(self) -> str:
        """Its representation and classifier; see `entry_label`."""
        return method_name(self.representation, self.classifier)

    @property
    def cell(self) -> tuple[str, str]:
        """(config, method): what it shares with the other seeds and folds."""
        return self.config, self.method

    @property
    def path(self) -> str:
        """<config>/<method>[/fold-<fold>]/seed-<seed>, as it is in file names."""
        fold = f"/{fold_folder(self.fold)}" if self.fold else ""
        return f"{path_name(self.config)}/{path_name(self.method)}{fold}/seed-{self.seed}"

    def __str__(self) -> str:
        fold = f"/fold-{self.fold}" if self.fold else ""
        return f"{self.config}/{self.method}{fold}/seed-{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; a fold stands in it only where there is one."""
        value = asdict(self)
        if not self.fold:
            del value["fold"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrialKey:
        """From a JSON object; an old one has no classifier, most have no fold."""
        return cls(**value)

    def identity(self) -> dict[str, Any]:
        """What fingerprints are taken of: without the classifier if it is the default, as before
        there were others."""
        value = self.to_json()
        if self.classifier == DEFAULT_CLASSIFIER:
            del value["classifier"]
        return value
