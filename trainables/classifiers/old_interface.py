"""Classifier plug-ins of version 0.1: `Config`, `Fit.log_probabilities` and `Fit.kept`."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from . import base
from .base import DataSize, FitState, LayerSum, LinearPart, setting
from .base import FitProgress as Progress
from .base import Settings as Config

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = [
    "Classifier",
    "Config",
    "DataSize",
    "Fit",
    "FitState",
    "LayerSum",
    "LinearPart",
    "Predictor",
    "Progress",
    "setting",
]


class Predictor(base.Predictor):
    """A fitted classifier whose prediction is called `log_probabilities`."""

    @abstractmethod
    def log_probabilities(self, x: Tensor) -> np.ndarray:
        """Return what `predict` returns today."""

    def predict(self, x: Tensor) -> np.ndarray:
        """Return (n, n_classes) float64 log-probabilities."""
        return self.log_probabilities(x)


class Fit(Predictor, base.Fit):
    """A fit whose state is exported by `kept`."""

    def kept(self) -> FitState | None:
        """Return what `export_state` returns today."""
        return None

    def export_state(self) -> FitState | None:
        """Return what `Classifier.load` needs, or None."""
        return self.kept()


class Classifier(base.Classifier):
    """A classifier whose settings are called `Config`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Config" in vars(cls):
            cls.Settings = vars(cls)["Config"]
