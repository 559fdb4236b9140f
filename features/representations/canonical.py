"""The one factorisation of a layer's update that does not depend on how it was factored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .base import Shape, Unit, representation

if TYPE_CHECKING:
    from torch import Tensor

    from lorasweep.features.numerics.update_batch import UpdateBatch


def _values(shape: Shape) -> Sequence[str]:
    outputs, inputs, rank = shape
    sides = (("output", outputs), ("input", inputs))
    return [
        f"{side}_{channel}_{i}"
        for side, channels in sides
        for i in range(1, rank + 1)
        for channel in range(channels)
    ]


@representation("canonical", version=2, values=_values, unit=Unit.LAYER, invariant=True)
def canonical(layer: UpdateBatch) -> Tensor:
    """Singular vectors of ΔW times the roots of their singular values: √σᵢ·uᵢ, then √σᵢ·vᵢ.

    For i up to the rank the layer is stored with, which is the largest of a dataset whose adapters
    are padded to one rank; zero-padded. The entry of uᵢ with the largest magnitude is positive.
    Like the canonical tokens by QR and SVD of W2T (Han et al. 2026).
    """
    import torch

    return torch.cat([side.flatten(1) for side in layer.canonical_factors], 1)
