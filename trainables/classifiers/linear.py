"""Multinomial logistic regression with an L2 penalty: the linear probe of Alain & Bengio (2016)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Classifier, DataSize, Fit, FitState, Predictor
from .footprint import FLOAT, base_host_bytes
from .linear_settings import EVALUATION_ROWS, MEMORY, LinearSettings

if TYPE_CHECKING:
    from lorasweep.trainables.data.trial_data import TrialData


class Linear(Classifier):
    """Logistic regression; the penalty is chosen on the validation split. On the CPU."""

    name = "linear"
    version = 1
    step_names = ("penalty", "penalties")
    learning_curves = False
    Settings = LinearSettings
    seeded = False

    def host_bytes(self, size: DataSize, settings: LinearSettings) -> int:
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

    def start(self, data: TrialData, settings: LinearSettings, seed: int) -> Fit:
        """Begin a fit."""
        from .linear_training import LinearFit

        return LinearFit(data, settings)

    def load(
        self, state: FitState, n_features: int, n_outputs: int, settings: LinearSettings
    ) -> Predictor:
        """The best strength's weights."""
        from .linear_training import LinearModel

        return LinearModel(state.tensors["weights"], state.tensors["present"], n_outputs)
