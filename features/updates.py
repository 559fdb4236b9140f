"""A batch of layers' updates ΔW = s·B·A, and what their representations share.

Shapes: A, the down projection, is (rank, inputs); B, the up projection, (outputs, rank); s is a
number. Nothing of the size of ΔW is formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np
import torch
import xxhash
from torch import Tensor

from .layer_names import canonical_name


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
    def gram_down(self) -> Tensor:
        """(batch, rank, rank) A·Aᵀ."""
        a = self.down.double()
        return a @ a.mT

    @cached_property
    def gram_up(self) -> Tensor:
        """(batch, rank, rank) Bᵀ·B."""
        b = self.up.double()
        return b.mT @ b

    @cached_property
    def output_norms(self) -> Tensor:
        """(batch, outputs) norms of the rows of ΔW."""
        b = self.up.double()
        return self._norms(((b @ self.gram_down) * b).sum(2))

    @cached_property
    def input_norms(self) -> Tensor:
        """(batch, inputs) norms of the columns of ΔW."""
        a = self.down.double()
        return self._norms((a * (self.gram_up @ a)).sum(1))

    def _norms(self, squares: Tensor) -> Tensor:
        # Rounding may leave a square that is 0 a little below it.
        return squares.clamp(min=0).sqrt() * self.scale.double().abs()[:, None]

    def fold(self, values: Tensor, side: str, size: int) -> Tensor:
        """Count sketch of every row of (batch, channels), each layer with a hash of its own.

        Returns:
            (batch, size) float64.
        """
        rows = self.batch // len(self.layers)
        folded = values.new_zeros((self.batch, size))
        for i, layer in enumerate(self.layers):
            places, signs = _hashed(canonical_name(layer), side, size, values.shape[1])
            own = slice(i * rows, (i + 1) * rows)
            places, signs = places.to(values.device), signs.to(values.device)
            folded[own].index_add_(1, places, values[own] * signs)
        return folded


@cache
def _hashed(layer: str, side: str, size: int, channels: int) -> tuple[Tensor, Tensor]:
    """(channels,) int64 places below `size` and float64 signs."""
    hashes = np.array(
        [xxhash.xxh3_64_intdigest(f"{layer}|{side}|{size}|{c}".encode()) for c in range(channels)],
        dtype=np.uint64,
    )
    places = (hashes >> np.uint64(1)) % np.uint64(size)
    signs = 1.0 - 2.0 * (hashes & np.uint64(1)).astype(np.float64)
    return torch.from_numpy(places.astype(np.int64)), torch.from_numpy(signs)
