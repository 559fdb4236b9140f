"""Count sketches of channels and TensorSketches of updates, on any torch device.

A count sketch adds every channel, times ±1, to one of D values (Charikar, Chen and Farach-Colton,
2002). Place and sign come from a hash of the layer's name, the side, D and the channel, so that
they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import xxhash
from torch import Tensor

from lorasweep.features.layers.names import canonical_name

from . import compiled_updates
from .kernels import is_native


def count_sketch(values: Tensor, layers: Sequence[str], side: str, size: int) -> Tensor:
    """Fold every row into `size` values.

    Arguments:
        values: (rows, channels) float32 or float64, the same number of rows for each layer, one
            layer after the other.
        side: what the channels are; another side has other hashes.

    Returns:
        (rows, size) float64.
    """
    own = len(values) // len(layers)
    return torch.cat([_folded(x, y, side, size) for x, y in zip(values.split(own), layers)])


def _folded(values: Tensor, layer: str, side: str, size: int) -> Tensor:
    """(rows, channels) of one layer -> (rows, size) float64."""
    folded = values.new_zeros((len(values), size), dtype=torch.float64)
    places, signs = _hashed(canonical_name(layer), side, size, values.shape[1])
    if is_native(values):
        compiled_updates.fold(values.numpy(), places.numpy(), signs.numpy(), folded.numpy())
    else:
        folded.index_add_(1, places.to(values.device), values * signs.to(values.device))
    return folded


def tensor_sketch(columns: Tensor, down: Tensor, layers: Sequence[str], size: int) -> Tensor:
    """Sketch of B·A as the sum over k of the circular convolutions of the count sketches of B's
    columns and A's rows (TensorSketch: Pham and Pagh, 2013), by Fourier transforms.

    Arguments:
        columns: (batch, rank, outputs) float32 Bᵀ, contiguous.
        down: (batch, rank, inputs) float32 A.
        layers: as of `count_sketch`.

    Returns:
        (batch, size) float64. Inner products of two are, on average over hashes, those of the two
        updates. Values that no entry is added to, which small layers have, are exactly 0.
    """
    batch, rank, _ = down.shape
    own = batch // len(layers)
    parts = []
    # One layer after the other, so that what is transformed stays in the processor's cache.
    for b, a, layer in zip(columns.split(own), down.split(own), layers):
        left = _folded(b.flatten(0, 1), layer, "sketch_output", size)
        right = _folded(a.flatten(0, 1), layer, "sketch_input", size)
        product = torch.fft.rfft(left).mul_(torch.fft.rfft(right))
        if rank > 1:
            product = product.reshape(own, rank, -1).sum(1)
        sketch = torch.fft.irfft(product, n=size)
        reached = _reached(layer, size, b.shape[2], a.shape[2])
        if not reached.all():
            # Rounding that would be standardised as if it were a feature.
            sketch.masked_fill_(~reached.to(sketch.device), 0.0)
        parts.append(sketch)
    return torch.cat(parts)


def row_sums(values: Tensor) -> Tensor:
    """(rows, channels) float32 -> (rows,) float64."""
    if is_native(values):
        sums = torch.empty(len(values), dtype=torch.float64)
        compiled_updates.row_sums(values.numpy(), sums.numpy())
        return sums
    return values.sum(1, dtype=torch.float64)


@cache
def _reached(layer: str, size: int, outputs: int, inputs: int) -> Tensor:
    """(size,) bool: to which values of a TensorSketch some pair of channels is added."""
    name, counts = canonical_name(layer), []
    for side, channels in (("sketch_output", outputs), ("sketch_input", inputs)):
        places, _ = _hashed(name, side, size, channels)
        counts.append(torch.fft.rfft(torch.bincount(places, minlength=size).double()))
    return torch.fft.irfft(counts[0] * counts[1], n=size) > 0.5


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
