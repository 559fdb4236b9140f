"""Nearest neighbours by cosine similarity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import base
from .base import Classifier, DataSize, Fit, FitState, LinearPart, Predictor
from .footprint import FLOAT, base_host_bytes

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from lorasweep.trainables.data.trial_data import TrialData

NEIGHBOURS = (1, 3, 5, 9)
"""Numbers of neighbours tried."""

_ROWS = 256


class Neighbours(Classifier):
    """The vote of the k nearest training samples by cosine similarity; on the CPU.

    k is that of 1, 3, 5 and 9 with the best validation accuracy, of equal ones the smallest; one
    above the number of training samples is left out. Which of equally near samples count is the
    same every time, but nothing else is said of it. With at most 10 samples the three splits
    coincide, every sample is its own nearest neighbour, and k = 1 is always right.
    """

    name = "neighbours"
    version = 1
    step_names = ("value of k", "values of k")
    learning_curves = False
    seeded = False

    @dataclass(frozen=True)
    class Settings(base.Settings):
        """It has no settings."""

    def host_bytes(self, size: DataSize, settings: Any) -> int:
        """Bytes of main memory at most: the training split of unit length, and a block of rows with
        their products."""
        block = _ROWS * (size.n_features * (8 + FLOAT) + size.n_samples * 3 * FLOAT)
        votes = 4 * size.n_samples * size.n_classes * 8
        own = size.n_samples * size.n_features * FLOAT + block + votes
        return base_host_bytes(size) + own

    def start(self, data: TrialData, settings: Any, seed: int) -> Fit:
        """Begin a fit."""
        return NeighboursFit(data)

    def load(self, state: FitState, n_features: int, n_outputs: int, settings: Any) -> Predictor:
        """The training split and k."""
        return Votes(state.tensors["unit"], state.tensors["y"], n_outputs, state.rest["neighbours"])


@dataclass(frozen=True)
class Votes(Predictor):
    """A training split that votes.

    Attributes:
        unit: (n_train, n_features) float32, its samples of length 1.
        y: (n_train,) int64 class indices.
        n_classes: all there are.
        k: how many vote.
    """

    unit: Tensor
    y: Tensor
    n_classes: int
    k: int

    def predict(self, x: Tensor) -> np.ndarray:
        """(n, n_features) float32 -> (n, n_classes) float64; see `NeighboursFit`."""
        return self.from_votes(self.votes(x, [self.k])[self.k])

    def from_votes(self, votes: np.ndarray) -> np.ndarray:
        """(n, n_classes) votes of k -> (n, n_classes) log-probabilities, float64."""
        import numpy as np

        return np.log((votes + 1 / self.n_classes) / (self.k + 1))

    def votes(self, x: Tensor, ks: list[int]) -> dict[int, np.ndarray]:
        """k -> (n, n_classes) votes of the k nearest training samples, float64."""
        import torch

        parts: dict[int, list[Tensor]] = {k: [] for k in ks}
        for block in x.split(_ROWS):
            votes = self.nearest(_unit_length(block) @ self.unit.T, max(ks))
            for k in ks:
                parts[k].append(votes[:, :k].sum(1))
        return {k: torch.cat(part).numpy() for k, part in parts.items()}

    def nearest(self, similarity: Tensor, most: int) -> Tensor:
        """(n, n_train) similarities -> (n, most, n_classes) float64: one vote of each of the `most`
        nearest training samples, the nearest first."""
        import torch

        # Sorting all would take longer than the products.
        classes = self.y[similarity.topk(most, dim=1).indices]
        return torch.nn.functional.one_hot(classes, self.n_classes).double()


class NeighboursFit(Fit):
    """All k at once; it cannot be interrupted."""

    def __init__(self, data: TrialData) -> None:
        self._data = data
        self._unit = _unit_length(data.train.x)
        self._accuracies: list[float] = []
        self._best = 0

    @property
    def finished(self) -> bool:
        """Whether k is chosen."""
        return bool(self._accuracies)

    @property
    def curves(self) -> Mapping[str, list[float]]:
        """Accuracy on the validation split by k."""
        return {"val_acc_history": self._accuracies}

    def step(self) -> None:
        """Choose k."""
        tried = [k for k in NEIGHBOURS if k <= len(self._unit)]
        truth = self._data.val.y.numpy()
        votes = self._model.votes(self._data.val.x, tried)
        self._accuracies = [float((votes[k].argmax(1) == truth).mean()) for k in tried]
        self._best = self._accuracies.index(max(self._accuracies))

    def predict(self, x: Tensor) -> np.ndarray:
        """(n, n_features) float32 -> (n, n_classes) float64.

        One vote is spread evenly over all classes, beside the k of the neighbours:
        (votes + 1/n_classes) / (k + 1). Of classes with as many votes, that with the lowest index
        is predicted.
        """
        return self._model.predict(x)

    def export_state(self) -> FitState:
        """The training split of unit length, its classes, and k."""
        tensors = {"unit": self._unit, "y": self._data.train.y}
        return FitState(tensors, {"neighbours": self._k})

    def linear_part(self) -> LinearPart:
        """The products with the training samples of unit length: they rank as the cosines do."""
        import torch

        model = self._model

        def rest(products: Tensor) -> np.ndarray:
            blocks = products.split(_ROWS)
            return model.from_votes(
                torch.cat([model.nearest(block, model.k).sum(1) for block in blocks]).numpy()
            )

        return LinearPart(self._unit, rest)

    @property
    def _k(self) -> int:
        """The chosen one."""
        return NEIGHBOURS[self._best]

    @property
    def _model(self) -> Votes:
        return Votes(self._unit, self._data.train.y, self._data.n_classes, self._k)

    def outcome(self) -> dict[str, Any]:
        """Which k is best, and itself."""
        return {
            "best_epoch": self._best + 1,
            "epochs_run": len(self._accuracies),
            "neighbours": self._k,
        }


def _unit_length(x: Tensor) -> Tensor:
    """Rows scaled to length 1 in float64, as float32; a row of zeros stays one.

    Raises:
        RuntimeError: a value is not finite.
    """
    import torch

    scaled = torch.empty_like(x)
    for source, target in zip(x.split(_ROWS), scaled.split(_ROWS)):
        exact = source.double()
        length = exact.norm(dim=1, keepdim=True)
        if not length.isfinite().all():
            raise RuntimeError("the features hold values that are not finite")
        target.copy_(exact / length.where(length > 0, 1.0))
    return scaled
