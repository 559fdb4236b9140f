"""Layers that some programs fuse into one module, taken apart as diffusers has them.

Rows of ΔW are rows of B, so that the parts share A.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from lorasweep.features.architectures.architecture import Architecture, FusedModule
from lorasweep.features.architectures.catalogue import fused_module


class Part(NamedTuple):
    """Rows start … stop−1 of a module's B, under a name of their own."""

    name: str
    start: int
    stop: int


def split(
    name: str, outputs: int, inputs: int, architecture: Architecture | None = None
) -> tuple[Part, ...]:
    """The layers of a module; one, unless it is a fused one of a transformer and its sizes allow to
    take it apart.

    Arguments:
        name: the module's canonical name.
        architecture: the one that its file shows.
    """
    fused = fused_module(name, architecture)
    bounds = fused[1].bounds(outputs, inputs) if fused else None
    if not fused or bounds is None:
        return (Part(name, 0, outputs),)
    return tuple(
        Part(own, start, stop) for own, start, stop in zip(_names(name, *fused), bounds, bounds[1:])
    )


def part_names(name: str, architecture: Architecture | None = None) -> tuple[str, ...]:
    """The layers that a module of this name may be split into, and itself."""
    fused = fused_module(name, architecture)
    return (name, *_names(name, *fused)) if fused else (name,)


def _names(name: str, end: str, module: FusedModule) -> Iterator[str]:
    head = name.removesuffix(end)
    return (head + own for own in module.parts)


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
