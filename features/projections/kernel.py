"""Inner products of layers' updates, without forming an update.

With ΔW = s·B·A and ΔW' = s'·B'·A', ⟨ΔW, ΔW'⟩ = s·s'·Σ (Bᵀ·B') ∘ (A·A'ᵀ): the sum of the entry by
entry product of two matrices as small as the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, dtype


@dataclass(frozen=True)
class FactorBatch:
    """One layer of some adapters.

    Attributes:
        down: (n, rank, inputs) float32 A.
        up: (n, outputs, rank) float32 B.
        scale: (n,) float32 s; None: 1 for all.
    """

    down: Tensor
    up: Tensor
    scale: Tensor | None

    @cached_property
    def scaled_up(self) -> Tensor:
        """(n, rank, outputs) of s·Bᵀ: scaling factors is less than scaling their products."""
        return self.up.mT if self.scale is None else self.up.mT * self.scale[:, None, None]

    def to(self, dtype: dtype) -> FactorBatch:
        """The same in another precision."""
        scale = None if self.scale is None else self.scale.to(dtype)
        return FactorBatch(self.down.to(dtype), self.up.to(dtype), scale)

    def rows(self, start: int, stop: int) -> FactorBatch:
        """Adapters start … stop−1."""
        own = slice(start, stop)
        scale = None if self.scale is None else self.scale[own]
        return FactorBatch(self.down[own], self.up[own], scale)


@dataclass(frozen=True)
class Kernel:
    """An inner product of one layer.

    Attributes:
        between: (n, n') float32 of every adapter with every other, times a weight.
        own: (n,) float64 of every adapter with itself.
    """

    between: Callable[[FactorBatch, FactorBatch, float], Tensor]
    own: Callable[[FactorBatch], Tensor]


def _between_updates(first: FactorBatch, second: FactorBatch, weight: float) -> Tensor:
    (n, rank, inputs), (others, other_rank, _) = first.down.shape, second.down.shape
    down = first.down.reshape(n * rank, inputs) @ second.down.reshape(-1, inputs).T
    left, right = weight * first.scaled_up, second.scaled_up
    up = left.reshape(n * rank, -1) @ right.reshape(others * other_rank, -1).T
    products = down.mul_(up)
    if rank == other_rank == 1:
        return products  # there is nothing to add up, and a copy is a fifth of the time
    return products.reshape(n, rank, others, other_rank).sum(dim=(1, 3))


def _own_update(layer: FactorBatch) -> Tensor:
    down, up = layer.down.double(), layer.scaled_up.double()
    return ((down @ down.mT) * (up @ up.mT)).sum(dim=(1, 2))


def _between_flat(first: FactorBatch, second: FactorBatch, weight: float) -> Tensor:
    down = (weight * first.down).flatten(1) @ second.down.flatten(1).T
    return down.add_((weight * first.scaled_up).flatten(1) @ second.scaled_up.flatten(1).T)


def _own_flat(layer: FactorBatch) -> Tensor:
    return (layer.down.double() ** 2).sum((1, 2)) + (layer.scaled_up.double() ** 2).sum((1, 2))


_BLOCK = 1 << 24
"""Numbers of the largest array at a time. Blocks depend on shapes alone, so that bits do not change
from run to run."""


def layer_products(
    kernel: Kernel, own: FactorBatch, others: FactorBatch, weight: float
) -> Iterator[tuple[int, Tensor]]:
    """First row and (rows, n') float32 weighted inner products of one layer, block by block."""
    rank = others.down.shape[1]
    block = max(1, _BLOCK // (len(others.down) * rank * rank))
    for top in range(0, len(own.down), block):
        yield top, kernel.between(own.rows(top, top + block), others, weight)


UPDATE = Kernel(_between_updates, _own_update)
"""⟨ΔW, ΔW'⟩."""

FLAT = Kernel(_between_flat, _own_flat)
"""Of vec(s·B) and vec(A) side by side."""

KERNELS = {"update": UPDATE, "flat": FLAT}
"""By the names that representations are declared with."""
