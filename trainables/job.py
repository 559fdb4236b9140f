"""What all trials of one Tune experiment share; written by the driver as job.json.

It names files and settings: a worker looks nothing up in a catalogue of its own process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from features.cache import FeatureMatrix
from features.core.plugins import Origin

from .classifiers.base import Classifier, Config
from .classifiers.catalogue import CLASSIFIERS, load_classifier
from .record import TrialKey
from .splits import SplitRule


@dataclass(frozen=True)
class PairMatrix:
    """Where the features of a (config, label) are.

    Attributes:
        features: cache folders and columns.
        num_tensors: layer tensors of the config.
        transform: what comes after standardising; "" for nothing.
        origin: on what its features were computed, by part.
    """

    config: str
    label: str
    features: FeatureMatrix
    num_tensors: int
    transform: str
    origin: dict[str, Any]


@dataclass(frozen=True)
class ClassifierJob:
    """A classifier to load: built in if it has no origin."""

    name: str
    config: dict[str, Any]
    origin: dict[str, str] | None


@dataclass(frozen=True)
class TrialJob:
    """What all trials of one Tune experiment share.

    Attributes:
        run_dir: where records and events go.
        invocation: names the event files.
        matrices: one for each (config, label) of the trials.
        labels: (n_samples,) class indices.
        n_classes: number of classes.
        split: how the samples are split.
        classifiers: those of the trials.
        threads: CPU threads of one trial.
        workers: trial workers that will run side by side.
    """

    run_dir: Path
    invocation: str
    matrices: list[PairMatrix]
    labels: list[int]
    n_classes: int
    split: SplitRule
    classifiers: list[ClassifierJob]
    threads: int
    workers: int

    @cached_property
    def _by_pair(self) -> dict[tuple[str, str], PairMatrix]:
        return {(matrix.config, matrix.label): matrix for matrix in self.matrices}

    def matrix(self, key: TrialKey) -> PairMatrix:
        """A trial's features."""
        return self._by_pair[key.pair]

    def classifier(self, name: str) -> tuple[Classifier, Config]:
        """A classifier and its settings."""
        job = next(job for job in self.classifiers if job.name == name)
        if job.origin is None:
            found = CLASSIFIERS[name]
        else:
            found = load_classifier(Origin.from_json(job.origin))
        return found, found.Config.from_json(job.config)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object. Pairs of one config mostly have the same columns: they stand once."""
        columns: dict[tuple[str, ...], int] = {}
        matrices = [
            {
                "config": matrix.config,
                "label": matrix.label,
                "folders": [str(folder) for folder in matrix.features.folders],
                "columns": columns.setdefault(matrix.features.columns, len(columns)),
                "num_tensors": matrix.num_tensors,
                "transform": matrix.transform,
                "origin": matrix.origin,
            }
            for matrix in self.matrices
        ]
        return {
            "run_dir": str(self.run_dir),
            "invocation": self.invocation,
            "matrices": matrices,
            "columns": [list(names) for names in columns],
            "labels": self.labels,
            "n_classes": self.n_classes,
            "split": self.split.to_json(),
            "classifiers": [vars(job) for job in self.classifiers],
            "threads": self.threads,
            "workers": self.workers,
        }

    @classmethod
    def read(cls, path: Path) -> TrialJob:
        """Read what the driver wrote."""
        value = json.loads(path.read_text())
        columns = [tuple(names) for names in value.pop("columns")]
        matrices = [
            PairMatrix(
                matrix["config"],
                matrix["label"],
                FeatureMatrix(tuple(map(Path, matrix["folders"])), columns[matrix["columns"]]),
                matrix["num_tensors"],
                matrix["transform"],
                matrix["origin"],
            )
            for matrix in value.pop("matrices")
        ]
        classifiers = [ClassifierJob(**job) for job in value.pop("classifiers")]
        run_dir, split = Path(value.pop("run_dir")), SplitRule.from_json(value.pop("split"))
        return cls(
            run_dir=run_dir, matrices=matrices, classifiers=classifiers, split=split, **value
        )
