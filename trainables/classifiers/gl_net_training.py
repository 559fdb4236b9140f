"""GL-net, and its training."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from lorasweep.features.layers.factor_layout import FactorColumns, Layout

from .base import FitState, LayerSum
from .gl_net_settings import EVALUATION_ROWS, GlNetSettings
from .modules_training import Dropout
from .network_training import NetworkTraining


class EquivariantMaps(nn.Module):
    """The maps of layers of one shape, each layer's its own; all are applied at once.

    Arguments:
        layers: which, and where their factors stand in a row of features.
        settings: the network's settings.
    """

    root_scale: Tensor

    def __init__(self, layers: Layout, settings: GlNetSettings) -> None:
        super().__init__()
        self.layers = layers
        outputs, inputs, _ = layers[0].shape
        count, channels = len(layers), settings.channels
        self.register_buffer("root_scale", torch.ones(count))
        self.up_map = nn.Parameter(torch.randn(count, outputs, channels) / outputs**0.5)
        self.down_map = nn.Parameter(torch.randn(count, inputs, channels) / inputs**0.5)
        same = torch.eye(channels)
        deeper = range(1, settings.equivariant_layers)
        self.gated_up_maps = nn.ParameterList(same.repeat(count, 1, 1) for _ in deeper)
        self.gated_down_maps = nn.ParameterList(same.repeat(count, 1, 1) for _ in deeper)

    @torch.no_grad()
    def fit_scale(self, x: Tensor) -> None:
        """Scale the updates of each layer to entries of mean square 1.

        One number for a layer is all that no G sees. A layer without any update keeps its scale.

        Arguments:
            x: (n, n_features) of the training split.
        """
        squares = torch.stack([_mean_square(layer, x) for layer in self.layers])
        # Half of it for each factor, so that neither leaves float32's range.
        self.root_scale.copy_(torch.where(squares > 0, squares, 1.0) ** -0.25)

    def forward(self, x: Tensor, which: slice = slice(None)) -> Tensor:
        """(n, n_features) -> (n_layers, n, channels, channels) U·Vᵀ of `which` of the layers."""
        layers, scale = self.layers[which], self.root_scale[which, None, None, None]
        up = torch.stack([layer.up(x).mT for layer in layers])
        down = torch.stack([layer.down(x) for layer in layers])
        up = _mapped(up, self.up_map[which]) * scale
        down = _mapped(down, self.down_map[which]) * scale
        for up_map, down_map in zip(self.gated_up_maps, self.gated_down_maps):
            up, down = _gated(up, down)
            up, down = _mapped(up, up_map[which]), _mapped(down, down_map[which])
        return up.mT @ down


class GlNetwork(nn.Module):
    """A classifier of updates s·B·A that (B·G, G⁻¹·A) does not change, for any invertible G.

    Of every layer, U = W₁·s·B and V = W₂·Aᵀ have `channels` rows, and G acts on their columns as it
    does on those of B and Aᵀ. A gate keeps that: row i of U is multiplied by 2σ(t/√channels), t the
    sum of row i of U·Vᵀ, and row i of V by the same of column i; another pair of maps follows. What
    a perceptron sees in the end, the entries of U·Vᵀ of all layers, no G changes. All is as in
    Putterman et al., "Learning on LoRAs" (2024), but for the gate, there a step of t, which jumps;
    maps after it that begin as the identity; and BatchNorm and dropout in the head.

    Arguments:
        layout: where the layers' factors stand in a row of features.
        n_classes: number of classes.
        settings: its settings.
    """

    def __init__(self, layout: Layout, n_classes: int, settings: GlNetSettings) -> None:
        super().__init__()
        ordered = sorted(layout, key=lambda layer: layer.shape)
        groups = groupby(ordered, lambda layer: layer.shape)
        self.groups = nn.ModuleList(EquivariantMaps(tuple(of), settings) for _, of in groups)
        self.head = nn.Sequential(
            nn.Linear(len(layout) * settings.channels**2, settings.hidden_dim),
            nn.BatchNorm1d(settings.hidden_dim),
            nn.ReLU(inplace=True),
            Dropout(settings.dropout),
            nn.Linear(settings.hidden_dim, n_classes),
        )

    def fit_scale(self, x: Tensor) -> None:
        """Scale the updates of each layer to entries of mean square 1 over x, (n, n_features)."""
        for group in self.groups:
            cast(EquivariantMaps, group).fit_scale(x)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_features) -> (n, n_classes) logits."""
        invariants = torch.cat([group(x) for group in self.groups])
        return self.head(invariants.transpose(0, 1).flatten(1))


def _mapped(factors: Tensor, maps: Tensor) -> Tensor:
    """(n_layers, n, rank, width) factors, (n_layers, width, channels) maps -> (n_layers, n, rank,
    channels)."""
    return torch.bmm(factors.flatten(1, 2), maps).unflatten(1, factors.shape[1:3])


def _gated(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Uᵀ and Vᵀ, their columns gated by the row and column sums of U·Vᵀ; 1 where a sum is 0."""
    spread = up.shape[3] ** 0.5  # of a sum of so many numbers of mean square 1
    rows = (up * down.sum(3, keepdim=True)).sum(2, keepdim=True) / spread
    columns = (down * up.sum(3, keepdim=True)).sum(2, keepdim=True) / spread
    return 2 * up * rows.sigmoid(), 2 * down * columns.sigmoid()


def _mean_square(layer: FactorColumns, x: Tensor) -> Tensor:
    """Mean square of the entries of s·B·A over the rows of x, float64."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for part in x.split(EVALUATION_ROWS):
        up, down = layer.up(part).double(), layer.down(part).double()
        total += ((up.mT @ up) * (down @ down.mT)).sum()
    return total / (len(x) * layer.outputs * layer.inputs)


class GlNetTraining(NetworkTraining):
    """One GL-net's way from its seed to its best weights."""

    model: GlNetwork
    settings: GlNetSettings
    evaluation_rows = EVALUATION_ROWS

    def build(self) -> GlNetwork:
        """The network, with the scales of the training split."""
        model = GlNetwork(self.data.layout, self.data.n_classes, self.settings)
        model.fit_scale(self.data.train.x)
        return model

    def export_state(self) -> FitState:
        """The weights of the best epoch, and where the layers' factors stand."""
        return FitState(self.best_state, {"layout": [asdict(layer) for layer in self.data.layout]})

    def layer_sum(self) -> LayerSum:
        """What the layers' invariants add to the head's hidden layer, with the weights of the best
        epoch."""
        self.restore_best()
        self.model.eval()
        first, *others = self.model.head
        after, bias = nn.Sequential(*others), first.get_parameter("bias")
        groups = [cast(EquivariantMaps, group) for group in self.model.groups]
        places = [(group, slice(i, i + 1)) for group in groups for i in range(len(group.layers))]
        weights = first.get_parameter("weight").chunk(len(places), dim=1)
        known = {group.layers[of][0]: (group, of, w) for (group, of), w in zip(places, weights)}

        @torch.no_grad()
        def part(x: Tensor, layer: FactorColumns) -> Tensor:
            group, of, weight = known[layer]
            return group(x, of)[0].flatten(1) @ weight.T

        @torch.no_grad()
        def rest(total: Tensor) -> np.ndarray:
            return after(total + bias).double().log_softmax(1).cpu().numpy()

        return LayerSum(self.data.layout, part, rest)
