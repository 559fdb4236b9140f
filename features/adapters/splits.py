"""Layers that some programs fuse into one module, taken apart as diffusers has them.

Rows of ΔW are rows of B, so that the parts share A. Sources: the Flux and SD3 conversions of
`diffusers.loaders.lora_conversion_utils` and of kohya's `convert_flux_lora.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_QKV = ("to_q", "to_k", "to_v")
_FUSED = {
    "attn.to_qkv": tuple(f"attn.{part}" for part in _QKV),
    "attn2.to_qkv": tuple(f"attn2.{part}" for part in _QKV),
    "attn.to_added_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn.to_qkv_mlp_proj": (*(f"attn.{part}" for part in _QKV), "proj_mlp"),
}
# The authors of Flux and SD3 have shift before scale in their last modulation, diffusers after it.
_SWAPPED = "transformer.norm_out.linear"
_SWAPPED_SPELLINGS = ("final_layer.adaLN_modulation.1", "final_layer_adaLN_modulation_1")


class Part(NamedTuple):
    """Rows start … stop−1 of a module's B, under a name of their own."""

    name: str
    start: int
    stop: int


def split(name: str, outputs: int, inputs: int) -> tuple[Part, ...]:
    """The layers of a module; one, unless it is a fused one of a transformer of diffusers'.

    Queries, keys and values are of one size; with the feed-forward beside them, as wide as the
    inputs, and what is left is its own. A module whose sizes do not allow that stays whole.
    """
    fused = next((f for f in _FUSED if name.endswith(f".{f}")), None)
    if fused is None or not name.startswith("transformer."):
        return (Part(name, 0, outputs),)
    head, names = name.removesuffix(fused), _FUSED[fused]
    if len(names) == 3:
        bounds = [outputs * i // 3 for i in range(4)]
        fits = outputs % 3 == 0
    else:
        bounds = [0, inputs, 2 * inputs, 3 * inputs, outputs]
        fits = outputs > 3 * inputs
    if not fits:
        return (Part(name, 0, outputs),)
    return tuple(
        Part(head + own, start, stop) for own, start, stop in zip(names, bounds, bounds[1:])
    )


def part_names(name: str) -> tuple[str, ...]:
    """The layers that a module of this name may be split into, and itself."""
    fused = next((f for f in _FUSED if name.endswith(f".{f}")), None)
    if fused is None:
        return (name,)
    return (name, *(name.removesuffix(fused) + own for own in _FUSED[fused]))


def is_swapped(name: str, spelled: str) -> bool:
    """Whether the halves of a module's rows are the other way round than diffusers has them."""
    return name == _SWAPPED and spelled.endswith(_SWAPPED_SPELLINGS)


def swap_halves(up: np.ndarray) -> np.ndarray:
    """B with the two halves of its rows exchanged."""
    return np.concatenate(np.split(up, 2)[::-1])


def part_factors(
    parts: tuple[Part, ...], down: np.ndarray, up: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(A, B) of every part of a fused module.

    Some programs train the parts apart and write them as one, A below A and B block-diagonal:
    then every part gets back its own rows of A. Otherwise they share A.
    """
    blocks = [up[part.start : part.stop] for part in parts]
    if len(parts) == 1:
        return [(down, blocks[0])]
    used = np.array([block.any(axis=0) for block in blocks])
    own = up.shape[1] // len(parts)
    diagonal = np.zeros_like(used)
    if own * len(parts) == up.shape[1]:
        for i, row in enumerate(diagonal):
            row[i * own : (i + 1) * own] = True
    if used.any() and not (used & ~diagonal).any():
        return [(down[row], block[:, row]) for row, block in zip(diagonal, blocks)]
    return [(down, block) for block in blocks]
