"""GL-net: a network that sees the update, not how it is factored (Putterman et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Classifier, DataSize, Fit, FitState, Predictor, setting
from .footprint import FLOAT, GPU_CONTEXT_BYTES, base_host_bytes, data_bytes
from .network import NetworkConfig

if TYPE_CHECKING:
    from ..data import TrialData

EVALUATION_ROWS = 256
"""Samples evaluated at a time: of each, every layer has channels² invariants."""


@dataclass(frozen=True)
class GlNetConfig(NetworkConfig):
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


class GlNet(Classifier):
    """Equivariant maps of a layer's factors, inner products of theirs, and a perceptron on those;
    Adam and early stopping."""

    name = "gl_net"
    version = 1
    Config = GlNetConfig
    reads_factors = True

    def device_bytes(self, size: DataSize, config: GlNetConfig) -> int:
        """Bytes of GPU memory at most: matrix, labels, network, and what every process keeps."""
        return data_bytes(size) + _network_bytes(size, config) + GPU_CONTEXT_BYTES

    def multiplications(self, size: DataSize, config: GlNetConfig) -> int:
        """Maps of every factor's columns, the products of what they make, and the head."""
        channels, deeper = config.channels, config.equivariant_layers - 1
        mapped = sum(
            layer.rank * (layer.outputs + layer.inputs + (2 * deeper + 1) * channels)
            for layer in size.layout
        )
        invariants = len(size.layout) * channels**2
        return mapped * channels + (invariants + size.n_classes) * config.hidden_dim

    def host_bytes(self, size: DataSize, config: GlNetConfig) -> int:
        """Bytes of main memory at most on the CPU."""
        return base_host_bytes(size) + _network_bytes(size, config)

    def start(self, data: TrialData, config: GlNetConfig, seed: int) -> Fit:
        """Begin training."""
        from .gl_net_training import GlNetTraining

        return GlNetTraining(data, config, seed)

    def load(
        self, kept: FitState, n_features: int, n_classes: int, config: GlNetConfig
    ) -> Predictor:
        """The network with the weights of the best epoch."""
        from features.layout import LayerFactors

        from .gl_net_training import GlNetwork
        from .network_training import Network

        layout = tuple(LayerFactors(**layer) for layer in kept.rest["layout"])
        model = GlNetwork(layout, n_classes, config)
        model.load_state_dict(kept.tensors)
        return Network(model, EVALUATION_ROWS)


def _network_bytes(size: DataSize, config: GlNetConfig) -> int:
    """The weights, their gradients, Adam's two moments and the best weights so far; a batch of
    factors, once more in another order, and what their maps and the head make of them, with its
    gradients; a block of one layer in float64."""
    channels, hidden, layout = config.channels, config.hidden_dim, size.layout
    deeper = config.equivariant_layers - 1
    invariants = len(layout) * channels**2
    parameters = sum(layer.outputs + layer.inputs for layer in layout) * channels
    parameters += 2 * deeper * invariants
    parameters += (invariants + 3) * hidden + (hidden + 1) * size.n_classes
    mapped = 2 * channels * sum(layer.rank for layer in layout)
    activations = 3 * size.n_features + (6 + 5 * deeper) * mapped + 4 * invariants + 12 * hidden
    rows = max(min(EVALUATION_ROWS, size.n_samples), config.batch_size)
    exact = EVALUATION_ROWS * max((layer.width for layer in layout), default=0) * 8
    return 5 * parameters * FLOAT + rows * activations * FLOAT + 2 * exact
