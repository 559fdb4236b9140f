"""The multilayer perceptron of the script this project replaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Classifier, DataSize, Fit, FitState, Predictor, setting
from .footprint import FLOAT, GPU_CONTEXT_BYTES, base_host_bytes, data_bytes
from .network import NetworkConfig

if TYPE_CHECKING:
    from ..data import TrialData

EVALUATION_ROWS = 8192
"""Samples evaluated at a time."""


@dataclass(frozen=True)
class MlpConfig(NetworkConfig):
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


class Mlp(Classifier):
    """Three times Linear → BatchNorm → ReLU → Dropout, then Linear; Adam and early stopping."""

    name = "mlp"
    version = 2
    Config = MlpConfig

    def device_bytes(self, size: DataSize, config: MlpConfig) -> int:
        """Bytes of GPU memory at most: matrix, labels, network, and what every process keeps."""
        return data_bytes(size) + _network_bytes(size, config) + GPU_CONTEXT_BYTES

    def multiplications(self, size: DataSize, config: MlpConfig) -> int:
        """The three hidden layers and the last one."""
        return (size.n_features + 2 * config.hidden_dim + size.n_classes) * config.hidden_dim

    def host_bytes(self, size: DataSize, config: MlpConfig) -> int:
        """Bytes of main memory at most on the CPU."""
        return base_host_bytes(size) + _network_bytes(size, config)

    def start(self, data: TrialData, config: MlpConfig, seed: int) -> Fit:
        """Begin training."""
        from .mlp_training import Training

        return Training(data, config, seed)

    def load(self, kept: FitState, n_features: int, n_classes: int, config: MlpConfig) -> Predictor:
        """The network with the weights of the best epoch."""
        from .mlp_training import build_classifier
        from .network_training import Network

        model = build_classifier(n_features, n_classes, config)
        model.load_state_dict(kept.tensors)
        return Network(model, EVALUATION_ROWS)


def _network_bytes(size: DataSize, config: MlpConfig) -> int:
    """The weights, their gradients, Adam's two moments and the best weights so far; the activations
    of the largest batch, those of evaluation, kept and temporary."""
    hidden, n_features, n_classes = config.hidden_dim, size.n_features, size.n_classes
    parameters = (n_features + 1) * hidden + 2 * (hidden + 1) * hidden + 6 * hidden
    parameters += (hidden + 1) * n_classes
    rows = max(min(EVALUATION_ROWS, size.n_samples), config.batch_size)
    # Linear, BatchNorm, ReLU and Dropout each keep one result for the backward pass.
    activations = rows * (n_features + 3 * 4 * hidden + 3 * n_classes) * FLOAT
    return 5 * parameters * FLOAT + activations
