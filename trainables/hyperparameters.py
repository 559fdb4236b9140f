"""Everything about training that decides a trial's number."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from features.core.errors import UserError

TRAINER_VERSION = 2
"""Part of every trial's fingerprint: raise it when the same inputs give other numbers."""


@dataclass(frozen=True)
class Hyperparameters:
    """The classifier and how it is trained.

    Attributes:
        hidden_dim: width of the three hidden layers.
        dropout: probability of dropping a hidden unit, in [0, 1).
        lr: initial learning rate of Adam.
        weight_decay: L2 penalty of Adam.
        batch_size: samples per step, at least 2 (BatchNorm needs two).
        epochs: at most this many passes over the training split.
        patience: epochs without a better validation accuracy before training stops.
        threads: CPU threads of one trial; another number gives other rounding.
    """

    hidden_dim: int = 512
    dropout: float = 0.5
    lr: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 64
    epochs: int = 300
    patience: int = 15
    threads: int = 1

    def validate(self) -> None:
        """Raise a `UserError` naming the first impossible value."""
        for name, least in (
            ("hidden_dim", 1),
            ("batch_size", 2),
            ("epochs", 1),
            ("patience", 1),
            ("threads", 1),
        ):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} must be at least {least}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout must be at least 0 and below 1, not {self.dropout}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"--lr must be a positive number, not {self.lr}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UserError(f"--weight-decay must not be negative, not {self.weight_decay}")

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)
