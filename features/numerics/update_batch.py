"""A batch of layers' updates ΔW = s·B·A, and what their representations share.

Shapes: A, the down projection, is (rank, inputs); B, the up projection, (outputs, rank); s is a
number. Nothing of the size of ΔW is formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from . import kernels
from .decomposition import canonical_factors, singular_values
from .sketches import count_sketch, row_sums, tensor_sketch


class UpdateBatch:
    """Layers of one shape, one after the other, each with the same number of adapters.

    Shared quantities are lazy, computed once, and float64.

    Arguments:
        layers: names of the layers.
        down: (batch, rank, inputs) float32, batch = len(layers) · adapters.
        up: (batch, outputs, rank) float32.
        scale: (batch,) float32 s; None: 1.
    """

    def __init__(
        self, layers: Sequence[str], down: Tensor, up: Tensor, scale: Tensor | None = None
    ) -> None:
        if down.ndim != 3 or up.ndim != 3 or len(down) != len(up) or down.shape[1] != up.shape[2]:
            raise ValueError(f"A of shape {tuple(down.shape)} does not fit B of {tuple(up.shape)}")
        if len(down) % len(layers):
            raise ValueError(f"{len(down)} updates cannot be those of {len(layers)} layers")
        self.layers, self.down, self.up = tuple(layers), down, up
        self.batch, self.rank, self.inputs = down.shape
        self.outputs = up.shape[1]
        self.scale = torch.ones(self.batch, device=down.device) if scale is None else scale

    @cached_property
    def columns(self) -> Tensor:
        """(batch, rank, outputs) Bᵀ, its rows contiguous."""
        return self.up.reshape(self.batch, 1, -1) if self.rank == 1 else self.up.mT.contiguous()

    @cached_property
    def gram_down(self) -> Tensor:
        """(batch, rank, rank) A·Aᵀ."""
        return _symmetric(kernels.gram(self.down))

    @cached_property
    def gram_up(self) -> Tensor:
        """(batch, rank, rank) Bᵀ·B."""
        return _symmetric(kernels.gram(self.columns))

    @cached_property
    def singular_values(self) -> Tensor:
        """(batch, rank) of ΔW, descending; those beyond its size are 0."""
        values = singular_values(self.columns, self.down, self.gram_up, self.gram_down)
        return values * self.scale.double().abs()[:, None]

    @property
    def canonical_factors(self) -> tuple[Tensor, Tensor]:
        """(batch, rank, outputs) and (batch, rank, inputs): singular vectors of ΔW in rows, times
        the roots of their singular values."""
        grams = self.gram_up, self.gram_down
        return canonical_factors(self.columns, self.down, *grams, self.scale)

    @cached_property
    def mean_entry(self) -> Tensor:
        """(batch,) mean entry of ΔW: s·(1ᵀB)(A1)/(mn)."""
        sums = row_sums(self.columns.flatten(0, 1)) * row_sums(self.down.flatten(0, 1))
        total = sums.reshape(self.batch, self.rank).sum(1)
        return self.scale.double() * total / (self.outputs * self.inputs)

    def sketch(self, size: int) -> Tensor:
        """(batch, size) TensorSketch of ΔW."""
        found = tensor_sketch(self.columns, self.down, self.layers, size)
        return found * self.scale.double()[:, None]

    def fold(self, values: Tensor, side: str, size: int) -> Tensor:
        """(batch, size) count sketch of every row of (batch, channels)."""
        return count_sketch(values, self.layers, side, size)

    @cached_property
    def output_norms(self) -> Tensor:
        """(batch, outputs) norms of the rows of ΔW."""
        return self._norms(self.columns, self.gram_down)

    @cached_property
    def input_norms(self) -> Tensor:
        """(batch, inputs) norms of the columns of ΔW."""
        return self._norms(self.down, self.gram_up)

    def _norms(self, rows: Tensor, gram: Tensor) -> Tensor:
        """|s|·√diag(Rᵀ·G·R), R (batch, rank, channels)."""
        doubled = rows.double()
        squares = ((gram @ doubled) * doubled).sum(1)
        # Rounding may leave a square that is 0 a little below it.
        return squares.clamp(min=0).sqrt() * self.scale.double().abs()[:, None]


def _symmetric(lower: Tensor) -> Tensor:
    return lower.tril() + lower.tril(-1).mT
