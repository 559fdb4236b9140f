"""Making a model to keep of a cell's trials; runs in Ray workers.

Trials that took long have left what they predict with; others are trained once more: the same seed,
threads, split and features give the same bits as the trial had. What predicts otherwise than its
record, as on another processor, gives no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.datasets.sources import Source
from lorasweep.features.projections.kernel import FactorBatch
from lorasweep.features.projections.landmarks import read_landmarks, write_landmarks
from lorasweep.features.projections.plan import Landmarks, ProjectionPlan
from lorasweep.features.projections.projection import Projection
from lorasweep.trainables.classifiers.base import FitState, Predictor
from lorasweep.trainables.data.trial_data import FittedTransform, TrialData
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey
from lorasweep.trainables.trial.finished_fits import read_fit
from lorasweep.trainables.trial.job import TrialJob
from lorasweep.trainables.trial.trial_setup import load_data, load_features, set_up_device

from .calibration import fit_temperature
from .model import KeptData, KeptFit, write_model
from .model_input import ModelInput, canonical_layers
from .novelty import Reference

CLOSE = 1e-4
"""Where the two largest probabilities differ by less, either class is right."""

_MOST_CHECKED = 2000
_WHOLE_SLICE = 1e9


class NoModelError(Exception):
    """Why a cell cannot be kept, in one line."""


@dataclass(frozen=True)
class FitOnDataset:
    """What a fitted representation was fitted on, to take its landmarks along.

    Attributes:
        of: the representation, its layers and landmarks.
        folder: of its cached coordinates.
    """

    source: Source
    scan: DatasetScan
    of: ProjectionPlan
    folder: Path


def finished_fit(job: TrialJob, key: TrialKey) -> tuple[KeptFit, None]:
    """What a trial left, or what it comes to if it is trained once more.

    Returns:
        what to keep, and something small to wait for.

    Raises:
        NoModelError: it predicts otherwise than its record says, or cannot be kept.
    """
    data = load_data(job, key, set_up_device(job.threads))
    record = read_record(job.run_dir, key)
    state, log_p = _left(job, key, data, record) or _trained(job, key, data, record)
    temperature = fit_temperature(log_p, data.val.y.cpu().numpy())
    metrics = record["metrics"]
    scores = {name: metrics.get(name) for name in ("val_acc", "val_log_loss", "test_acc")}
    return KeptFit(key.seed, key.fold, state, temperature, 0, scores), None


def _left(
    job: TrialJob, key: TrialKey, data: TrialData, record: dict[str, Any]
) -> tuple[FitState, np.ndarray] | None:
    """What a trial left, if it predicts as its record says.

    Returns:
        it, and its (n, n_classes) log-probabilities of the validation split.
    """
    state = read_fit(job.run_dir, key, record["fingerprint"])
    if state is None:
        return None
    classifier, config = job.classifier(key.classifier)
    try:
        found = classifier.load(state, data.n_features, job.n_classes, config)
        predicted = [found.predict(s.x.cpu()) for s in (data.val, data.test)]
    except Exception:  # a user's own classifier: training it again tells what is wrong
        return None
    return (state, predicted[0]) if _agree(predicted, record) else None


def _trained(
    job: TrialJob, key: TrialKey, data: TrialData, record: dict[str, Any]
) -> tuple[FitState, np.ndarray]:
    """The same of training it once more."""
    classifier, config = job.classifier(key.classifier)
    fit = classifier.start(data, config, key.seed)
    while not fit.finished:
        fit.advance(_WHOLE_SLICE)
    predicted = [fit.predict(s.x) for s in (data.val, data.test)]
    if not _agree(predicted, record):
        made = record["environment"].get("device_name", "another machine")
        raise NoModelError(
            f"{_fit_name(key)}, trained again, predicts otherwise than its record, which was made "
            f"on {made}"
        )
    kept = fit.export_state()
    if kept is None:
        raise NoModelError(f"classifier {key.classifier} keeps no model")
    tensors = {name: tensor.cpu() for name, tensor in kept.tensors.items()}
    return FitState(tensors, kept.rest), predicted[0]


def _fit_name(key: TrialKey) -> str:
    return f"seed {key.seed}" + (f", fold {key.fold}" if key.fold else "")


def _agree(predicted: Sequence[np.ndarray], record: dict[str, Any]) -> bool:
    """Whether log-probabilities of validation and test split give the classes of a record."""
    classes = (record["predictions"][name] for name in ("val", "test"))
    return all(p.argmax(1).tolist() == of for p, of in zip(predicted, classes))


def write_cell_model(
    job: TrialJob,
    keys: Sequence[TrialKey],
    about: dict[str, Any],
    projections: Sequence[FitOnDataset],
    *fits: KeptFit,
) -> int:
    """Write a cell's model; returns its bytes.

    Arguments:
        keys: the cell's trials.
        about: see `write_model`.
        projections: of a projected representation, for every trial; else empty.
        fits: those of `keys`.
    """
    cpu = torch.device("cpu")
    set_up_device(job.threads)  # another number of threads rounds principal components otherwise
    shared: list[KeptData] = []
    scopes: list[tuple[int | None, str]] = []
    placed = []
    for i, (key, fit) in enumerate(zip(keys, fits)):
        scope = job.split.scope(key.seed, key.fold)
        if scope not in scopes:
            scopes.append(scope)
            data = load_data(job, key, cpu)
            transform = data.transform
            assert transform is not None
            if projections:
                alike = [f for k, f in zip(keys, fits) if job.split.scope(k.seed, k.fold) == scope]
                shared.append(_projected(job, key, about, projections[i], alike, transform))
            elif transform.components is None:
                shared.append(KeptData(transform, Reference.of(data.train.x.numpy())))
            else:
                train = job.split_of(key).train
                x = transform.standardise(load_features(job, key)[train])
                shared.append(KeptData(transform, Reference.of(x)))
        placed.append(replace(fit, data=scopes.index(scope)))
    path = RunDir(job.run_dir).model(*keys[0].cell)
    write_model(path, about, placed, shared)
    return path.stat().st_size


# Fitted representations


def _projected(
    job: TrialJob,
    key: TrialKey,
    about: dict[str, Any],
    fit_source: FitOnDataset,
    fits: Sequence[KeptFit],
    transform: FittedTransform,
) -> KeptData:
    """With the projection and its landmarks: in half precision, unless a class changes by that."""
    layers = ModelInput.from_json(about["input"]).layers
    names = {name: layer.name for name, layer in canonical_layers(fit_source.scan.layers).items()}
    stored = Projection.read(fit_source.folder)
    place = {name: i for i, name in enumerate(fit_source.of.layers)}
    order = [place[names[name]] for name in layers]
    projection = replace(stored, mean_squares=stored.mean_squares[order])
    landmarks = _factors(
        fit_source, fit_source.of.landmarks.samples, [names[name] for name in layers]
    )
    halved = [layer.to(torch.half) for layer in landmarks]
    split = job.split_of(key)
    checked = np.concatenate([split.test, split.val])[:_MOST_CHECKED]
    own = _factors(fit_source, np.sort(checked), [names[name] for name in layers])
    kernel = fit_source.of.item.kernel
    products, rounded = (
        projection.products(kernel, own, others)[0]
        for others in (landmarks, [layer.to(torch.float) for layer in halved])
    )
    inputs = [
        torch.from_numpy(transform(projection.components.project(found)))
        for found in (products, rounded)
    ]
    classifier, config = job.classifier(key.classifier)
    loaded = [classifier.load(f.state, inputs[0].shape[1], job.n_classes, config) for f in fits]
    kept = landmarks if any(_differ(own, *inputs) for own in loaded) else halved
    exact = [layer.to(torch.float) for layer in kept]
    reference = Reference.of_products(*projection.products(kernel, exact, exact))
    return KeptData(transform, reference, (projection, kept))


def _differ(predictor: Predictor, first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two inputs give other classes where it is clear which one it is."""
    if not torch.isfinite(second).all():
        return True
    p, q = (np.exp(predictor.predict(x)) for x in (first, second))
    top = np.sort(p, axis=1)[:, -2:]
    clear = top[:, 1] - top[:, 0] > CLOSE
    return bool((p.argmax(1) != q.argmax(1))[clear].any())


def _factors(
    fit_source: FitOnDataset, samples: Sequence[int] | np.ndarray, names: Sequence[str]
) -> list[FactorBatch]:
    """Some layers of some samples, which are ascending."""
    by_name = {layer.name: layer for layer in fit_source.scan.layers}
    layers = [by_name[name] for name in names]
    chosen = Landmarks(tuple(int(i) for i in samples), 0.0)
    with TemporaryDirectory() as folder:
        place = Path(folder) / "layers"
        write_landmarks(fit_source.source, fit_source.scan, layers, chosen, place)
        cpu = torch.device("cpu")
        return [read_landmarks(place, i, layer, cpu) for i, layer in enumerate(layers)]
