"""A layer's two matrices as they are stored: the control of what the others gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Shape, Unit, representation

if TYPE_CHECKING:
    from torch import Tensor

    from lorasweep.features.numerics.update_batch import UpdateBatch


def _values(shape: Shape) -> Sequence[str]:
    outputs, inputs, rank = shape
    return [
        *(f"up_{channel}_{k}" for channel in range(outputs) for k in range(1, rank + 1)),
        *(f"down_{k}_{channel}" for k in range(1, rank + 1) for channel in range(inputs)),
    ]


@representation("flat", version=1, values=_values, unit=Unit.LAYER, cached=False, factors=True)
def flat(layer: UpdateBatch) -> Tensor:
    """The entries of s·B, row by row, then those of A: what (B·G, G⁻¹·A) changes.

    It is read from the dataset and never cached, being as large.
    """
    import torch

    up = layer.up * layer.scale[:, None, None]
    return torch.cat([up.flatten(1), layer.down.flatten(1)], 1)
