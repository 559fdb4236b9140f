"""Projecting adapters that come later on the components of landmarks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from ..core.files import write_atomic
from .components import Components
from .kernel import KERNELS, Factors, layer_products

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

    def project(
        self, kernel: str, layers: Iterable[Factors], landmarks: Sequence[Factors]
    ) -> NDArray[np.float32]:
        """(n, n_components) coordinates of some adapters.

        Arguments:
            kernel: inner product, by its name.
            layers, landmarks: in sorted order of layers.
        """
        between, total = KERNELS[kernel].between, None
        for own, others, square in zip(layers, landmarks, self.mean_squares):
            if square:
                products = layer_products(between, own, others) / float(square)
                total = products if total is None else total + products
        if total is None:  # every landmark is zero
            return np.zeros((len(next(iter(layers)).down), self.components.weights.shape[1]), "f4")
        return self.components.project(total.numpy())


def as_float32(layers: Iterable[Factors]) -> Iterator[Factors]:
    """The same in the precision that is computed in."""
    for layer in layers:
        yield Factors(*(part.to(torch.float32) for part in (layer.down, layer.up, layer.scale)))
