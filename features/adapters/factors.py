"""From a module's tensors to the two factors of its update: ΔW = s·B·A, A (rank, inputs) and B
(outputs, rank).

The weight of a convolution, (outputs, channels, height, width), counts as a matrix of
channels · height · width inputs, as it lies in memory.

Formulas of LoHa, LoKr and LoCon: Yeh et al., "Navigating Text-To-Image Customization: From LyCORIS
Fine-Tuning to Model Evaluation", ICLR 2024, arXiv:2309.14859; the places of the tensors' axes as
`lycoris.functional` has them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import NamedTuple

import numpy as np

from lorasweep.features.formats.format import DOWN, MID, UP

from .modules import LOHA, LOKR, Module
from .tensors import Shape

Array = np.ndarray
GetArray = Callable[[str], Array]
"""Part of a module -> its float32 array."""


class UpdateShape(NamedTuple):
    """A module's update before its values are read.

    Attributes:
        outputs, inputs: of ΔW.
        rank: of the two factors as they will be given.
        own_rank: the rank that α is divided by; 0: there is none, and α does not count.
    """

    outputs: int
    inputs: int
    rank: int
    own_rank: int


class ModuleFactors(NamedTuple):
    """A (rank, inputs) and B (outputs, rank), and the share of ‖B·A‖² that they have lost."""

    down: Array
    up: Array
    lost: float = 0.0


def update_shape(module: Module, shapes: Mapping[str, Shape], lokr_rank: int) -> UpdateShape:
    """What a module's update will be, from the shapes of its tensors.

    Raises:
        ValueError: they do not fit each other.
    """
    own = {part: shapes[tensor] for part, tensor in module.tensors.items()}
    try:
        if module.algorithm == LOHA:
            return _loha_shape(own)
        if module.algorithm == LOKR:
            return _lokr_shape(own, lokr_rank)
        return _lora_shape(own)
    except IndexError as error:
        raise ValueError("a tensor has too few axes") from error


def factors(module: Module, get: GetArray, rank: int) -> ModuleFactors:
    """A module's factors, of the rank that `update_shape` says; NaN where they cannot be told."""
    if module.algorithm == LOHA:
        return _loha(module, get)
    if module.algorithm == LOKR:
        return _lokr(module, get, rank)
    down, up = get(DOWN), get(UP)
    up = up.reshape(up.shape[:2])
    if MID in module.tensors:
        return ModuleFactors(_with_core(get(MID), down.reshape(down.shape[:2])), up)
    return ModuleFactors(down.reshape(len(down), -1), up)


# LoRA, and LoCon with a core


def _lora_shape(own: Mapping[str, Shape]) -> UpdateShape:
    down, up = own[DOWN], own[UP]
    rank, outputs = down[0], up[0]
    if len(down) < 2 or up[1] != rank or prod(up[2:]) != 1:
        raise ValueError(f"A of shape {list(down)} does not fit B of {list(up)}")
    inputs = prod(down[1:])
    if MID in own:
        core = own[MID]
        if core[:2] != (rank, rank):
            raise ValueError(f"a core of shape {list(core)} does not fit rank {rank}")
        inputs *= prod(core[2:])
    return UpdateShape(outputs, inputs, rank, rank)


def _with_core(core: Array, down: Array) -> Array:
    """(rank, channels · places) of a core (rank, rank, *places) and A (rank, channels): the update
    keeps the rank of its B."""
    rank = len(core)
    return np.einsum("ijk,jc->ick", core.reshape(rank, rank, -1), down, optimize=True).reshape(
        rank, -1
    )


# LoHa


def _loha_shape(own: Mapping[str, Shape]) -> UpdateShape:
    sizes = []
    for side in "12":
        a, b, core = own[f"hada_w{side}_a"], own[f"hada_w{side}_b"], own.get(f"hada_t{side}")
        rank = b[0]
        if (a[0] if core else a[1]) != rank or (core and core[:2] != (rank, rank)):
            raise ValueError(f"hada_w{side}_a of shape {list(a)} does not fit rank {rank}")
        outputs, inputs = (a[1], b[1] * prod(core[2:])) if core else (a[0], prod(b[1:]))
        sizes.append((outputs, inputs, rank))
    (outputs, inputs, first), (*others, second) = sizes
    if others != [outputs, inputs]:
        raise ValueError("the two factors of the Hadamard product differ in shape")
    return UpdateShape(outputs, inputs, min(first * second, outputs, inputs), first)


