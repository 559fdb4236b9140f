"""A model to keep: what is needed to classify a new adapter, in one file for all seeds of a cell.

    models/<config>/<label>.safetensors

Tensors by parts: `fit-SEED/…` are a classifier's, `data-I/…` what seeds with one split share. All
else is JSON in the metadata. Code of users' own lies beside, in plugins/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import DamagedFileError
from lorasweep.features.common.plugins import Origin, source_digest
from lorasweep.features.common.signed_tensors import read_note, read_tensors, write_tensors
from lorasweep.features.representations import Representation, get_representation
from lorasweep.features.representations.catalogue import load_representation
from lorasweep.trainables.classifiers.base import Classifier, FitState, Predictor
from lorasweep.trainables.classifiers.catalogue import CLASSIFIERS, load_classifier
from lorasweep.trainables.store.standing import Standing, best_of

from .model_input import ModelInput

if TYPE_CHECKING:
    from torch import Tensor

    from lorasweep.features.adapters.stack import Stack
    from lorasweep.features.projections.kernel import FactorBatch
    from lorasweep.features.projections.projection import Projection
    from lorasweep.trainables.data.trial_data import FittedTransform

    from .novelty import Reference

KIND = "model"
SCHEMA = 1


@dataclass(frozen=True)
class KeptFit:
    """A trial's classifier.

    Attributes:
        seed, fold: whose it is.
        state: what `Classifier.load` takes.
        temperature: see `fit_temperature`.
        data: index of its `KeptData`.
        scores: `val_acc`, `val_log_loss` and `test_acc` of its record.
    """

    seed: int
    fold: str
    state: FitState
    temperature: float
    data: int
    scores: dict[str, float]


@dataclass(frozen=True)
class KeptData:
    """What seeds with one split share.

    Attributes:
        transform: of features.
        reference: the training split.
        projection: of a fitted representation, with its landmarks in the order of the input's
            layers; they may be float16.
    """

    transform: FittedTransform
    reference: Reference
    projection: tuple[Projection, list[FactorBatch]] | None = None


def write_model(
    path: Path, about: dict[str, Any], fits: Sequence[KeptFit], data: Sequence[KeptData]
) -> None:
    """Write a model.

    Arguments:
        about: what it is and what it was made from; see `ModelFile`.
    """
    parts = {_fit_part(fit.seed, fit.fold): fit.state.tensors for fit in fits}
    parts |= {_data_part(index): _data_tensors(shared) for index, shared in enumerate(data)}
    note = {
        **about,
        "schema": SCHEMA,
        "fits": [
            {
                "seed": fit.seed,
                **({"fold": fit.fold} if fit.fold else {}),
                "data": fit.data,
                "temperature": fit.temperature,
                "rest": fit.state.rest,
                **fit.scores,
            }
            for fit in fits
        ],
    }
    write_tensors(path, KIND, note, parts)


def _fit_part(seed: int, fold: str) -> str:
    return f"fit-{seed}" + (f"-{fold}" if fold else "")


def _part_of(fit: Mapping[str, Any]) -> str:
    return _fit_part(fit["seed"], fit.get("fold", ""))


def _data_part(index: int) -> str:
    return f"data-{index}"


def _data_tensors(data: KeptData) -> dict[str, Tensor]:
    import torch

    found = {
        "mean": torch.from_numpy(data.transform.mean),
        "scale": torch.from_numpy(data.transform.scale),
        "train": data.reference.train,
        "distances": data.reference.distances,
    }
    if data.transform.components is not None:
        found["components"] = torch.from_numpy(data.transform.components)
    if data.projection:
        projection, landmarks = data.projection
        found["projection.weights"] = torch.from_numpy(projection.components.weights)
        found["projection.means"] = torch.from_numpy(projection.components.means)
        found["projection.mean_squares"] = torch.from_numpy(projection.mean_squares)
        for i, layer in enumerate(landmarks):
            sides = {"down": layer.down, "up": layer.up, "scale": layer.scale}
            found |= {f"landmarks.{i}.{s}": of for s, of in sides.items() if of is not None}
    return found


def _read_data(tensors: Mapping[str, Tensor], layers: int) -> KeptData:
    import torch

    from lorasweep.features.projections.components import Components
    from lorasweep.features.projections.kernel import FactorBatch
    from lorasweep.features.projections.projection import Projection
    from lorasweep.trainables.data.trial_data import FittedTransform

    from .novelty import Reference

    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    projection = None
    if "projection.weights" in arrays:
        projection = (
            Projection(
                Components(arrays["projection.weights"], arrays["projection.means"]),
                arrays["projection.mean_squares"],
            ),
            [
                FactorBatch(
                    tensors[f"landmarks.{i}.down"],
                    tensors[f"landmarks.{i}.up"],
                    tensors.get(f"landmarks.{i}.scale"),
                ).to(torch.float)
                for i in range(layers)
            ],
        )
    return KeptData(
        FittedTransform(arrays["mean"], arrays["scale"], arrays.get("components")),
        Reference(tensors["train"], tensors["distances"]),
        projection,
    )


@dataclass(frozen=True)
class ModelFile:
    """A model on disk, its note read and its tensors not.

    Attributes:
        path: the file.
        note: what it says of itself.
    """

    path: Path
    note: dict[str, Any]

    @property
    def cell(self) -> tuple[str, str]:
        """(config, method)."""
        return self.note["config"], self.note["label"]

    @property
    def classes(self) -> list[Any]:
        """In the order of probabilities."""
        return self.note["classes"]

    @property
    def val_acc(self) -> float:
        """Mean validation accuracy over fits."""
        return float(np.mean([fit["val_acc"] for fit in self.note["fits"]]))

    @property
    def standing(self) -> Standing:
        """How good it is on the validation split."""
        records = [{"metrics": fit} for fit in self.note["fits"]]
        return Standing.of_records(records)._replace(n_features=self.note.get("n_features"))

    @cached_property
    def input(self) -> ModelInput:
        """What it reads of an adapter."""
        return ModelInput.from_json(self.note["input"])

    @property
    def best_fit(self) -> int:
        """The place among its fits of the one that stands best; of equals the first."""
        fits = self.note["fits"]
        return best_of({i: Standing.of_records([{"metrics": fit}]) for i, fit in enumerate(fits)})

    @property
    def origins(self) -> list[dict[str, str]]:
        """Where code of users' own is, relative to plugins/."""
        return [self.note[kind] for kind in ("plugin", "classifier_plugin") if self.note[kind]]

    def load(self, fits: Sequence[int], plugins: Path, *, run_plugins: bool) -> Model:
        """Read some of its classifiers.

        Arguments:
            fits: places among its fits.
            plugins: folder of copies of users' own code.
            run_plugins: whether to execute it.

        Raises:
            UserError: it is damaged, of another version of its parts, or needs code that is not to
                be run.
        """
        if self.origins and not run_plugins:
            raise UserError(
                f"{self.path} needs code that came with it ({plugins}): read it, and allow it with "
                "--run-plugins"
            )
        item = self._representation(plugins)
        classifier = self._classifier(plugins)
        chosen = [self.note["fits"][place] for place in fits]
        indices = sorted({fit["data"] for fit in chosen})
        wanted = [_part_of(fit) for fit in chosen] + [_data_part(i) for i in indices]
        try:
            _, parts = read_tensors(self.path, KIND, wanted)
        except (OSError, DamagedFileError) as error:
            raise UserError(f"{error}: export it again") from error
        layers = len(self.input.layers)
        data = {i: _read_data(parts[_data_part(i)], layers) for i in indices}
        config = classifier.Settings.from_json(self.note["settings"])
        found = []
        for fit in chosen:
            kept = FitState(parts[_part_of(fit)], fit["rest"])
            width = data[fit["data"]].transform.width
            loaded = classifier.load(kept, width, len(self.classes), config)
            found.append(LoadedFit(loaded, fit["temperature"], fit["data"]))
        return Model(self.input, item, data, found)

    def _representation(self, plugins: Path) -> Representation:
        reference, version = self.note["representation"], self.note["representation_version"]
        if self.note["plugin"]:
            origin = _origin(plugins, self.note["plugin"])
            found = load_representation(origin, reference.partition(":")[2] or None)
        else:
            found = get_representation(reference)
        if found.version != version:
            raise UserError(
                f"{self.path} was made with version {version} of {reference}, this is "
                f"{found.version}: run the sweep again"
            )
        return found

    def _classifier(self, plugins: Path) -> Classifier:
        name, version = self.note["classifier"], self.note["classifier_version"]
        if self.note["classifier_plugin"]:
            found = load_classifier(_origin(plugins, self.note["classifier_plugin"]))
        else:
            found = CLASSIFIERS[name]
        if found.version != version:
            raise UserError(
                f"{self.path} was made with version {version} of {name}, this is {found.version}: "
                "run the sweep again"
            )
        return found


