"""Fitting a path of L2-penalised multinomial logistic regressions to the last digits.

The objective is the mean cross entropy plus λ/2 times the squared weights; intercepts are not
penalised. It is minimised by L-BFGS with the preconditioner (κ XᵀX/n + λI)⁻¹: at any weights the
Hessian is at most ½ XᵀX/n + λI (Böhning 1992), whatever the correlations between features.
Along a direction the objective needs no look at the features, so the line search is as good as
exact. A step reads the training split twice.

With fewer samples than features the weights are combinations of samples. The eigenvectors of XXᵀ
then give as many coordinates as there are samples, in which the objective is the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lorasweep.trainables.data.trial_data import TrialData

from .base import Fit, FitState, LinearPart, Predictor
from .linear_settings import EVALUATION_ROWS, MEMORY, LinearSettings
from .probabilities import with_absent_classes

GRADIENT_TOLERANCE = 1e-6
"""A fit has converged when no component of the objective's gradient is larger."""

_MOST_STEPS = 1000
_ROWS = 4096
_COLUMNS = 1024
_SMALLEST_EIGENVALUE = 1e-12
_SLOPE_LEFT = 0.1


@dataclass(frozen=True)
class LinearModel(Predictor):
    """Weights that predict.

    Attributes:
        weights: (n_present, n_features + 1) float64, the intercepts last.
        present: (n_present,) int64 ascending classes that they are of.
        n_classes: all there are.
    """

    weights: Tensor
    present: Tensor
    n_classes: int

    def predict(self, x: Tensor) -> np.ndarray:
        """(n, n_features) float32 -> (n, n_classes) float64."""
        # In float64, since a feature outside the training split may be as large as float32 allows.
        weights = self.weights[:, :-1].T
        return self.normalised(torch.cat([p.double() @ weights for p in x.split(EVALUATION_ROWS)]))

    def normalised(self, logits: Tensor) -> np.ndarray:
        """(n, n_present) float64 logits without intercepts -> (n, n_classes) float64."""
        log_p = (logits + self.weights[:, -1]).log_softmax(1).numpy()
        return with_absent_classes(log_p, self.present.numpy(), self.n_classes)


class LinearFit(Fit):
    """The path from the strongest penalty to the weakest; a step is one strength."""

    def __init__(self, data: TrialData, settings: LinearSettings) -> None:
        self._data, self._path = data, settings.path()
        self._present, target = data.train.y.unique(return_inverse=True)
        self._problem = _Problem(data.train.x, target, len(self._present))
        self._at = torch.zeros(self._problem.shape, dtype=torch.float64)
        k = len(self._present)
        self._weights = torch.zeros(k, data.n_features + 1, dtype=torch.float64)
        self._best_epoch = 0
        self._converged = True
        self._accuracies: list[float] = []
        self._losses: list[float] = []

    @property
    def finished(self) -> bool:
        """Whether all strengths are done."""
        return len(self._accuracies) >= len(self._path)

    @property
    def curves(self) -> Mapping[str, list[float]]:
        """Accuracy and log loss on the validation split by strength, strong to weak."""
        return {"val_acc_history": self._accuracies, "val_loss_history": self._losses}

    def step(self) -> None:
        """Fit the next strength, starting where the one before ended."""
        strength = self._path[len(self._accuracies)]
        self._at, converged = _minimise(self._problem, self._at, strength)
        self._converged = self._converged and converged
        weights = self._problem.weights(self._at)
        val = self._data.val
        log_p = self._model(weights).predict(val.x)
        truth = val.y.numpy()
        accuracy = float((log_p.argmax(1) == truth).mean())
        loss = float(-log_p[np.arange(len(truth)), truth].mean())
        best = self._best_epoch - 1
        if best < 0 or (accuracy, -loss) > (self._accuracies[best], -self._losses[best]):
            self._best_epoch, self._weights = len(self._accuracies) + 1, weights
        self._accuracies.append(accuracy)
        self._losses.append(loss)

    def predict(self, x: Tensor) -> np.ndarray:
        """(n, n_features) float32 -> (n, n_classes) float64, with the best strength's weights."""
        return self._model(self._weights).predict(x)

    def _model(self, weights: Tensor) -> LinearModel:
        return LinearModel(weights, self._present, self._data.n_classes)

    def export_state(self) -> FitState:
        """The best strength's weights, and the classes they are of."""
        return FitState({"weights": self._weights, "present": self._present}, {})

    def column_weights(self) -> np.ndarray:
        """(n_present, n_features) float64: the best strength's weights, a row for each class that
        the training split has."""
        return self._weights[:, :-1].numpy()

    def linear_part(self) -> LinearPart:
        """The logits."""
        return LinearPart(self._weights[:, :-1], self._model(self._weights).normalised)

    def outcome(self) -> dict[str, Any]:
        """Which strength is best, itself, and whether every fit of the path converged."""
        return {
            "best_epoch": self._best_epoch,
            "epochs_run": len(self._accuracies),
            "strength": self._path[self._best_epoch - 1],
            "converged": self._converged,
        }

    def state(self) -> FitState:
        """Where the last strength ended, and the best weights so far."""
        rest = {
            "val_acc_history": self._accuracies,
            "val_loss_history": self._losses,
            "best_epoch": self._best_epoch,
            "converged": self._converged,
        }
        return FitState({"at": self._at, "best": self._weights}, rest)

    def load_state(self, state: FitState) -> None:
        """Go on with the next strength."""
        self._at, self._weights = state.tensors["at"].cpu(), state.tensors["best"].cpu()
        self._accuracies = list(state.rest["val_acc_history"])
        self._losses = list(state.rest["val_loss_history"])
        self._best_epoch = state.rest["best_epoch"]
        self._converged = state.rest["converged"]


