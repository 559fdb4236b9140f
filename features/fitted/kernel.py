"""Inner products of layers' updates, without forming an update.

With ΔW = s·B·A and ΔW' = s'·B'·A', ⟨ΔW, ΔW'⟩ = s·s'·Σ (Bᵀ·B') ∘ (A·A'ᵀ): the sum of the entry by
entry product of two matrices as small as the ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """One layer of some adapters.

    Attributes:
        down: (n, rank, inputs) float32 A.
        up: (n, outputs, rank) float32 B.
        scale: (n,) float32 s.
    """

    down: Tensor
    up: Tensor
    scale: Tensor

    def rows(self, start: int, stop: int) -> Factors:
        """Adapters start … stop−1."""
        own = slice(start, stop)
        return Factors(self.down[own], self.up[own], self.scale[own])


@dataclass(frozen=True)
class Kernel:
    """An inner product of one layer.

    Attributes:
        between: (n, n') float32 of every adapter with every other.
        own: (n,) float64 of every adapter with itself.
    """

    between: Callable[[Factors, Factors], Tensor]
    own: Callable[[Factors], Tensor]


def _between_updates(first: Factors, second: Factors) -> Tensor:
    (n, rank, inputs), (others, other_rank, _) = first.down.shape, second.down.shape
    down = first.down.reshape(n * rank, inputs) @ second.down.reshape(-1, inputs).T
    up = first.up.mT.reshape(n * rank, -1) @ second.up.mT.reshape(others * other_rank, -1).T
    products = (down.mul_(up)).reshape(n, rank, others, other_rank).sum(dim=(1, 3))
    return products * first.scale[:, None] * second.scale


def _own_update(layer: Factors) -> Tensor:
    down, up = layer.down.double(), layer.up.double()
    return ((down @ down.mT) * (up.mT @ up)).sum(dim=(1, 2)) * layer.scale.double() ** 2


def _between_flat(first: Factors, second: Factors) -> Tensor:
    down = first.down.flatten(1) @ second.down.flatten(1).T
    up = first.up.flatten(1) @ second.up.flatten(1).T
    return up * first.scale[:, None] * second.scale + down


def _own_flat(layer: Factors) -> Tensor:
    down, up = layer.down.double().flatten(1), layer.up.double().flatten(1)
    return (up**2).sum(1) * layer.scale.double() ** 2 + (down**2).sum(1)


_BLOCK = 1 << 24
"""Numbers of the largest array at a time. Blocks depend on shapes alone, so that bits do not change
from run to run."""


def layer_products(
    between: Callable[[Factors, Factors], Tensor], own: Factors, others: Factors
) -> Tensor:
    """(n, n') float32 of one layer, a block of adapters at a time."""
    rank = others.down.shape[1]
    block = max(1, _BLOCK // (len(others.down) * rank * rank))
    return torch.cat(
        [between(own.rows(top, top + block), others) for top in range(0, len(own.down), block)]
    )


UPDATE = Kernel(_between_updates, _own_update)
"""⟨ΔW, ΔW'⟩."""

FLAT = Kernel(_between_flat, _own_flat)
"""Of vec(s·B) and vec(A) side by side."""

KERNELS = {"update": UPDATE, "flat": FLAT}
"""By the names that representations are declared with."""
