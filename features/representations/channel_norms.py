"""How strongly a layer's update touches every output and every input channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Shape, Unit, representation

if TYPE_CHECKING:
    from torch import Tensor

    from lorasweep.features.numerics.update_batch import UpdateBatch


def _values(shape: Shape, size: int | None) -> Sequence[str]:
    outputs, inputs, _ = shape
    if size is not None:
        outputs = inputs = size
    return [*(f"output_{i}" for i in range(outputs)), *(f"input_{i}" for i in range(inputs))]


@representation(
    "channel_norms",
    version=2,
    values=_values,
    unit=Unit.LAYER,
    sized="optional",
    invariant=True,
)
def channel_norms(layer: UpdateBatch, size: int | None) -> Tensor:
    """Norms of the rows and of the columns of ΔW; with a size D, each side folded into D values.

    Row norms are |s|·√diag(B·(A·Aᵀ)·Bᵀ), column norms |s|·√diag(Aᵀ·(Bᵀ·B)·A): ΔW itself is not
    formed. They do not change with (B·G, G⁻¹·A). Folding is a count sketch (Charikar et al. 2002):
    every channel is added, with a sign, to one of D values; both come from a hash of the layer's
    name, the side, D and the channel, so that they are the same on every machine.
    """
    import torch

    sides = layer.output_norms, layer.input_norms
    if size is not None:
        sides = layer.fold(sides[0], "output", size), layer.fold(sides[1], "input", size)
    return torch.cat(sides, dim=1)