class _Problem:
    """The training split, in as few coordinates as it needs.

    A point is (n_classes, m + 1) float64: m coordinates and the intercept of every class.

    Arguments:
        x: (n, n_features) float32.
        y: (n,) int64, every class from 0 to n_classes − 1 present.
    """

    def __init__(self, x: Tensor, y: Tensor, n_classes: int) -> None:
        self.n = len(y)
        self.truth = torch.nn.functional.one_hot(y, n_classes).double()
        self._x, self._z = x, x
        self._back: Tensor | None = None
        self._gram: Tensor | None = None
        if x.shape[0] < x.shape[1]:
            self._rotate()
        self.shape = (n_classes, self._z.shape[1] + 1)

    def _rotate(self) -> None:
        """Take the coordinates Z = US^½ of XXᵀ = USUᵀ; weights are then XᵀUS^-½ times a point."""
        products = torch.zeros(self.n, self.n, dtype=torch.float64)
        for part in self._x.split(_COLUMNS, dim=1):
            exact = part.double()
            products.addmm_(exact, exact.T)
        if not products.isfinite().all():
            raise RuntimeError("the features hold values that are not finite")
        values, vectors = torch.linalg.eigh(products)
        del products
        # At least one direction is none, since features have mean 0.
        first = int((values <= _SMALLEST_EIGENVALUE * values[-1]).sum())
        values, vectors = values[first:], vectors[:, first:]
        self._z = vectors * values.sqrt()
        self._back = vectors / values.sqrt()
        self._gram = values.diag()

    @property
    def gram(self) -> Tensor:
        """ZᵀZ, (m, m); made when first needed. Only the preconditioner is made of it."""
        if self._gram is None:
            self._gram = self._z.T @ self._z
        return self._gram

    def logits(self, point: Tensor) -> Tensor:
        """(n, n_classes) float64."""
        return (self._z @ point[:, :-1].to(self._z.dtype).T).double() + point[:, -1]

    def gradient(self, logits: Tensor, point: Tensor, strength: float) -> tuple[Tensor, float]:
        """The objective's gradient as a point, and a bound of its largest component by weight."""
        errors = ((logits.softmax(1) - self.truth) / self.n).T
        gradient = torch.cat([_combine(errors, self._z, _ROWS), errors.sum(1)[:, None]], 1)
        gradient[:, :-1] += strength * point[:, :-1]
        # The rotation keeps lengths, not components.
        bound = gradient.abs().amax() if self._back is None else gradient.norm(dim=1).amax()
        return gradient, bound.item()

    def weights(self, point: Tensor) -> Tensor:
        """(n_classes, n_features + 1) float64: weights and intercepts."""
        if self._back is None:
            return point.clone()
        by_sample = point[:, :-1] @ self._back.T
        total = torch.zeros(len(point), self._x.shape[1], dtype=torch.float64)
        for start in range(0, self.n, EVALUATION_ROWS):
            rows = slice(start, start + EVALUATION_ROWS)
            total += by_sample[:, rows] @ self._x[rows].double()
        return torch.cat([total, point[:, -1:]], 1)


def _combine(by_sample: Tensor, rows: Tensor, at_a_time: int) -> Tensor:
    """(k, n) float64 times (n, m) -> (k, m) float64; in the rows' precision within a block."""
    total = torch.zeros(len(by_sample), rows.shape[1], dtype=torch.float64)
    for factor, block in zip(by_sample.split(at_a_time, dim=1), rows.split(at_a_time)):
        # The small factor comes first: the other order is ten times slower.
        total += factor.to(block.dtype) @ block
    return total


