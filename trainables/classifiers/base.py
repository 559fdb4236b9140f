"""The interface of a classifier: its declaration, and one fit of it, slice by slice."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from lorasweep.features.common.errors import UserError
from lorasweep.features.layers.factor_layout import FactorColumns, Layout

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lorasweep.trainables.data.trial_data import TrialData


def setting(default: Any, help: str, option: str = "") -> Any:
    """A field of a classifier's `Settings`.

    Arguments:
        default: its value unless the user gives another.
        help: what it is, in its unit; shown by `lorasweep run --help`.
        option: its command-line option; by default --CLASSIFIER-FIELD.
    """
    return field(default=default, metadata={"help": help, "option": option})


@dataclass(frozen=True)
class Settings:
    """Base of a classifier's settings: numbers and strings only, all with defaults.

    `__post_init__` of a subclass raises a `UserError` for an impossible value.
    """

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Any:
        """From a JSON object; what it lacks, because it is older, has its default.

        Raises:
            UserError: it has a setting that this version does not know.
        """
        known = {item.name for item in fields(cls)}
        unknown = sorted(value.keys() - known)
        if unknown:
            raise UserError(f"unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
        given = dict(value)
        for item in fields(cls):
            if item.name not in given:
                continue
            if not _fits(given[item.name], item.default):
                kind = type(item.default).__name__
                raise UserError(f"setting {item.name!r} must be of type {kind}")
            if isinstance(item.default, float):
                given[item.name] = float(given[item.name])  # 1 and 1.0 are one fingerprint
        return cls(**given)


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


@dataclass(frozen=True)
class FitProgress:
    """How far a fit is.

    Attributes:
        epoch: steps that are done; `Classifier.step_names` says what they are.
        val_acc: accuracy on the validation split after the last one, 0 to 1; None if not known.
    """

    epoch: int
    val_acc: float | None


@dataclass(frozen=True)
class FitState:
    """Everything that decides how a fit goes on.

    Attributes:
        tensors: name -> tensor, on any device.
        rest: the rest, as a JSON object.
    """

    tensors: dict[str, Tensor]
    rest: dict[str, Any]


@dataclass(frozen=True)
class LinearPart:
    """A classifier that sees its input through a linear map only.

    Attributes:
        weights: (k, n_features) float, on the data's device.
        rest: (n, k) x @ weights.T, in the weights' precision -> (n, n_classes) float64, what
            `Fit.predict` gives for x but for rounding.
    """

    weights: Tensor
    rest: Callable[[Tensor], np.ndarray]


@dataclass(frozen=True)
class LayerSum:
    """A classifier that sees its input through a sum over layers only.

    Attributes:
        layers: where their columns are.
        part: (n, n_features) of few samples, a layer -> (n, k) what it adds.
        rest: (n, k) sum -> (n, n_classes) float64, what `Fit.predict` gives for x but for
            rounding.
    """

    layers: Layout
    part: Callable[[Tensor, FactorColumns], Tensor]
    rest: Callable[[Tensor], np.ndarray]


class Predictor(ABC):
    """A fitted classifier, as far as it predicts."""

    @abstractmethod
    def predict(self, x: Tensor) -> np.ndarray:
        """Return (n, n_outputs) float64 for (n, n_features) float32 on its device.

        Of classes, the outputs are normalised log-probabilities, one for each class.
        """


class Fit(Predictor):
    """One classifier being fitted to one trial's training split."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether there is nothing left to do."""

    @property
    @abstractmethod
    def curves(self) -> Mapping[str, list[float]]:
        """Name -> one value per epoch so far; may be empty."""

    @abstractmethod
    def step(self) -> None:
        """The least that can be done at once: an epoch, a round, a penalty; or everything."""

    def advance(self, seconds: float) -> FitProgress:
        """Take steps for about so many seconds, one at least. Where the slices fall never changes
        a result."""
        began = time.perf_counter()
        while not self.finished:
            self.step()
            if time.perf_counter() - began >= seconds:
                break
        return self.progress

    @property
    def progress(self) -> FitProgress:
        """How far it is; by default what its curve of validation accuracies says."""
        accuracies = self.curves.get("val_acc_history")
        if accuracies:
            return FitProgress(len(accuracies), accuracies[-1])
        return FitProgress(int(self.finished), None)

    @abstractmethod
    def predict(self, x: Tensor) -> np.ndarray:
        """Return (n, n_outputs) float64 for (n, n_features) float32 on the data's device.

        Of classes, the outputs are normalised log-probabilities. Only a finished fit is asked.
        """

    @abstractmethod
    def outcome(self) -> dict[str, Any]:
        """What a finished fit tells beside its scores, for the record's `metrics`: `best_epoch` and
        `epochs_run`, and what else there is; numbers, booleans, strings or None."""

    # What a finished fit may tell of what it relies on

    def column_weights(self) -> np.ndarray | None:
        """(k, n_features) float: k weights of every standardised feature, of which a larger one
        counts for more; None: it has none."""
        return None

    def linear_part(self) -> LinearPart | None:
        """The linear map that its input goes through first, where that is all it sees of it; None
        if there is none. Permutation importance is several times faster with it."""
        return None

    def layer_sum(self) -> LayerSum | None:
        """The sum over layers that is all it sees of its input; None if there is none. Permutation
        importance then computes only the layers that are permuted."""
        return None

    def export_state(self) -> FitState | None:
        """Return what `Classifier.load` needs of a finished fit, or None if it keeps no model."""
        return None

    def state(self) -> FitState | None:
        """What `load_state` needs to go on bit for bit; None: it starts over after a kill."""
        return None

    def load_state(self, state: FitState) -> None:
        """Go on where `state` was taken."""
        raise NotImplementedError


