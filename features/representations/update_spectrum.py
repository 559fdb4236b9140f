"""The singular values of a layer's update, and what they sum up to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import EPSILON, Unit, representation

if TYPE_CHECKING:
    from torch import Tensor

    from lorasweep.features.numerics.update_batch import UpdateBatch

_LARGEST = 10

_VALUES = (
    *(f"sigma_{i}" for i in range(1, _LARGEST + 1)),
    "frobenius",
    "nuclear",
    "stable_rank",
    "effective_rank",
    "log_frobenius",
    "mean",
)


@representation("update_spectrum", version=2, values=_VALUES, unit=Unit.LAYER, invariant=True)
def update_spectrum(layer: UpdateBatch) -> Tensor:
    """The 10 largest singular values of ΔW (zero-padded), norms, ranks and the mean entry.

    σ₁ … σ₁₀; ‖ΔW‖_F; Σσ; stable rank ‖ΔW‖_F²/(σ₁² + ε); effective rank exp(−Σ p ln(p + ε)) of
    p = σ/(Σσ + ε); log(‖ΔW‖_F + ε); mean entry. Singular values are what no (B·G, G⁻¹·A) changes
    (Putterman et al., Learning on LoRAs, 2024).
    """
    import torch

    sigma = layer.singular_values
    largest = sigma.new_zeros((layer.batch, _LARGEST))
    count = min(_LARGEST, layer.rank)
    largest[:, :count] = sigma[:, :count]
    square = sigma.square().sum(1)
    nuclear = sigma.sum(1)
    p = sigma / (nuclear[:, None] + EPSILON)
    summary = (
        square.sqrt(),
        nuclear,
        square / (sigma[:, 0].square() + EPSILON),
        (-(p * (p + EPSILON).log()).sum(1)).exp(),
        (square.sqrt() + EPSILON).log(),
        layer.mean_entry,
    )
    return torch.cat([largest, torch.stack(summary, 1)], 1)
