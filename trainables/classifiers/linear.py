"""Multinomial logistic regression with an L2 penalty: the linear probe of Alain & Bengio (2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from features.core.errors import UserError

from . import base
from .base import Classifier, DataSize, Fit, FitState, Predictor, setting
from .footprint import FLOAT, base_host_bytes

if TYPE_CHECKING:
    from ..data import TrialData

MEMORY = 20
"""Pairs of steps that L-BFGS remembers."""

EVALUATION_ROWS = 2048
"""Samples evaluated at a time, in float64."""


@dataclass(frozen=True)
class LinearConfig(base.Config):
    """The path of penalties."""

    strongest: float = setting(1.0, "strongest L2 penalty, per mean loss; 1/(n·C) of scikit-learn")
    weakest: float = setting(1e-4, "weakest L2 penalty, per mean loss")
    strengths: int = setting(5, "penalties tried, evenly spaced in their logarithm")

    def __post_init__(self) -> None:
        """Raise a `UserError` naming the first impossible value."""
        if not (math.isfinite(self.weakest) and self.weakest > 0):
            raise UserError(f"--linear-weakest must be a positive number, not {self.weakest}")
        if not (math.isfinite(self.strongest) and self.strongest >= self.weakest):
            raise UserError(
                f"--linear-strongest must be at least --linear-weakest, not {self.strongest}"
            )
        if self.strengths < 1:
            raise UserError("--linear-strengths must be at least 1")

    def path(self) -> list[float]:
        """The penalties, strong to weak."""
        if self.strengths == 1:
            return [self.strongest]
        ratio = self.weakest / self.strongest
        return [self.strongest * ratio ** (i / (self.strengths - 1)) for i in range(self.strengths)]


class Linear(Classifier):
    """Logistic regression; the penalty is chosen on the validation split. On the CPU."""

    name = "linear"
    version = 1
    Config = LinearConfig
    seeded = False

    def host_bytes(self, size: DataSize, config: LinearConfig) -> int:
        """Bytes of main memory at most.

        The Gram matrix, the preconditioner and its factor; L-BFGS's pairs;
        logits and their temporaries; a block of samples in float64.
        """
        n_samples, n_features, n_classes = size.n_samples, size.n_features, size.n_classes
        side = min(n_samples, n_features)
        # With fewer samples than features: eigenvectors in float64, their solver's space, twice
        # scaled, and the same three.
        gram = side * side * (8 * 8 if n_samples < 2 * n_features else 3 * FLOAT)
        vectors = (2 * MEMORY + 16) * n_classes * (max(side, n_features) + 1) * 8
        logits = 12 * n_samples * n_classes * 8
        block = 2 * EVALUATION_ROWS * n_features * 8
        return base_host_bytes(size) + gram + vectors + logits + block

    def start(self, data: TrialData, config: LinearConfig, seed: int) -> Fit:
        """Begin a fit."""
        from .linear_training import LinearFit

        return LinearFit(data, config)

    def load(
        self, kept: FitState, n_features: int, n_classes: int, config: LinearConfig
    ) -> Predictor:
        """The best strength's weights."""
        from .linear_training import LinearModel

        return LinearModel(kept.tensors["weights"], kept.tensors["present"], n_classes)