def read_model(path: Path) -> ModelFile:
    """Open a model; its tensors are not read.

    Raises:
        UserError: it is damaged, or of a newer version.
    """
    try:
        note = read_note(path, KIND)
    except (OSError, DamagedFileError) as error:
        raise UserError(str(error)) from error
    if note["schema"] != SCHEMA:
        raise UserError(f"{path} was written by a newer version of lorasweep")
    return ModelFile(path, note)


def _origin(plugins: Path, value: Mapping[str, str]) -> Origin:
    """Code beside a model; only what it was made with is run."""
    origin = Origin(plugins / value["digest"], value["module"], value["object"], value["digest"])
    if source_digest(origin.root, origin.module) != origin.digest:
        raise UserError(f"{origin.root} is not the code that the model was made with")
    return origin


@dataclass(frozen=True)
class LoadedFit:
    """A trial's classifier, ready."""

    predictor: Predictor
    temperature: float
    data: int


@dataclass(frozen=True)
class Model:
    """A model that predicts.

    Attributes:
        input: what it reads of an adapter.
        item: the representation.
        data: by index, what its fits share.
        fits: those that were asked for.
    """

    input: ModelInput
    item: Representation
    data: dict[int, KeptData]
    fits: list[LoadedFit]

    def predict(self, stack: Stack, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """The first adapters of a stack.

        Returns:
            (rows, n_classes) calibrated probabilities, the mean over seeds; (rows,) how unlike the
            training adapters each is, see `Reference.unlike`. NaN where a feature is not finite.
        """
        import torch

        from .calibration import at_temperature

        values = None if self.item.kernel else self.input.values(self.item, stack, rows)
        probabilities: list[np.ndarray] = []
        unlike: list[np.ndarray] = []
        for index, data in self.data.items():
            if values is None:
                features, far = self._projected(data, stack, rows)
            else:
                features, far = values, None
            fine = np.isfinite(features).all(axis=1)
            x = data.transform.standardise(np.where(fine[:, None], features, 0.0))
            inputs = torch.from_numpy(data.transform.project(x))
            for fit in self.fits:
                if fit.data == index:
                    log_p = fit.predictor.predict(inputs)
                    p = np.exp(at_temperature(log_p, fit.temperature))
                    probabilities.append(np.where(fine[:, None], p, np.nan))
            unlike.append(data.reference.unlike(x) if far is None else far)
        return np.mean(probabilities, axis=0), np.mean(unlike, axis=0)

    def _projected(self, data: KeptData, stack: Stack, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates, and how unlike the landmarks."""
        assert data.projection is not None
        projection, landmarks = data.projection
        own = self.input.factors(stack, rows)
        products, squares = projection.products(self.item.kernel, own, landmarks)
        far = data.reference.unlike_products(products, squares)
        return projection.components.project(products), far
