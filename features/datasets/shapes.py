"""Which columns of a dataset are layer tensors and scales, and what shapes they have."""

from __future__ import annotations

from collections.abc import Sequence

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import abbreviate
from lorasweep.features.layers.pairing import is_layer_tensor, layer_name, rank_column, scale_column

from .columns import flat_values, matrix_shape
from .sources import Source


def layer_columns(names: Sequence[str], dataset: str) -> tuple[list[str], list[str]]:
    """Layer tensors among a dataset's columns, and the columns of their layers' scales, sorted.

    Raises:
        UserError: there is no layer tensor; names the dataset.
    """
    tensors = sorted(name for name in names if is_layer_tensor(name))
    if not tensors:
        raise UserError(
            f"no layer tensors in {dataset}: none of its {len(names)} columns is named like "
            f"…lora.down.weight or …lora_A.… (columns: {abbreviate(names)})"
        )
    expected = {scale_column(layer_name(name)) for name in tensors}
    return tensors, sorted(expected.intersection(names))


def rank_columns(names: Sequence[str], tensors: Sequence[str]) -> list[str]:
    """The columns of layers' own ranks among a dataset's columns, sorted."""
    return sorted({rank_column(layer_name(name)) for name in tensors}.intersection(names))


def read_shapes(
    source: Source, lora_rank: int | None
) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Layer tensor -> (m, n) in sorted order of names, and the columns of scales.

    Only the first adapter is read; a scan checks that the others are like it. No label is needed.

    Arguments:
        lora_rank: shape of flat lists, see `matrix_shape`.

    Raises:
        UserError: there is no layer tensor or no adapter, or a tensor is no matrix.
    """
    reader = source.open()
    tensors, scales = layer_columns(reader.schema.names, source.label)
    first = next(reader.read(0, 1, tensors), None)
    if first is None:
        raise UserError(f"dataset {source.label} is empty")
    shapes = {}
    for name in tensors:
        try:
            _, shape = flat_values(first.column(name))
        except (TypeError, ValueError) as error:
            raise UserError(f"column {name!r} {error}") from error
        shapes[name] = matrix_shape(name, shape, lora_rank)
    return shapes, scales
