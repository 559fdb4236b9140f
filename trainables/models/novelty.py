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
    """A training split, and how far its adapters are from each other.

    Attributes:
        train: (n_train, n_features) float16 standardised features, clipped to its range; of a
            representation that is fitted on inner products, (n_landmarks,) float64 squared lengths.
        distances: ascending float32: of training adapters, drawn by seed 0 where they are many, the
            Euclidean distance to the `NEIGHBOUR`th nearest other one.
    """

    train: Tensor
    distances: Tensor

    @classmethod
    def of(cls, train: np.ndarray) -> Reference:
        """Of (n_train, n_features) float32 standardised features, two adapters at least.

        Not of their principal components: what is unlike all training adapters has none of them.
        """
        short = _short(train)
        chosen = _drawn(len(short))
        return cls(short, _distances(short[chosen], short, chosen).sort().values.float())

    @classmethod
    def of_products(cls, products: np.ndarray, squares: Tensor) -> Reference:
        """Of (n_landmarks, n_landmarks) inner products and (n_landmarks,) squared lengths."""
        chosen = _drawn(len(squares))
        kernel = torch.from_numpy(products)[chosen]
        found = _kernel_distances(kernel, squares[chosen], squares, chosen)
        return cls(squares, found.sort().values.float())

    def unlike(self, features: np.ndarray) -> np.ndarray:
        """(n, n_features) float32 standardised features -> (n,) float64 from 0 to 100: the
        percentage of training adapters that are not farther from their own neighbours."""
        return self._percentage(_distances(_short(features), self.train))

    def unlike_products(self, products: np.ndarray, squares: Tensor) -> np.ndarray:
        """The same, from (n, n_landmarks) inner products and (n,) squared lengths."""
        kernel = torch.from_numpy(products)
        return self._percentage(_kernel_distances(kernel, squares, self.train))

    def _percentage(self, found: Tensor) -> np.ndarray:
        known = self.distances.numpy()
        return 100.0 * np.searchsorted(known, found.float().numpy(), side="right") / len(known)


def _short(features: np.ndarray) -> Tensor:
    most = torch.finfo(torch.float16).max
    return torch.from_numpy(features).clamp(-most, most).half()


def _drawn(count: int) -> Tensor:
    """Which of the training adapters are compared with all."""
    if count <= _MOST_COMPARED:
        return torch.arange(count)
    drawn = np.random.default_rng(0).permutation(count)[:_MOST_COMPARED]
    return torch.from_numpy(np.sort(drawn))


def _distances(x: Tensor, train: Tensor, own: Tensor | None = None) -> Tensor:
    """(n,) float64 distance to the `NEIGHBOUR`th nearest row of `train`.

    Arguments:
        own: which rows of `train` those of `x` are: none is its own neighbour.
    """
    squares = torch.cat([part.double().square().sum(1) for part in train.split(_ROWS)])
    found = []
    for top in range(0, len(x), _ROWS):
        # In float64, since |x|² + |t|² − 2⟨x, t⟩ cancels for near ones.
        block = x[top : top + _ROWS].double()
        products = torch.cat([block @ part.double().T for part in train.split(_COLUMNS)], 1)
        rows = own[top : top + _ROWS] if own is not None else None
        found.append(_kernel_distances(products, block.square().sum(1), squares, rows))
    return torch.cat(found)


def _kernel_distances(
    products: Tensor, squares: Tensor, others: Tensor, own: Tensor | None = None
) -> Tensor:
    """(n,) float64, as `_distances`, from (n, n_train) inner products and squared lengths."""
    distances = squares.double()[:, None] + others.double() - 2 * products.double()
    count = len(others)
    if own is not None:
        distances[torch.arange(len(distances)), own] = torch.inf
        count -= 1
    nearest = distances.topk(min(NEIGHBOUR, max(count, 1)), dim=1, largest=False, sorted=True)
    return nearest.values[:, -1].clamp(min=0).sqrt()
