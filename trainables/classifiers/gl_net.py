"""GL-net: a network that sees the update, not how it is factored (Putterman et al. 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Classifier, DataSize, Fit, FitState, Predictor
from .footprint import FLOAT, GPU_CONTEXT_BYTES, base_host_bytes, data_bytes
from .gl_net_settings import EVALUATION_ROWS, GlNetSettings

if TYPE_CHECKING:
    from lorasweep.trainables.data.trial_data import TrialData


class GlNet(Classifier):
    """Equivariant maps of a layer's factors, inner products of theirs, and a perceptron on those;
    Adam and early stopping."""

    name = "gl_net"
    version = 1
    Settings = GlNetSettings
    reads_factors = True

    def device_bytes(self, size: DataSize, settings: GlNetSettings) -> int:
        """Bytes of GPU memory at most: matrix, labels, network, and what every process keeps."""
        return data_bytes(size) + _network_bytes(size, settings) + GPU_CONTEXT_BYTES

    def multiplications(self, size: DataSize, settings: GlNetSettings) -> int:
        """Maps of every factor's columns, the products of what they make, and the head."""
        channels, deeper = settings.channels, settings.equivariant_layers - 1
        mapped = sum(
            layer.rank * (layer.outputs + layer.inputs + (2 * deeper + 1) * channels)
            for layer in size.layout
        )
        invariants = len(size.layout) * channels**2
        return mapped * channels + (invariants + size.n_classes) * settings.hidden_dim

    def host_bytes(self, size: DataSize, settings: GlNetSettings) -> int:
        """Bytes of main memory at most on the CPU."""
        return base_host_bytes(size) + _network_bytes(size, settings)

    def start(self, data: TrialData, settings: GlNetSettings, seed: int) -> Fit:
        """Begin training."""
        from .gl_net_training import GlNetTraining

        return GlNetTraining(data, settings, seed)

    def load(
        self, state: FitState, n_features: int, n_outputs: int, settings: GlNetSettings
    ) -> Predictor:
        """The network with the weights of the best epoch."""
        from lorasweep.features.layers.factor_layout import FactorColumns

        from .gl_net_training import GlNetwork
        from .network_training import Network

        layout = tuple(FactorColumns(**layer) for layer in state.rest["layout"])
        model = GlNetwork(layout, n_outputs, settings)
        model.load_state_dict(state.tensors)
        return Network(model, EVALUATION_ROWS)


def _network_bytes(size: DataSize, settings: GlNetSettings) -> int:
    """The weights, their gradients, Adam's two moments and the best weights so far; a batch of
    factors, once more in another order, and what their maps and the head make of them, with its
    gradients; a block of one layer in float64."""
    channels, hidden, layout = settings.channels, settings.hidden_dim, size.layout
    deeper = settings.equivariant_layers - 1
    invariants = len(layout) * channels**2
    parameters = sum(layer.outputs + layer.inputs for layer in layout) * channels
    parameters += 2 * deeper * invariants
    parameters += (invariants + 3) * hidden + (hidden + 1) * size.n_classes
    mapped = 2 * channels * sum(layer.rank for layer in layout)
    activations = 3 * size.n_features + (6 + 5 * deeper) * mapped + 4 * invariants + 12 * hidden
    rows = max(min(EVALUATION_ROWS, size.n_samples), settings.batch_size)
    exact = EVALUATION_ROWS * max((layer.width for layer in layout), default=0) * 8
    return 5 * parameters * FLOAT + rows * activations * FLOAT + 2 * exact