class _Preconditioner:
    """(κ Gram/n + λI)⁻¹ for the coordinates, 1/κ for the intercepts.

    κ is the mean curvature of the cross entropy at the given logits.
    """

    def __init__(self, problem: _Problem, logits: Tensor, strength: float) -> None:
        p = logits.softmax(1)
        k = p.shape[1]
        self._curvature = max((p * (1 - p)).mean().item() * k / max(k - 1, 1), 1e-6)
        matrix = problem.gram * (self._curvature / problem.n)
        diagonal, added = matrix.diagonal(), strength
        diagonal += added
        while True:
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if not failed:
                break
            # In float32 a weak penalty may vanish beside strongly correlated features.
            diagonal += 9 * added
            added *= 10
        self._factor = factor

    def __call__(self, point: Tensor) -> Tensor:
        solved = torch.cholesky_solve(
            point[:, :-1].to(self._factor.dtype).T, self._factor
        ).T.double()
        return torch.cat([solved, point[:, -1:] / self._curvature], 1)


def _minimise(problem: _Problem, at: Tensor, strength: float) -> tuple[Tensor, bool]:
    """The minimum for one strength, from a given point, and whether it was reached."""
    logits = problem.logits(at)
    gradient, largest = problem.gradient(logits, at, strength)
    if not np.isfinite(largest):
        raise RuntimeError("the features hold values that are not finite")
    fresh = True
    precondition: _Preconditioner | None = None
    pairs: list[tuple[Tensor, Tensor, float]] = []
    for _ in range(_MOST_STEPS):
        if largest <= GRADIENT_TOLERANCE:
            if fresh:
                return at, True
            # Steps have been added to the logits; the rounding of each stays in them.
            logits = problem.logits(at)
            gradient, largest = problem.gradient(logits, at, strength)
            fresh = True
            continue
        if precondition is None:
            precondition = _Preconditioner(problem, logits, strength)
        direction = _direction(gradient, precondition, pairs)
        change = problem.logits(direction)
        penalty = [
            strength * (of[:, :-1] * direction[:, :-1]).sum().item() for of in (at, direction)
        ]
        step = _search(logits, change, problem.truth, penalty)
        if step is None:
            if not pairs:
                return at, False
            pairs.clear()
            continue
        moved = step * direction
        at, logits, fresh = at + moved, logits + step * change, False
        before = gradient
        gradient, largest = problem.gradient(logits, at, strength)
        bend = gradient - before
        curvature = (moved * bend).sum().item()
        if curvature > 0:
            pairs = [*pairs[-MEMORY + 1 :], (moved, bend, 1 / curvature)]
    return at, False


def _direction(
    gradient: Tensor,
    precondition: _Preconditioner,
    pairs: list[tuple[Tensor, Tensor, float]],
) -> Tensor:
    """L-BFGS's two loops (Nocedal & Wright, algorithm 7.4) around the preconditioner."""
    q, weights = gradient.clone(), []
    for moved, bend, inverse in reversed(pairs):
        weights.append(inverse * (moved * q).sum())
        q -= weights[-1] * bend
    r = precondition(q)
    for (moved, bend, inverse), weight in zip(pairs, reversed(weights)):
        r += (weight - inverse * (bend * r).sum()) * moved
    return -r


def _search(logits: Tensor, change: Tensor, truth: Tensor, penalty: list[float]) -> float | None:
    """A step along which the slope falls to a tenth; None if it does not go down.

    Newton's method on the slope, which rises, kept inside a bracket.
    """
    n = len(logits)
    fixed = (truth * change).sum().item()

    def slope(step: float) -> tuple[float, float]:
        p = (logits + step * change).softmax(1)
        mean = (p * change).sum(1)
        bend = (p * change.square()).sum().item() - mean.square().sum().item()
        first = (mean.sum().item() - fixed) / n + penalty[0] + step * penalty[1]
        return first, bend / n + penalty[1]

    start, _ = slope(0.0)
    if not start < 0:
        return None
    low, high, step = 0.0, float("inf"), 1.0
    for _ in range(50):
        value, bend = slope(step)
        if abs(value) <= -_SLOPE_LEFT * start:
            break
        low, high = (step, high) if value < 0 else (low, step)
        proposed = step - value / bend if bend > 0 else float("inf")
        if not low < proposed < high:
            proposed = 2 * step if high == float("inf") else (low + high) / 2
        step = proposed
    return step