@dataclass(frozen=True)
class DataSize:
    """How large a trial's data are.

    Attributes:
        n_samples: of all three splits together.
        n_features: columns of the matrix.
        n_classes: number of classes.
        layout: where the columns hold the layers' matrices; empty unless the classifier
            `reads_factors`.
    """

    n_samples: int
    n_features: int
    n_classes: int
    layout: Layout = ()


class Classifier(ABC):
    """A kind of classifier. Its module must not import torch or another heavy library."""

    name: ClassVar[str]
    """What users type and results are filed under: lower case, digits, underscores."""

    version: ClassVar[int]
    """Part of every trial's fingerprint: raised when the same inputs give other numbers."""

    Settings: ClassVar[type[Settings]]
    """Its settings."""

    seeded: ClassVar[bool] = True
    """Whether the seed changes anything. If not, one trial stands for all seeds of a split."""

    reads_factors: ClassVar[bool] = False
    """Whether it reads the two matrices of every layer. It then gets representations that have
    them and no others, not standardised, and `TrialData.layout` says where they stand."""

    step_names: ClassVar[tuple[str, str]] = ("epoch", "epochs")
    """Name of a step of a fit: of one, and of several."""

    learning_curves: ClassVar[bool] = True
    """Whether `Fit.curves` show learning: not, say, where each step is another penalty."""

    def refusal(self, n_features: int) -> str | None:
        """Why it cannot read a matrix of so many columns; None if it can."""
        return None

    def device_bytes(self, size: DataSize, settings: Any) -> int:
        """Bytes of GPU memory that a trial takes at most; 0 for one that stays on the CPU."""
        return 0

    def multiplications(self, size: DataSize, settings: Any) -> int:
        """Of one sample's way through it, roughly: a dry run guesses a trial's time from that."""
        return size.n_features * size.n_classes

    @abstractmethod
    def host_bytes(self, size: DataSize, settings: Any) -> int:
        """Bytes of main memory that a trial takes at most on the CPU, its matrices included."""

    @abstractmethod
    def start(self, data: TrialData, settings: Any, seed: int) -> Fit:
        """Begin a fit.

        Arguments:
            data: train, val and test, on one device; their features are standardised and
                transformed, or as they are if it `reads_factors`.
            seed: decides everything that is random.
        """

    def load(self, state: FitState, n_features: int, n_outputs: int, settings: Any) -> Predictor:
        """Return a predictor, on the CPU, that predicts as the fit did.

        Arguments:
            state: what `Fit.export_state` returned.
            n_features: columns of its input.
            n_outputs: columns of its prediction: of classes, their number.

        Raises:
            NotImplementedError: it keeps no model.
        """
        raise NotImplementedError(f"classifier {self.name} keeps no model")
