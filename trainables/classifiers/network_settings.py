"""Settings that all classifiers trained by gradient descent have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from lorasweep.features.common.errors import UserError

from .base import Settings


@dataclass(frozen=True)
class NetworkSettings(Settings):
    """What decides how a network is trained; a subclass gives each field its default and help.

    Attributes:
        prefix: what its command-line options begin with, for error messages.
    """

    prefix: ClassVar[str]

    hidden_dim: int
    dropout: float
    lr: float
    weight_decay: float
    batch_size: int
    epochs: int
    patience: int

    def __post_init__(self) -> None:
        """Raise a `UserError` naming the first impossible value."""
        self._require_at_least(hidden_dim=1, epochs=1, patience=1)
        # BatchNorm needs two samples.
        self._require_at_least(batch_size=2)
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"{self.option('dropout')} must be at least 0 and below 1, not {self.dropout}"
            )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"{self.option('lr')} must be a positive number, not {self.lr}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UserError(
                f"{self.option('weight_decay')} must not be negative, not {self.weight_decay}"
            )

    def option(self, name: str) -> str:
        """The command-line option of a setting."""
        return self.prefix + name.replace("_", "-")

    def _require_at_least(self, **least: int) -> None:
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"{self.option(name)} must be at least {value}")
