"""Settings of GL-net."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import setting
from .network_settings import NetworkSettings

EVALUATION_ROWS = 256
"""Samples evaluated at a time: of each, every layer has channels² invariants."""


@dataclass(frozen=True)
class GlNetSettings(NetworkSettings):
    """The network and how it is trained."""

    prefix: ClassVar[str] = "--gl-net-"

    hidden_dim: int = setting(128, "width of the head's hidden layer")
    dropout: float = setting(0.5, "probability of dropping a hidden unit, from 0 to below 1")
    lr: float = setting(3e-3, "initial learning rate of Adam")
    weight_decay: float = setting(1e-4, "L2 penalty of Adam")
    batch_size: int = setting(64, "samples per step, at least 2")
    epochs: int = setting(300, "at most this many passes over the training split")
    patience: int = setting(15, "epochs without a better validation accuracy before training stops")
    channels: int = setting(32, "channels that a layer's outputs, and its inputs, are mapped to")
    equivariant_layers: int = setting(2, "linear maps of the channels, with a gate between two")

    def __post_init__(self) -> None:
        """Raise a `UserError` naming the first impossible value."""
        super().__post_init__()
        self._require_at_least(channels=1, equivariant_layers=1)
