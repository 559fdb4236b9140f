"""Settings of the multilayer perceptron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import setting
from .network_settings import NetworkSettings

EVALUATION_ROWS = 8192
"""Samples evaluated at a time."""


@dataclass(frozen=True)
class MlpSettings(NetworkSettings):
    """The network and how it is trained."""

    prefix: ClassVar[str] = "--"

    hidden_dim: int = setting(512, "width of the three hidden layers", "--hidden-dim")
    dropout: float = setting(
        0.5, "probability of dropping a hidden unit, from 0 to below 1", "--dropout"
    )
    lr: float = setting(1e-3, "initial learning rate of Adam", "--lr")
    weight_decay: float = setting(1e-4, "L2 penalty of Adam", "--weight-decay")
    batch_size: int = setting(64, "samples per step, at least 2", "--batch-size")
    epochs: int = setting(300, "at most this many passes over the training split", "--epochs")
    patience: int = setting(
        15,
        "epochs without a better validation accuracy before training stops",
        "--patience",
    )
