"""Singular values and vectors of updates ΔW = B·A from r × r matrices, on any torch device.

With the Gram cores G_A = A·Aᵀ and G_B = Bᵀ·B = V·D·Vᵀ, B is Q·Hᵀ, where H = V·D^½ and Q has
orthonormal columns; so the squares of the singular values are the eigenvalues of Hᵀ·G_A·H. Squaring
doubles the digits that a small value lacks. Where they run out, the triangular factors of B and Aᵀ
are used instead.

A row of A or column of B that is zero adds nothing to ΔW: what is opposite is left out, too, so
that an update padded to a higher rank is as well conditioned as without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import kernels

_WELL_CONDITIONED = 1e-8
"""Least λ_min/λ_max of a Gram core, and of Hᵀ·G_A·H, whose eigenvalues are good enough: in float64
they are off by about 1e-16·λ_max."""

_NOISE = 1e-12
"""Singular values below this part of the largest are rounding noise of float64 and set to 0."""


@dataclass(frozen=True)
class Decomposition:
    """Singular triplets, zero-padded to the rank.

    Attributes:
        values: (batch, rank) float64 σ, descending.
        left: (batch, outputs, rank) float64 u, its entry of the largest magnitude positive; 0
            where σ is.
        right: (batch, inputs, rank) float64 v.
    """

    values: Tensor
    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class _Core:
    """Hᵀ·G_A·H and what it was made of, each Gram core divided by its largest diagonal entry.

    Attributes:
        matrix: (batch, r, r) Hᵀ·G_A·H.
        up_values, up_vectors: D, ascending, and V.
        unit: (batch,) what singular values are multiplied by.
        up_unit: (batch,) that of G_B.
        live: (batch, r) whether neither B's column nor A's row is zero.
        poor: (batch,) whether G_A or G_B is ill-conditioned.
    """

    matrix: Tensor
    up_values: Tensor
    up_vectors: Tensor
    unit: Tensor
    up_unit: Tensor
    live: Tensor
    poor: Tensor

    def ill_conditioned(self, squares: Tensor) -> Tensor:
        """(batch,) whether the squares found, descending, are to be done again."""
        return self.poor | _spread(squares, self.live)


def _core(gram_up: Tensor, gram_down: Tensor) -> _Core:
    diagonals = [gram.diagonal(dim1=1, dim2=2) for gram in (gram_up, gram_down)]
    live = (diagonals[0] > 0) & (diagonals[1] > 0)
    both = live[:, :, None] & live[:, None, :]
    units = [(diagonal * live).amax(1) for diagonal in diagonals]
    units = [torch.where(unit > 0, unit, 1.0) for unit in units]
    up, down = (
        (gram * both) / unit[:, None, None] for gram, unit in zip((gram_up, gram_down), units)
    )
    values, vectors = torch.linalg.eigh(up)
    values, vectors = values.clamp(min=0), vectors * live[:, :, None]
    h = vectors * values.sqrt()[:, None, :]
    poor = _spread(values.flip(1), live) | _spread(kernels.eigenvalues(down), live)
    unit = (units[0] * units[1]).sqrt()
    return _Core(h.mT @ down @ h, values, vectors, unit, units[0], live, poor)


def _spread(descending: Tensor, live: Tensor) -> Tensor:
    """Whether the last eigenvalue, as many as are live, is too small a part of the first."""
    last = descending.gather(1, (live.sum(1) - 1).clamp(min=0)[:, None])[:, 0]
    return last < _WELL_CONDITIONED * descending[:, 0]


def singular_values(up: Tensor, down: Tensor, gram_up: Tensor, gram_down: Tensor) -> Tensor:
    """Those of B·A.

    Arguments:
        up: (batch, outputs, r) float32 B.
        down: (batch, r, inputs) float32 A.
        gram_up, gram_down: (batch, r, r) float64 Bᵀ·B and A·Aᵀ.

    Returns:
        (batch, r) float64, descending, zero-padded.
    """
    if down.shape[1] == 1:
        return (gram_up * gram_down).sqrt()[:, :, 0]
    core = _core(gram_up, gram_down)
    squares = kernels.eigenvalues(core.matrix)
    values = squares.clamp(min=0).sqrt() * core.unit[:, None]
    for rows, left, right in _triangular(up, down, core, squares):
        found = torch.linalg.svdvals(left.R @ right.R.mT)
        values[rows] = _padded(found, down.shape[1])
    return _without_noise(values)


def singular_triplets(
    up: Tensor, down: Tensor, gram_up: Tensor, gram_down: Tensor
) -> Decomposition:
    """Those of B·A, with the arguments of `singular_values`.

    U = B·V·D^-½·Û and V = Aᵀ·H·Û/σ with Û the eigenvectors of Hᵀ·G_A·H; or Q_B·Û and Q_A·V̂ from
    the QR factors where these are used.
    """
    rank = down.shape[1]
    core = _core(gram_up, gram_down)
    squares, turned = (part.flip(-1) for part in torch.linalg.eigh(core.matrix))
    root = squares.clamp(min=0).sqrt()
    values = _without_noise(root * core.unit[:, None])
    d = core.up_values.sqrt()
    b, a = up.double(), down.double()
    left = core.up_vectors * _inverse(d * core.up_unit.sqrt()[:, None])[:, None, :] @ turned
    h = core.up_vectors * (d * core.up_unit.sqrt()[:, None])[:, None, :] @ turned
    u, v = b @ left, (a.mT @ h) * _inverse(root * core.unit[:, None])[:, None, :]
    for rows, qr_b, qr_a in _triangular(up, down, core, squares):
        inner, found, outer = torch.linalg.svd(qr_b.R @ qr_a.R.mT, full_matrices=False)
        values[rows] = _without_noise(_padded(found, rank))
        u[rows], v[rows] = _padded(qr_b.Q @ inner, rank), _padded(qr_a.Q @ outer.mT, rank)
    largest = u.gather(1, u.abs().argmax(1, keepdim=True))
    sign = torch.where(values > 0, torch.where(largest < 0, -1.0, 1.0)[:, 0], 0.0)[:, None, :]
    return Decomposition(values, u * sign, v * sign)


def _triangular(
    up: Tensor, down: Tensor, core: _Core, squares: Tensor
) -> Iterator[tuple[Tensor, Any, Any]]:
    """Of the updates to do again, if any: which they are, and the QR factors of B and of Aᵀ."""
    if squares.device.type == "meta":
        return
    rows = core.ill_conditioned(squares).nonzero()[:, 0]
    if len(rows):
        live = core.live[rows, None, :]
        factors = up[rows].double() * live, down[rows].double().mT * live
        yield rows, torch.linalg.qr(factors[0]), torch.linalg.qr(factors[1])


def _inverse(values: Tensor) -> Tensor:
    return torch.where(values > 0, 1 / values, 0.0)


def _padded(values: Tensor, rank: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, rank - values.shape[-1]))


def _without_noise(values: Tensor) -> Tensor:
    return values.masked_fill(values < _NOISE * values[:, :1], 0.0)
