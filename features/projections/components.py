"""Principal components from inner products, and everybody's projection on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-6
"""Components with a smaller share of the first one's variance are rounding: 0."""


@dataclass(frozen=True)
class Components:
    """Principal components of landmarks, given by their inner products.

    Schölkopf, Smola and Müller 1998. Others are projected on them by their inner products with the
    landmarks: Nyström, as in Williams and Seeger 2001.

    Attributes:
        weights: (n_landmarks, n_components) float64: what the centred inner products of an adapter
            are multiplied by.
        means: (n_landmarks,) float64 mean inner product of every landmark with the landmarks.
    """

    weights: NDArray[np.float64]
    means: NDArray[np.float64]

    def project(self, products: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, n_landmarks) inner products -> (n, n_components) coordinates.

        Those of the landmarks themselves are their principal component scores.
        """
        values = products.astype(np.float64)
        centred = values - values.mean(axis=1, keepdims=True) - self.means + self.means.mean()
        return (centred @ self.weights).astype(np.float32)


def principal_components(products: NDArray[np.float32], count: int) -> Components:
    """The first components of landmarks.

    Every eigenvector has its largest coefficient positive. Components with an eigenvalue below
    `SMALLEST` times the largest, or beyond n_landmarks − 1, are 0.

    Arguments:
        products: (n_landmarks, n_landmarks) inner products of the landmarks.
        count: components wanted.
    """
    from scipy.linalg import eigh

    kernel = products.astype(np.float64)
    kernel = (kernel + kernel.T) / 2
    means = kernel.mean(axis=0)
    centred = kernel - means - means[:, None] + means.mean()
    n = len(kernel)
    kept = min(count, n - 1)
    values, vectors = eigh(centred, subset_by_index=[n - kept, n - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.where(vectors[largest, np.arange(kept)] < 0, -1.0, 1.0)
    is_real = values > max(SMALLEST * float(values[0]), 0.0)
    scale = np.zeros(kept)
    scale[is_real] = 1.0 / np.sqrt(values[is_real])
    weights = np.zeros((n, count))
    weights[:, :kept] = vectors * scale
    return Components(weights, means)
