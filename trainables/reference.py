"""How far an adapter is from those of the training split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NEIGHBOUR = 5
"""The distance that counts is that to the so-manieth nearest training adapter."""

_MOST_COMPARED = 2000
_ROWS = 256
_COLUMNS = 4096


@dataclass(frozen=True)
class Reference:
    """A training split as a classifier sees it.

    Attributes:
        train: (n_train, n_features) float16, clipped to its range.
        distances: ascending float32: of training adapters, drawn by seed 0 where they are many, the
            Euclidean distance to the `NEIGHBOUR`th nearest other one.
    """

    train: Tensor
    distances: Tensor

    @classmethod
    def of(cls, train: Tensor) -> Reference:
        """Of (n_train, n_features) float32, at least two."""
        short = _short(train)
        count = len(short)
        chosen = np.arange(count)
        if count > _MOST_COMPARED:
            chosen = np.random.default_rng(0).permutation(count)[:_MOST_COMPARED]
        index = torch.from_numpy(np.sort(chosen))
        found = _distances(short[index], short, index)
        return cls(short, found.sort().values.float())

    def unlike(self, x: Tensor) -> np.ndarray:
        """(n, n_features) float32 -> (n,) float64 from 0 to 100: the percentage of training
        adapters that are not farther from their own neighbours."""
        found = _distances(_short(x), self.train).float().numpy()
        known = self.distances.numpy()
        return 100.0 * np.searchsorted(known, found, side="right") / len(known)


def _short(x: Tensor) -> Tensor:
    most = torch.finfo(torch.float16).max
    return x.cpu().clamp(-most, most).half()


def _distances(x: Tensor, train: Tensor, own: Tensor | None = None) -> Tensor:
    """(n,) float64 distance to the `NEIGHBOUR`th nearest row of `train`.

    Arguments:
        own: which rows of `train` those of `x` are: none is its own neighbour.
    """
    others = len(train) - (own is not None)
    k = min(NEIGHBOUR, others)
    lengths = torch.cat([part.double().square().sum(1) for part in train.split(_ROWS)])
    found = []
    for top in range(0, len(x), _ROWS):
        block = x[top : top + _ROWS].double()
        # |x − t|² = |x|² + |t|² − 2⟨x, t⟩, in float64 since near ones cancel.
        squares = block.square().sum(1, keepdim=True) + lengths
        for left in range(0, len(train), _COLUMNS):
            squares[:, left : left + _COLUMNS] -= (
                2 * block @ train[left : left + _COLUMNS].double().T
            )
        if own is not None:
            squares[torch.arange(len(block)), own[top : top + _ROWS]] = torch.inf
        nearest = squares.topk(k, dim=1, largest=False, sorted=True).values[:, -1]
        found.append(nearest.clamp(min=0).sqrt())
    return torch.cat(found)
