"""Singular values and vectors of updates ΔW = B·A from r × r matrices, on any torch device.

With the Gram cores G_A = A·Aᵀ and G_B = Bᵀ·B = H·Hᵀ, B is Q·Hᵀ, where Q has orthonormal columns;
so the squares of the singular values are the eigenvalues of Hᵀ·G_A·H. H is the Cholesky factor of
G_B, or V·D^½ of its eigenvectors where vectors are wanted. Squaring doubles the digits that a small
value lacks. Where they run out, the triangular factors of B and Aᵀ are used instead.

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
        left: (batch, rank, outputs) float64, u in rows, its entry of the largest magnitude
            positive; 0 where σ is.
        right: (batch, rank, inputs) float64, v in rows.
    """

    values: Tensor
    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class _Cores:
    """G_A and G_B without what adds nothing, each divided by its largest diagonal entry.

    Attributes:
        up, down: (batch, r, r) G_B and G_A.
        up_unit: (batch,) that of G_B.
        unit: (batch,) what singular values are multiplied by.
        live: (batch, r) whether neither B's column nor A's row is zero.
    """

    up: Tensor
    down: Tensor
    up_unit: Tensor
    unit: Tensor
    live: Tensor

    def are_poor(self, up_values: Tensor) -> Tensor:
        """(batch,) whether G_A or G_B, of the eigenvalues given, is ill-conditioned."""
        return self.are_spread(up_values) | self.are_spread(kernels.eigenvalues(self.down))

    def are_spread(self, descending: Tensor) -> Tensor:
        """(batch,) whether the last eigenvalue, as many as are live, is too small a part of the
        first."""
        last = (self.live.sum(1) - 1).clamp(min=0)[:, None]
        return descending.gather(1, last)[:, 0] < _WELL_CONDITIONED * descending[:, 0]


def _cores(gram_up: Tensor, gram_down: Tensor) -> _Cores:
    diagonals = [gram.diagonal(dim1=1, dim2=2) for gram in (gram_up, gram_down)]
    live = (diagonals[0] > 0) & (diagonals[1] > 0)
    both = live[:, :, None] & live[:, None, :]
    units = [(diagonal * live).amax(1) for diagonal in diagonals]
    units = [torch.where(unit > 0, unit, 1.0) for unit in units]
    up, down = (
        (gram * both) / unit[:, None, None] for gram, unit in zip((gram_up, gram_down), units)
    )
    return _Cores(up, down, units[0], (units[0] * units[1]).sqrt(), live)


def singular_values(columns: Tensor, down: Tensor, gram_up: Tensor, gram_down: Tensor) -> Tensor:
    """Those of B·A.

    Arguments:
        columns: (batch, r, outputs) float32 Bᵀ.
        down: (batch, r, inputs) float32 A.
        gram_up, gram_down: (batch, r, r) float64 Bᵀ·B and A·Aᵀ.

    Returns:
        (batch, r) float64, descending, zero-padded.
    """
    if down.shape[1] == 1:
        return (gram_up * gram_down).sqrt()[:, :, 0]
    cores = _cores(gram_up, gram_down)
    poor = cores.are_poor(kernels.eigenvalues(cores.up))
    # Ones where the diagonal is dead, and for all of a poor core, let every factor exist.
    ones = torch.diag_embed((~cores.live | poor[:, None]).to(cores.up.dtype))
    h, _ = torch.linalg.cholesky_ex(torch.where(poor[:, None, None], ones, cores.up + ones))
    squares = kernels.eigenvalues(h.mT @ cores.down @ h)
    values = squares.clamp(min=0).sqrt() * cores.unit[:, None]
    again = poor | cores.are_spread(squares)
    for rows, left, right in _triangular(columns, down, cores.live, again):
        found = torch.linalg.svdvals(left.R @ right.R.mT)
        values[rows] = _padded(found, down.shape[1])
    return _without_noise(values)


def singular_triplets(
    columns: Tensor, down: Tensor, gram_up: Tensor, gram_down: Tensor
) -> Decomposition:
    """Those of B·A, with the arguments of `singular_values`.

    U = B·V·D^-½·Û and V = Aᵀ·H·Û/σ with Û the eigenvectors of Hᵀ·G_A·H; or Q_B·Û and Q_A·V̂ from
    the QR factors where these are used.
    """
    rank = down.shape[1]
    cores = _cores(gram_up, gram_down)
    up_values, vectors = torch.linalg.eigh(cores.up)
    up_values, vectors = up_values.clamp(min=0), vectors * cores.live[:, :, None]
    d = up_values.sqrt()
    h = vectors * d[:, None, :]
    squares, turned = (part.flip(-1) for part in torch.linalg.eigh(h.mT @ cores.down @ h))
    root = squares.clamp(min=0).sqrt()
    values = _without_noise(root * cores.unit[:, None])
    d = d * cores.up_unit.sqrt()[:, None]
    left = (vectors * _inverse(d)[:, None, :] @ turned).mT
    right = (vectors * d[:, None, :] @ turned * _inverse(values)[:, None, :]).mT
    u, v = left @ columns.double(), right @ down.double()
    again = cores.are_poor(up_values.flip(1)) | cores.are_spread(squares)
    for rows, qr_b, qr_a in _triangular(columns, down, cores.live, again):
        inner, found, outer = torch.linalg.svd(qr_b.R @ qr_a.R.mT, full_matrices=False)
        values[rows] = _without_noise(_padded(found, rank))
        u[rows] = _padded(qr_b.Q @ inner, rank).mT
        v[rows] = _padded(qr_a.Q @ outer.mT, rank).mT
    largest = u.gather(2, u.abs().argmax(2, keepdim=True))
    sign = torch.where(values > 0, torch.where(largest < 0, -1.0, 1.0)[:, :, 0], 0.0)[:, :, None]
    return Decomposition(values, u * sign, v * sign)


def _triangular(
    columns: Tensor, down: Tensor, live: Tensor, again: Tensor
) -> Iterator[tuple[Tensor, Any, Any]]:
    """Of the updates to do again, if any: which they are, and the QR factors of B and of Aᵀ."""
    if again.device.type == "meta":
        return
    rows = again.nonzero()[:, 0]
    if len(rows):
        kept = live[rows, None, :]
        factors = (torch.linalg.qr(x[rows].double().mT * kept) for x in (columns, down))
        yield rows, *factors


def _inverse(values: Tensor) -> Tensor:
    return torch.where(values > 0, 1 / values, 0.0)


def _padded(values: Tensor, rank: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, rank - values.shape[-1]))


def _without_noise(values: Tensor) -> Tensor:
    return values.masked_fill(values < _NOISE * values[:, :1], 0.0)
