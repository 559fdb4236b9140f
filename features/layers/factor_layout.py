"""Where the columns of a feature matrix hold the two matrices of a layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .pairing import Layer

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FactorColumns:
    """The columns of a layer: the entries of s·B, row by row, then those of A, as `flat` has them.

    Attributes:
        layer: its name.
        outputs, inputs, rank: s·B is (outputs, rank) and A is (rank, inputs).
        first: its first column.
    """

    layer: str
    outputs: int
    inputs: int
    rank: int
    first: int

    @property
    def width(self) -> int:
        """How many columns there are."""
        return self.rank * (self.outputs + self.inputs)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(outputs, inputs, rank)."""
        return self.outputs, self.inputs, self.rank

    def up(self, x: Tensor) -> Tensor:
        """(n, n_features) -> (n, outputs, rank) s·B, without a copy."""
        columns = x.narrow(1, self.first, self.outputs * self.rank)
        return columns.unflatten(1, (self.outputs, self.rank))

    def down(self, x: Tensor) -> Tensor:
        """(n, n_features) -> (n, rank, inputs) A, without a copy."""
        first = self.first + self.outputs * self.rank
        return x.narrow(1, first, self.rank * self.inputs).unflatten(1, (self.rank, self.inputs))


Layout = tuple[FactorColumns, ...]
"""Of all layers of a matrix, in the order of its columns."""


def layout_of(layers: Iterable[Layer]) -> Layout:
    """The layout of a matrix of layers, which stand side by side in sorted order of their names."""
    found: list[FactorColumns] = []
    for layer in sorted(layers, key=lambda layer: layer.name):
        first = found[-1].first + found[-1].width if found else 0
        found.append(FactorColumns(layer.name, *layer.shape, first))
    return tuple(found)
