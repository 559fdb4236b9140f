"""The multilayer perceptron of the script this project replaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Classifier, DataSize, Fit, FitState, Predictor
from .footprint import FLOAT, GPU_CONTEXT_BYTES, base_host_bytes, data_bytes
from .mlp_settings import EVALUATION_ROWS, MlpSettings

if TYPE_CHECKING:
    from lorasweep.trainables.data.trial_data import TrialData


class Mlp(Classifier):
    """Three times Linear → BatchNorm → ReLU → Dropout, then Linear; Adam and early stopping."""

    name = "mlp"
    version = 2
    Settings = MlpSettings

    def device_bytes(self, size: DataSize, settings: MlpSettings) -> int:
        """Bytes of GPU memory at most: matrix, labels, network, and what every process keeps."""
        return data_bytes(size) + _network_bytes(size, settings) + GPU_CONTEXT_BYTES

    def multiplications(self, size: DataSize, settings: MlpSettings) -> int:
        """The three hidden layers and the last one."""
        return (size.n_features + 2 * settings.hidden_dim + size.n_classes) * settings.hidden_dim

    def host_bytes(self, size: DataSize, settings: MlpSettings) -> int:
        """Bytes of main memory at most on the CPU."""
        return base_host_bytes(size) + _network_bytes(size, settings)

    def start(self, data: TrialData, settings: MlpSettings, seed: int) -> Fit:
        """Begin training."""
        from .mlp_training import Training

        return Training(data, settings, seed)

    def load(
        self, state: FitState, n_features: int, n_outputs: int, settings: MlpSettings
    ) -> Predictor:
        """The network with the weights of the best epoch."""
        from .mlp_training import build_classifier
        from .network_training import Network

        model = build_classifier(n_features, n_outputs, settings)
        model.load_state_dict(state.tensors)
        return Network(model, EVALUATION_ROWS)


def _network_bytes(size: DataSize, settings: MlpSettings) -> int:
    """The weights, their gradients, Adam's two moments and the best weights so far; the activations
    of the largest batch, those of evaluation, kept and temporary."""
    hidden, n_features, n_classes = settings.hidden_dim, size.n_features, size.n_classes
    parameters = (n_features + 1) * hidden + 2 * (hidden + 1) * hidden + 6 * hidden
    parameters += (hidden + 1) * n_classes
    rows = max(min(EVALUATION_ROWS, size.n_samples), settings.batch_size)
    # Linear, BatchNorm, ReLU and Dropout each keep one result for the backward pass.
    activations = rows * (n_features + 3 * 4 * hidden + 3 * n_classes) * FLOAT
    return 5 * parameters * FLOAT + activations
