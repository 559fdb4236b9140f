"""The multilayer perceptron of the script this project replaces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from features.core.errors import UserError

from . import base
from .base import Classifier, Fit, FitState, Predictor, setting
from .footprint import FLOAT, base_host_bytes, data_bytes

if TYPE_CHECKING:
    from ..data import TrialData

EVALUATION_ROWS = 8192
"""Samples evaluated at a time."""

_CONTEXT_BYTES = 1 << 30
"""Set aside for what every process keeps on a GPU besides its tensors: the CUDA context, the
kernels' code, cuBLAS's workspace, the allocator's fragments."""


@dataclass(frozen=True)
class MlpConfig(base.Config):
    """The network and how it is trained."""

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

    def __post_init__(self) -> None:
        """Raise a `UserError` naming the first impossible value."""
        # BatchNorm needs two samples.
        for name, least in (("hidden_dim", 1), ("batch_size", 2), ("epochs", 1), ("patience", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name.replace('_', '-')} must be at least {least}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout must be at least 0 and below 1, not {self.dropout}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"--lr must be a positive number, not {self.lr}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UserError(f"--weight-decay must not be negative, not {self.weight_decay}")


class Mlp(Classifier):
    """Three times Linear → BatchNorm → ReLU → Dropout, then Linear; Adam and early stopping."""

    name = "mlp"
    version = 2
    Config = MlpConfig

    def device_bytes(
        self, n_samples: int, n_features: int, n_classes: int, config: MlpConfig
    ) -> int:
        """Bytes of GPU memory at most: matrix, labels, network, and what every process keeps."""
        own = _network_bytes(n_samples, n_features, n_classes, config)
        return data_bytes(n_samples, n_features) + own + _CONTEXT_BYTES

    def host_bytes(self, n_samples: int, n_features: int, n_classes: int, config: MlpConfig) -> int:
        """Bytes of main memory at most on the CPU."""
        own = _network_bytes(n_samples, n_features, n_classes, config)
        return base_host_bytes(n_samples, n_features) + own

    def start(self, data: TrialData, config: MlpConfig, seed: int) -> Fit:
        """Begin training."""
        from .mlp_training import Training

        return Training(data, config, seed)

    def load(self, kept: FitState, n_features: int, n_classes: int, config: MlpConfig) -> Predictor:
        """The network with the weights of the best epoch."""
        from .mlp_training import Network, build_classifier

        model = build_classifier(n_features, n_classes, config)
        model.load_state_dict(kept.tensors)
        return Network(model)


def _network_bytes(n_samples: int, n_features: int, n_classes: int, config: MlpConfig) -> int:
    """The weights, their gradients, Adam's two moments and the best weights so far; the activations
    of the largest batch, those of evaluation, kept and temporary."""
    hidden = config.hidden_dim
    parameters = (n_features + 1) * hidden + 2 * (hidden + 1) * hidden + 6 * hidden
    parameters += (hidden + 1) * n_classes
    rows = max(min(EVALUATION_ROWS, n_samples), config.batch_size)
    # Linear, BatchNorm, ReLU and Dropout each keep one result for the backward pass.
    activations = rows * (n_features + 3 * 4 * hidden + 3 * n_classes) * FLOAT
    return 5 * parameters * FLOAT + activations
