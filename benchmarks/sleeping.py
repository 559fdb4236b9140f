"""A classifier that sleeps and learns nothing: what its trials cost is what a trial costs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lorasweep.trainables.classifiers.base import (
    Classifier,
    DataSize,
    Fit,
    FitState,
    Settings,
    setting,
)
from lorasweep.trainables.data.trial_data import TrialData


@dataclass(frozen=True)
class SleepingSettings(Settings):
    """For how long."""

    steps: int = setting(1, "steps")
    seconds: float = setting(1.0, "seconds of a step")


class SleepingFit(Fit):
    """Finds every class as likely as any other."""

    def __init__(self, data: TrialData, settings: SleepingSettings) -> None:
        self.n_classes, self.settings, self.done = data.n_classes, settings, 0

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.done == self.settings.steps

    @property
    def curves(self) -> Mapping[str, list[float]]:
        """One value a step, for a progress that can be seen."""
        return {"val_acc_history": [0.0] * self.done}

    def step(self) -> None:
        """Sleep."""
        time.sleep(self.settings.seconds)
        self.done += 1

    def predict(self, x: torch.Tensor) -> np.ndarray:
        """The same for all."""
        return np.full((len(x), self.n_classes), -np.log(self.n_classes))

    def outcome(self) -> dict[str, Any]:
        """How many steps."""
        return {"best_epoch": 1, "epochs_run": self.done}

    def state(self) -> FitState:
        """How many steps are done."""
        return FitState({}, {"done": self.done})

    def load_state(self, state: FitState) -> None:
        """Go on from there."""
        self.done = state.rest["done"]


class Sleeping(Classifier):
    """See above."""

    name, version, Settings = "sleeping", 1, SleepingSettings

    def host_bytes(self, size: DataSize, settings: Settings) -> int:
        """Next to nothing."""
        return 1 << 28

    def start(self, data: TrialData, settings: Any, seed: int) -> Fit:
        """Go to sleep."""
        return SleepingFit(data, settings)
