"""What all trials of one Tune experiment share; written by the driver as job.json.

It names files and settings: a worker looks nothing up in a catalogue of its own process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lorasweep.features.common.hardware import Hardware
from lorasweep.features.common.plugins import Origin
from lorasweep.features.compute.cache import FeatureMatrix
from lorasweep.features.compute.dataset_matrix import DatasetMatrix
from lorasweep.features.layers.factor_layout import FactorColumns, Layout
from lorasweep.trainables.classifiers.base import Classifier, Settings
from lorasweep.trainables.classifiers.catalogue import CLASSIFIERS, load_classifier
from lorasweep.trainables.data.column_names import ColumnNames, names_from_json, names_to_json
from lorasweep.trainables.data.splits import Split, SplitRule
from lorasweep.trainables.store.trial_key import TrialKey

ANY_SPLIT: tuple[int | None, str] = (None, "")
"""Scope of a matrix that is the same with every split."""


@dataclass(frozen=True)
class CellMatrix:
    """Where the features of a (config, method) are.

    Attributes:
        features: cache folders and columns; or, for what is never cached, the dataset's.
        values: of each of these columns, a name for every value; empty where they are of whole
            adapters.
        num_tensors: layer tensors of the config.
        transform: what comes after standardising; "" for nothing.
        origin: on what its features were computed, by part.
        layout: where its columns hold the layers' matrices, if the classifier reads those.
        scope: which split it is fitted on, see `SplitRule.scope`.
    """

    config: str
    method: str
    features: FeatureMatrix | DatasetMatrix
    values: tuple[tuple[str, ...], ...]
    num_tensors: int
    transform: str
    origin: dict[str, Any]
    layout: Layout = ()
    scope: tuple[int | None, str] = ANY_SPLIT

    @cached_property
    def names(self) -> ColumnNames | None:
        """What the matrix's columns are called; None where they are of whole adapters."""
        return ColumnNames(self.features.columns, self.values) if self.values else None


@dataclass(frozen=True)
class ClassifierJob:
    """A classifier to load.

    Attributes:
        settings: its settings, as a JSON object.
        origin: where it comes from; None: built in.
        device: the one kind of device that its trials of the run are on; "": any.
    """

    name: str
    settings: dict[str, Any]
    origin: dict[str, str] | None
    device: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; job.json calls the settings "config"."""
        return {
            "name": self.name,
            "config": self.settings,
            "origin": self.origin,
            "device": self.device,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClassifierJob:
        """Read what `to_json` gave."""
        return cls(value["name"], value["config"], value["origin"], value["device"])


@dataclass(frozen=True)
class TrialJob:
    """What all trials of one Tune experiment share.

    Attributes:
        run_dir: where records and events go.
        invocation: names the event files.
        matrices: one for each (config, method) of the trials, and of each split where it is
            fitted on that.
        labels: (n_samples,) class indices.
        n_classes: number of classes.
        split: how the samples are split.
        classifiers: those of the trials.
        threads: CPU threads of one trial.
        workers: trial workers that will run side by side.
        instructions: of the processors that the run's trials are on; "": any.
        keep_fits: configs whose trials leave their finished fit, for models to keep;
        keep_after: if they trained for so many seconds.
    """

    run_dir: Path
    invocation: str
    matrices: list[CellMatrix]
    labels: list[int]
    n_classes: int
    split: SplitRule
    classifiers: list[ClassifierJob]
    threads: int
    workers: int
    instructions: str = ""
    keep_fits: list[str] = field(default_factory=list)
    keep_after: float = 0.0

    @cached_property
    def _by_cell(self) -> dict[tuple[Any, ...], CellMatrix]:
        return {(item.config, item.method, item.scope): item for item in self.matrices}

    def split_of(self, key: TrialKey) -> Split:
        """Return the samples that a trial trains, validates and tests on."""
        return self.split.split(len(self.labels), key.seed, key.fold)

    def files(self) -> list[str]:
        """What its trials read: features' folders, a dataset's files."""
        found: dict[str, None] = {}
        for features in (matrix.features for matrix in self.matrices):
            if isinstance(features, DatasetMatrix):
                found |= dict.fromkeys(path for path, _, _ in features.files)
            else:
                found |= dict.fromkeys(map(str, features.folders))
        return list(found)

    def matrix(self, key: TrialKey) -> CellMatrix:
        """A trial's features."""
        own = self._by_cell.get((*key.cell, self.split.scope(key.seed, key.fold)))
        return own or self._by_cell[*key.cell, ANY_SPLIT]

    def classifier(self, name: str) -> tuple[Classifier, Settings]:
        """A classifier and its settings."""
        job = self._classifier(name)
        if job.origin is None:
            found = CLASSIFIERS[name]
        else:
            found = load_classifier(Origin.from_json(job.origin))
        return found, found.Settings.from_json(job.settings)

    def hardware(self, classifier: str) -> Hardware:
        """What a classifier's trials must be on."""
        return Hardware(self._classifier(classifier).device, self.instructions)

    def _classifier(self, name: str) -> ClassifierJob:
        return next(job for job in self.classifiers if job.name == name)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object. Pairs of one config mostly have the same columns: they stand once."""
        columns: dict[tuple[str, ...], int] = {}

        def where(features: FeatureMatrix | DatasetMatrix) -> dict[str, Any]:
            if isinstance(features, DatasetMatrix):
                return {"dataset": features.to_json()}
            return {
                "folders": [str(folder) for folder in features.folders],
                "columns": columns.setdefault(features.columns, len(columns)),
            }

        matrices = [
            {
                "config": matrix.config,
                "label": matrix.method,
                **where(matrix.features),
                "values": names_to_json(matrix.values),
                "num_tensors": matrix.num_tensors,
                "transform": matrix.transform,
                "origin": matrix.origin,
                "layout": [list(vars(factors).values()) for factors in matrix.layout],
                "scope": list(matrix.scope),
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
            "classifiers": [job.to_json() for job in self.classifiers],
            "threads": self.threads,
            "workers": self.workers,
            "instructions": self.instructions,
            "keep_fits": self.keep_fits,
            "keep_after": self.keep_after,
        }

    @classmethod
    def read(cls, path: Path) -> TrialJob:
        """Read what the driver wrote."""
        value = json.loads(path.read_text())
        columns = [tuple(names) for names in value.pop("columns")]
        matrices = [
            CellMatrix(
                matrix["config"],
                matrix["label"],
                DatasetMatrix.from_json(matrix["dataset"])
                if "dataset" in matrix
                else FeatureMatrix(tuple(map(Path, matrix["folders"])), columns[matrix["columns"]]),
                names_from_json(matrix["values"]),
                matrix["num_tensors"],
                matrix["transform"],
                matrix["origin"],
                tuple(FactorColumns(*factors) for factors in matrix["layout"]),
                tuple(matrix["scope"]),
            )
            for matrix in value.pop("matrices")
        ]
        classifiers = [ClassifierJob.from_json(job) for job in value.pop("classifiers")]
        run_dir, split = Path(value.pop("run_dir")), SplitRule.from_json(value.pop("split"))
        return cls(
            run_dir=run_dir, matrices=matrices, classifiers=classifiers, split=split, **value
        )
