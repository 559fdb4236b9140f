"""A layer's update in few values whose inner products are those of the updates, on average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Shape, Unit, representation

if TYPE_CHECKING:
    from torch import Tensor

    from lorasweep.features.numerics.update_batch import UpdateBatch


def _values(shape: Shape, size: int) -> Sequence[str]:
    return [f"sketch_{i}" for i in range(size)]


@representation(
    "update_sketch",
    version=2,
    values=_values,
    unit=Unit.LAYER,
    sized="required",
    sizes=(32, 64, 128, 256),
    default_size=128,
    invariant=True,
)
def update_sketch(layer: UpdateBatch, size: int) -> Tensor:
    """TensorSketch of ΔW in D values: its inner products are unbiased estimates of those of ΔW.

    s·Σₖ irfft(rfft(C₁bₖ)·rfft(C₂aₖ)) with the columns bₖ of B, the rows aₖ of A and two count
    sketches C₁ and C₂ (Pham and Pagh 2013; Charikar et al. 2002).
    """
    return layer.sketch(size)
