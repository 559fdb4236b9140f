"""Training the multilayer perceptron."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .base import LinearPart
from .mlp_settings import EVALUATION_ROWS, MlpSettings
from .modules_training import Dropout
from .network_training import NetworkTraining


def build_classifier(n_features: int, n_classes: int, settings: MlpSettings) -> nn.Sequential:
    """Three times Linear → BatchNorm → ReLU → Dropout, then Linear to the classes."""
    layers: list[nn.Module] = []
    width = n_features
    for _ in range(3):
        layers += [
            nn.Linear(width, settings.hidden_dim),
            nn.BatchNorm1d(settings.hidden_dim),
            nn.ReLU(inplace=True),
            Dropout(settings.dropout),
        ]
        width = settings.hidden_dim
    return nn.Sequential(*layers, nn.Linear(width, n_classes))


class Training(NetworkTraining):
    """One perceptron's way from its seed to its best weights."""

    model: nn.Sequential
    settings: MlpSettings
    evaluation_rows = EVALUATION_ROWS

    def build(self) -> nn.Sequential:
        """The perceptron."""
        return build_classifier(self.data.n_features, self.data.n_classes, self.settings)

    def linear_part(self) -> LinearPart:
        """The first layer's weights, those of the best epoch."""
        self.restore_best()
        first, *others = self.model
        bias, after = first.get_parameter("bias"), nn.Sequential(*others)

        @torch.no_grad()
        def rest(products: Tensor) -> np.ndarray:
            self.model.eval()
            parts = (products + bias).split(EVALUATION_ROWS)
            logits = torch.cat([after(part) for part in parts])
            return logits.double().log_softmax(1).cpu().numpy()

        return LinearPart(first.get_parameter("weight").detach(), rest)
