"""Settings of logistic regression: its path of penalties."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorasweep.features.common.errors import UserError

from .base import Settings, setting

MEMORY = 20
"""Pairs of steps that L-BFGS remembers."""

EVALUATION_ROWS = 2048
"""Samples evaluated at a time, in float64."""


@dataclass(frozen=True)
class LinearSettings(Settings):
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
