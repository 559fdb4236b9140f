"""Projecting adapters that come later on the components of landmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from lorasweep.features.common.files import write_atomic

from .components import Components
from .kernel import KERNELS, FactorBatch, layer_products

FILE = "projection.safetensors"
"""Beside cached coordinates: what they were projected with."""


@dataclass(frozen=True)
class Projection:
    """What makes coordinates of inner products with landmarks.

    Attributes:
        components: of the landmarks.
        mean_squares: (n_layers,) by what each layer's inner products are divided, in sorted order
            of layers; 0: the layer is left out.
    """

    components: Components
    mean_squares: NDArray[np.float64]

    def write(self, folder: Path) -> None:
        """Write it into a folder of coordinates."""
        content = save(
            {
                "weights": np.ascontiguousarray(self.components.weights),
                "means": self.components.means,
                "mean_squares": self.mean_squares,
            }
        )
        write_atomic(folder / FILE, lambda file: file.write(content))

    @classmethod
    def read(cls, folder: Path) -> Projection:
        """Read it.

        Raises:
            FileNotFoundError: there is none, as of coordinates of earlier versions.
        """
        found = load_file(folder / FILE)
        return cls(Components(found["weights"], found["means"]), found["mean_squares"])

    def products(
        self, kernel: str, layers: Sequence[FactorBatch], landmarks: Sequence[FactorBatch]
    ) -> tuple[NDArray[np.float32], torch.Tensor]:
        """Inner products of some adapters with the landmarks, which `components` project.

        Arguments:
            kernel: by its name.
            layers, landmarks: in the order of `mean_squares`.

        Returns:
            (n, n_landmarks) inner products, and (n,) float64 squared lengths.
        """
        of, n = KERNELS[kernel], len(layers[0].down)
        total = torch.zeros(n, len(landmarks[0].down))
        squares = torch.zeros(n, dtype=torch.float64)
        for own, others, square in zip(layers, landmarks, self.mean_squares):
            if square:
                for top, products in layer_products(of, own, others, 1 / float(square)):
                    total[top : top + len(products)] += products
                squares += of.own(own) / float(square)
        return total.numpy(), squares
