"""What the workers of some trials need to know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasweep.features.common.hardware import CPU
from lorasweep.features.compute.cache import CacheEntry, FeatureMatrix, feature_matrix
from lorasweep.features.compute.dataset_matrix import DatasetMatrix, dataset_matrix
from lorasweep.features.representations import Unit
from lorasweep.sweep.models.fits import KEEP_AFTER_SECONDS, configs_to_keep
from lorasweep.trainables.store.trial_key import TrialKey
from lorasweep.trainables.trial.job import ANY_SPLIT, CellMatrix, ClassifierJob, TrialJob

from .invocation import Invocation
from .nodes import device_bytes
from .projection_stage import projection_matrix

if TYPE_CHECKING:
    from lorasweep.features.representations import Representation


@dataclass
class Stored:
    """Where features are, and on what they were computed: read once for many cells."""

    cache: Path
    weights: str
    _origins: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def origin(self, part: Representation) -> dict[str, Any]:
        """On what a representation's features were computed."""
        of = part.name, part.version
        if of not in self._origins:
            self._origins[of] = CacheEntry(self.cache, self.weights, part).origin()
        return self._origins[of]


def make_job(
    run: Invocation, cache: Path, points: Mapping[TrialKey, str], workers: int, gpus: float = 0.0
) -> TrialJob:
    """What the workers of some trials, each with `gpus` of a GPU, need to know."""
    here = (run.nodes.gpu if gpus else CPU) if run.nodes.instructions else ""

    def device(key: TrialKey) -> str:
        """Any, where it does not matter, or no record says and nobody has asked the nodes."""
        return (run.devices.get(key.classifier) or here) if device_bytes(run, key) else ""

    return TrialJob(
        run_dir=run.run_dir,
        invocation=run.name,
        matrices=_matrices(run, points, Stored(cache, run.scan.weights)),
        labels=run.scan.kept_labels,
        n_classes=len(run.scan.classes),
        split=run.declared.split,
        classifiers=[
            ClassifierJob(name, _settings(run, name), _origin(run, name), device(key))
            for name, key in {key.classifier: key for key in points}.items()
        ],
        threads=run.spec.threads,
        workers=workers,
        instructions=run.nodes.instructions,
        keep_fits=configs_to_keep(run.sweep.grid, run.options.save_models),
        keep_after=KEEP_AFTER_SECONDS,
    )


def _matrices(run: Invocation, keys: Iterable[TrialKey], stored: Stored) -> list[CellMatrix]:
    """Where the workers find the features of some trials: one for each cell, or, where a cell is
    fitted on the split of a seed or fold, for each split."""
    found: dict[tuple[Any, ...], CellMatrix] = {}
    for key in keys:
        is_fitted = bool(run.declared.inputs[key.representation].representation.kernel)
        scope = run.declared.split.scope(key.seed, key.fold) if is_fitted else ANY_SPLIT
        of = *key.cell, scope
        if of not in found:
            found[of] = replace(cell_matrix(run, key, stored), scope=scope)
    return list(found.values())


def cell_matrix(run: Invocation, key: TrialKey, stored: Stored) -> CellMatrix:
    """Where the workers find a trial's features."""
    config, method = key.cell
    item = run.declared.inputs[key.representation]
    columns = run.declared.columns(config, method, run.scan)
    parts = item.representation.stored
    one = run.declared.projection(key, run.scan)
    features: FeatureMatrix | DatasetMatrix
    if one:
        features, parts = projection_matrix(stored.cache, run.scan.weights, one), (one.stored,)
    elif item.representation.cached:
        features = feature_matrix(stored.cache, run.scan.weights, item.representation, columns)
    else:
        features = dataset_matrix(run.source, run.scan, item.representation, columns)
    return CellMatrix(
        config,
        method,
        features,
        _value_names(run, key.representation, features),
        len(run.declared.tensors(config, method, run.scan)),
        item.transform,
        {part.name: stored.origin(part) for part in parts},
        run.declared.layout(config, method, run.scan),
    )


def _value_names(
    run: Invocation, representation: str, features: FeatureMatrix | DatasetMatrix
) -> tuple[tuple[str, ...], ...]:
    """Of each column of a matrix, a name for every value; none where they are of whole adapters."""
    item = run.declared.inputs[representation].representation
    if item.unit is Unit.ADAPTER:
        return ()
    shapes = run.scan.columns(item.unit)
    names = {shape: item.values(shape) for shape in {shapes[name] for name in features.columns}}
    return tuple(names[shapes[name]] for name in features.columns)


def _settings(run: Invocation, classifier: str) -> dict[str, Any]:
    return run.declared.classifiers[classifier].settings.to_json()


def _origin(run: Invocation, classifier: str) -> dict[str, str] | None:
    origin = run.declared.classifiers[classifier].origin
    return origin.to_json() if origin else None
