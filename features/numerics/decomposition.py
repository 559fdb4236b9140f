"""Singular values and vectors of updates ΔW = B·A from r × r matrices, on any torch device.

With the Gram cores G_A = A·Aᵀ and G_B = Bᵀ·B = H·Hᵀ, B is Q·Hᵀ, where Q has orthonormal columns;
so the squares of the singular values are the eigenvalues of Hᵀ·G_A·H. H is the Cholesky factor of
G_B. Squaring doubles the digits that a small value lacks. Where they run out, the triangular
factors of B and Aᵀ are used instead.

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

    def root(self) -> tuple[Tensor, Tensor]:
        """H, (batch, r, r), and (batch,) whether G_A or G_B is ill-conditioned and H is of no use.
        It has a one on the diagonal where that is dead."""
        up, down = (kernels.eigenvalues(gram) for gram in (self.up, self.down))
        poor = self.are_spread(up) | self.are_spread(down)
        ones = torch.diag_embed((~self.live | poor[:, None]).to(self.up.dtype))
        h, _ = torch.linalg.cholesky_ex(torch.where(poor[:, None, None], ones, self.up + ones))
        return h, poor

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
    h, poor = cores.root()
    squares = kernels.eigenvalues(h.mT @ cores.down @ h)
    values = squares.clamp(min=0).sqrt() * cores.unit[:, None]
    again = poor | cores.are_spread(squares)
    for rows, left, right in _triangular(columns, down, cores.live, again):
        found = torch.linalg.svdvals(left.R @ right.R.mT)
        values[rows] = _padded(found, down.shape[1])
    return _without_noise(values)


def canonical_factors(
    columns: Tensor, down: Tensor, gram_up: Tensor, gram_down: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Of s·B·A, with s (batch,) and else the arguments of `singular_values`: singular vectors times
    the roots of their values.

    U = B·H⁻ᵀ·Û and V = Aᵀ·H·Û/σ with Û the eigenvectors of Hᵀ·G_A·H; or Q_B·Û and Q_A·V̂ from the
    QR factors where these are used.

    Returns:
        (batch, r, outputs) and (batch, r, inputs) float64, √σᵢ·uᵢ and √σᵢ·vᵢ in rows, σ descending,
        the entry of uᵢ with the largest magnitude positive; 0 where σᵢ is.
    """
    rank = down.shape[1]
    cores = _cores(gram_up, gram_down)
    h, poor = cores.root()
    squares, turned = (part.flip(-1) for part in torch.linalg.eigh(h.mT @ cores.down @ h))
    values = _without_noise(squares.clamp(min=0).sqrt() * cores.unit[:, None])
    s = scale.double()[:, None, None]
    unit, live = cores.up_unit.sqrt()[:, None, None], cores.live[:, :, None]
    weight, s_root = values.sqrt()[:, None, :], s.abs().sqrt()
    left = torch.linalg.solve_triangular(h.mT, turned, upper=True) * live * (weight * s_root / unit)
    right = h @ turned * live * (_inverse(weight) * s.sign() * s_root * unit)
    u, v = left.mT @ columns.double(), right.mT @ down.double()
    again = poor | cores.are_spread(squares)
    for rows, qr_b, qr_a in _triangular(columns, down, cores.live, again):
        inner, found, outer = torch.linalg.svd(qr_b.R @ qr_a.R.mT, full_matrices=False)
        own = _without_noise(found).sqrt()[:, None, :] * s_root[rows]
        u[rows] = _padded(qr_b.Q @ inner * own, rank).mT
        v[rows] = _padded(qr_a.Q @ outer.mT * (own * s[rows].sign()), rank).mT
    sign = torch.where(u.amax(2) < -u.amin(2), -1.0, 1.0)[:, :, None]
    return u.mul_(sign), v.mul_(sign)


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
