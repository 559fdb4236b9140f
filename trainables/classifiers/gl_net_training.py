"""GL-net, and its training."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from features.layout import LayerFactors, Layout

from ..modules import Dropout
from .gl_net import EVALUATION_ROWS, GlNetConfig
from .network_training import NetworkTraining


class GlNetwork(nn.Module):
    """A classifier of updates s·B·A that (B·G, G⁻¹·A) does not change, for any invertible G.

    Of every layer, U = W₁·s·B and V = W₂·Aᵀ have `channels` rows, and G acts on their columns as it
    does on those of B and Aᵀ. A gate keeps that: row i of U is multiplied by 2σ(t/√channels), t the
    sum of row i of U·Vᵀ, and row i of V by the same of column i; another pair of maps follows. What
    a perceptron sees in the end, the entries of U·Vᵀ of all layers, no G changes. All is as in
    Putterman et al., "Learning on LoRAs" (2024), but for the gate, there a step of t, which jumps;
    maps after it that begin as the identity; and BatchNorm and dropout in the head. Every layer has
    maps of its own.

    Layers of one shape are mapped together; of different ranks, the lower are padded with zeros,
    which nothing but the first maps' cost depends on.

    Arguments:
        layout: where the layers' factors stand in a row of features.
        n_classes: number of classes.
        config: its settings.
    """

    root_scale: Tensor

    def __init__(self, layout: Layout, n_classes: int, config: GlNetConfig) -> None:
        super().__init__()
        ordered = sorted(layout, key=lambda layer: layer.shape)
        self.groups = [list(group) for _, group in groupby(ordered, lambda layer: layer.shape)]
        self.rank = max(layer.rank for layer in layout)
        channels, n_layers = config.channels, len(layout)
        # By groups, layers in the same order.
        self.register_buffer("root_scale", torch.ones(n_layers))
        self.up_maps = nn.ParameterList(
            _normal(len(group), group[0].outputs, channels) for group in self.groups
        )
        self.down_maps = nn.ParameterList(
            _normal(len(group), group[0].inputs, channels) for group in self.groups
        )
        deeper = config.equivariant_layers - 1
        self.maps = nn.ParameterList(
            torch.eye(channels).repeat(2 * n_layers, 1, 1) for _ in range(deeper)
        )
        self.head = nn.Sequential(
            nn.Linear(n_layers * channels**2, config.hidden_dim),
            nn.BatchNorm1d(config.hidden_dim),
            nn.ReLU(inplace=True),
            Dropout(config.dropout),
            nn.Linear(config.hidden_dim, n_classes),
        )

    @torch.no_grad()
    def fit_scale(self, x: Tensor) -> None:
        """Scale the updates of each layer to entries of mean square 1.

        One number for a layer is all that no G sees. A layer without any update keeps its scale.

        Arguments:
            x: (n, n_features) of the training split.
        """
        layers = [layer for group in self.groups for layer in group]
        squares = torch.stack([_mean_square(layer, x) for layer in layers])
        # Half of it for each factor, so that neither leaves float32's range.
        self.root_scale.copy_(torch.where(squares > 0, squares, 1.0) ** -0.25)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_features) -> (n, n_classes) logits."""
        up, down = self._first_maps(x)
        for maps in self.maps:
            up, down = _gated(up, down)
            both = torch.cat([up, down])
            mapped = torch.bmm(both.flatten(1, 2), maps).view_as(both)
            up, down = mapped.chunk(2)
        invariants = up.mT @ down  # (n_layers, n, channels, channels)
        return self.head(invariants.transpose(0, 1).flatten(1))

    def _first_maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n_layers, n, rank, channels) Uᵀ and Vᵀ of all layers."""
        ups, downs = [], []
        for group, up_map, down_map in zip(self.groups, self.up_maps, self.down_maps):
            missing = 0, 0, 0, self.rank - group[0].rank
            up = torch.stack([layer.up(x).mT for layer in group])
            down = torch.stack([layer.down(x) for layer in group])
            ups.append(functional.pad(_mapped(up, up_map), missing))
            downs.append(functional.pad(_mapped(down, down_map), missing))
        scale = self.root_scale[:, None, None, None]
        return torch.cat(ups) * scale, torch.cat(downs) * scale


def _normal(n_maps: int, width: int, channels: int) -> Tensor:
    """(n_maps, width, channels) initial weights that keep the mean square."""
    return torch.randn(n_maps, width, channels) / width**0.5


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


def _mean_square(layer: LayerFactors, x: Tensor) -> Tensor:
    """Mean square of the entries of s·B·A over the rows of x, float64."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for part in x.split(EVALUATION_ROWS):
        up, down = layer.up(part).double(), layer.down(part).double()
        total += ((up.mT @ up) * (down @ down.mT)).sum()
    return total / (len(x) * layer.outputs * layer.inputs)


class GlNetTraining(NetworkTraining):
    """One GL-net's way from its seed to its best weights."""

    model: GlNetwork
    config: GlNetConfig
    evaluation_rows = EVALUATION_ROWS

    def build(self) -> GlNetwork:
        """The network, with the scales of the training split."""
        model = GlNetwork(self.data.layout, self.data.n_classes, self.config)
        model.fit_scale(self.data.train.x)
        return model