def _loha(module: Module, get: GetArray) -> ModuleFactors:
    """(B₁·A₁) ∘ (B₂·A₂) is one product of low rank: its factors' columns (of B) and rows (of A) are
    all products of one of the first with one of the second, their Khatri–Rao product."""
    (down1, up1), (down2, up2) = (_loha_side(module, get, side) for side in "12")
    down = down1[:, None] * down2[None]
    up = up1[:, :, None] * up2[:, None, :]
    return _no_larger(down.reshape(-1, down.shape[2]), up.reshape(len(up), -1))


def _no_larger(down: Array, up: Array) -> ModuleFactors:
    """The same product of the rank of its smaller side, where that is less; exactly, as far as
    float32 goes: the larger factor's orthogonal one carries it, the other all else."""
    outputs, inputs = len(up), down.shape[1]
    if len(down) <= min(outputs, inputs):
        return ModuleFactors(down, up)
    down, up = down.astype(np.float64), up.astype(np.float64)
    if inputs <= outputs:
        q, r = np.linalg.qr(down.T)
        down, up = q.T, up @ r.T
    else:
        q, r = np.linalg.qr(up)
        down, up = r @ down, q
    return ModuleFactors(down.astype(np.float32), up.astype(np.float32))


def _loha_side(module: Module, get: GetArray, side: str) -> tuple[Array, Array]:
    a, b = get(f"hada_w{side}_a"), get(f"hada_w{side}_b")
    core = f"hada_t{side}"
    if core in module.tensors:
        return _with_core(get(core), b), a.T
    return b.reshape(len(b), -1), a


# LoKr


def _lokr_shape(own: Mapping[str, Shape], limit: int) -> UpdateShape:
    (rows1, columns1, rank1), (rows2, columns2, rank2) = (_half_shape(own, s) for s in "12")
    own_rank = next((own[p][0] for p in ("lokr_w2_b", "lokr_w1_b") if p in own), 0)
    whole = min(rows1, columns1, rank1) * min(rows2, columns2, rank2)
    return UpdateShape(rows1 * rows2, columns1 * columns2, min(whole, limit), own_rank)


def _half_shape(own: Mapping[str, Shape], side: str) -> tuple[int, int, int]:
    """(rows, columns, rank) of one half of a Kronecker product."""
    if (whole := own.get(f"lokr_w{side}")) is not None:
        rows, columns = whole[0], prod(whole[1:])
        return rows, columns, min(rows, columns)
    a, b, core = own[f"lokr_w{side}_a"], own[f"lokr_w{side}_b"], own.get(f"lokr_t{side}")
    if (a[0] if core else a[1]) != b[0] or (core and core[:2] != (b[0], b[0])):
        raise ValueError(f"lokr_w{side}_a of shape {list(a)} does not fit {list(b)}")
    return (a[1], b[1] * prod(core[2:]), b[0]) if core else (a[0], prod(b[1:]), b[0])


def _lokr(module: Module, get: GetArray, rank: int) -> ModuleFactors:
    """Truncated SVD of W₁ ⊗ W₂: its singular values are all products of one of W₁ with one of W₂,
    its singular vectors the Kronecker products of theirs (Van Loan, "The ubiquitous Kronecker
    product", 2000), so that only the small halves are decomposed."""
    halves = [_half(module, get, side).astype(np.float64) for side in "12"]
    if not all(np.isfinite(half).all() for half in halves):
        outputs, inputs = (a * b for a, b in zip(*(half.shape for half in halves)))
        return ModuleFactors(
            np.full((rank, inputs), np.nan, np.float32),
            np.full((outputs, rank), np.nan, np.float32),
        )
    (u1, s1, v1), (u2, s2, v2) = (np.linalg.svd(half, full_matrices=False) for half in halves)
    values = np.multiply.outer(s1, s2).reshape(-1)
    order = np.argsort(-values, kind="stable")[:rank]
    first, second = np.divmod(order, len(s2))
    root = np.sqrt(values[order])
    up = (u1[:, None, first] * u2[None, :, second]).reshape(-1, len(order)) * root
    down = (v1[first][:, :, None] * v2[second][:, None, :]).reshape(len(order), -1)
    squares = float((values**2).sum())
    lost = max(0.0, 1.0 - float((values[order] ** 2).sum()) / squares) if squares else 0.0
    return ModuleFactors((down * root[:, None]).astype(np.float32), up.astype(np.float32), lost)


def _half(module: Module, get: GetArray, side: str) -> Array:
    whole = f"lokr_w{side}"
    if whole in module.tensors:
        return get(whole).reshape(len(get(whole)), -1)
    a, b = get(f"lokr_w{side}_a"), get(f"lokr_w{side}_b")
    core = f"lokr_t{side}"
    if core in module.tensors:
        return a.T @ _with_core(get(core), b)
    return a @ b.reshape(len(b), -1)
