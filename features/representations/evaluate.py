"""Computing representations of a batch, with all common work done once, and checking them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .base import Representation, Shape, shape_name

if TYPE_CHECKING:
    from torch import Tensor

    from lorasweep.features.numerics.matrix_batch import MatrixBatch
    from lorasweep.features.numerics.update_batch import UpdateBatch


class BadValuesError(ValueError):
    """A representation returned something else than it had promised."""


def evaluate(batch: MatrixBatch | UpdateBatch, wanted: list[Representation]) -> dict[str, Tensor]:
    """Compute stored representations of a batch.

    Returns:
        name -> (batch, width) float32, clipped to float32's range, on the batch's device.

    Raises:
        BadValuesError: a representation returned another shape than it had promised.
    """
    return {item.name: _checked(item, batch) for item in wanted}


def _checked(item: Representation, batch: MatrixBatch | UpdateBatch) -> Tensor:
    import torch

    assert item.compute is not None, f"{item.name} is a view"
    values = item.compute(batch)
    expected = batch.batch, item.width(shape_of(batch))
    if not isinstance(values, torch.Tensor) or tuple(values.shape) != expected:
        found = tuple(values.shape) if hasattr(values, "shape") else type(values).__name__
        raise BadValuesError(
            f"representation {item.name!r} returned {found} where it has promised {expected}: "
            "one row for each matrix, one column for each of its named values"
        )
    limit = torch.finfo(torch.float32).max
    return values.clamp(-limit, limit).float()


def shape_of(batch: MatrixBatch | UpdateBatch) -> Shape:
    """What a representation's value names depend on."""
    from lorasweep.features.numerics.matrix_batch import MatrixBatch

    if isinstance(batch, MatrixBatch):
        return batch.m, batch.n
    return batch.outputs, batch.inputs, batch.rank


def evaluate_each(
    batch: MatrixBatch | UpdateBatch, wanted: list[Representation], failed: dict[str, str]
) -> dict[str, np.ndarray]:
    """Evaluate one by one; what one raises, or its NaN, is its own failure.

    The common work is the batch's, so that one by one costs no more than together. NaN is looked
    for in main memory, so that the host does not wait for the device for its sake.

    Arguments:
        failed: name -> traceback; updated.
    """
    values: dict[str, Tensor] = {}
    for item in wanted:
        try:
            values.update(evaluate(batch, [item]))
        except Exception:
            failed[item.name] = traceback.format_exc()
    found = {}
    for name, value in values.items():
        matrix = value.cpu().numpy()
        # A NaN survives summing up, and a sum is cheaper than a look at every value.
        if np.isnan(matrix.sum()) and np.isnan(matrix).any():
            row = int(np.isnan(matrix).any(axis=1).argmax())
            shape = shape_name(shape_of(batch))
            failed[name] = f"representation {name!r} gives NaN (matrix {row} of shape {shape})"
        else:
            found[name] = matrix
    return found


def matrix_batch(matrices: Tensor, wanted: list[Representation]) -> MatrixBatch:
    """(batch, m, n) float32 as a batch that already has the bulk quantities some representations
    ask for, each computed while its matrices are in the processor's cache."""
    from lorasweep.features.numerics.matrix_batch import MatrixBatch

    return MatrixBatch(matrices, _bulk_quantities(tuple(wanted)))


class PaddedMatrices(NamedTuple):
    """Matrices of one shape, some of which had fewer rows or columns before zeros were added.

    A representation is given each as it was, unless it has another number of values there than for
    the padded shape: then it is given the padded one.

    Attributes:
        matrices: (batch, m, n) float32.
        shapes: (batch, 2) the shape of each before.
    """

    matrices: Tensor
    shapes: np.ndarray

    def evaluate(self, wanted: list[Representation]) -> dict[str, Tensor]:
        """See `evaluate`."""
        import torch

        found: dict[str, Tensor] = {}
        for rows, part, items in self._parts(wanted):
            for name, values in evaluate(matrix_batch(part, items), items).items():
                if name not in found:
                    found[name] = values.new_empty(len(self.matrices), values.shape[1])
                found[name][torch.from_numpy(rows).to(values.device)] = values
        return found

    def evaluate_each(
        self, wanted: list[Representation], failed: dict[str, str]
    ) -> dict[str, np.ndarray]:
        """See `evaluate_each`."""
        found: dict[str, np.ndarray] = {}
        for rows, part, items in self._parts(wanted):
            sound = [item for item in items if item.name not in failed]
            for name, values in evaluate_each(matrix_batch(part, sound), sound, failed).items():
                whole = (len(self.matrices), values.shape[1])
                found.setdefault(name, np.empty(whole, np.float32))[rows] = values
        return {name: values for name, values in found.items() if name not in failed}

    def _parts(
        self, wanted: list[Representation]
    ) -> Iterator[tuple[np.ndarray, Tensor, list[Representation]]]:
        """Matrices that had one shape: which, what they are, and for which representations."""
        import torch

        stored = int(self.matrices.shape[1]), int(self.matrices.shape[2])
        kinds, kind = np.unique(self.shapes, axis=0, return_inverse=True)
        for i, (m, n) in enumerate(kinds.tolist()):
            rows = np.flatnonzero(kind.reshape(-1) == i)
            padded = self.matrices[torch.from_numpy(rows).to(self.matrices.device)]
            fits = [item for item in wanted if item.width((m, n)) == item.width(stored)]
            if fits:
                yield rows, padded[:, :m, :n].contiguous(), fits
            others = [item for item in wanted if item not in fits]
            if others:
                yield rows, padded, others


@cache
def _bulk_quantities(wanted: tuple[Representation, ...]) -> frozenset[str]:
    """The shared quantities that some representations of tensors ask for, found out on a tiny
    batch."""
    import torch

    from lorasweep.features.numerics.matrix_batch import MatrixBatch

    tiny = MatrixBatch(torch.ones(1, 2, 2))
    for item in wanted:
        assert item.compute is not None, f"{item.name} is a view"
        # What a representation raises is told when it is evaluated.
        with suppress(Exception):
            item.compute(tiny)
    return tiny.used
