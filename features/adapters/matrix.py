"""Sets of adapters that are one matrix: every row an adapter, its tensors flattened and joined.

As weights2weights (Dravid et al. 2024) publishes them: `weight_dimensions.pt` says, tensor by
tensor in the order of a row, (number of values, shape). An adapter is spelled `MATRIX.pt/ROW`,
which is no path on disk.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import BadAdapterError, UnreadableAdapterError
from .tensors import PICKLES, Shape, TensorFile, load_pickle, spelled_dtype

if TYPE_CHECKING:
    import torch

DIMENSIONS = "weight_dimensions.pt"

_TENSOR = re.compile(r"(?:lora_unet_)?(?P<layer>.+?)[._]lora[._](?P<half>A|B|down|up)\b.*")


def matrix_of(path: Path) -> Path | None:
    """The file that an adapter is a row of; None: it is no row."""
    parent = path.parent
    return parent if path.name.isdigit() and parent.suffix.lower() in PICKLES else None


def real_file(weights: Path) -> Path:
    """The file on disk where an adapter's weights are."""
    return matrix_of(weights) or weights


def matrix_rows(folder: Path, names: list[str]) -> list[Path]:
    """The adapters of all matrices in a folder that has dimensions of them.

    Other tensors there, means and components for instance, are left out.

    Raises:
        BadAdapterError: the dimensions are damaged, or no file has rows of their width.
    """
    found = []
    for name in names:
        if name == DIMENSIONS or Path(name).suffix.lower() not in PICKLES:
            continue
        try:
            rows, _ = _open(folder / name)
        except UnreadableAdapterError:
            raise
        except BadAdapterError:
            continue
        found += [folder / name / str(row) for row in range(len(rows))]
    if not found:
        width = sum(map(math.prod, _dimensions(folder / DIMENSIONS).values()))
        raise BadAdapterError(folder / DIMENSIONS, f"no file beside it has rows of {width} values")
    return found


class MatrixRow(TensorFile):
    """One row of a matrix, which is mapped: of the others nothing is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        matrix = matrix_of(path)
        assert matrix is not None
        rows, self.shapes = _open(matrix)
        number = int(path.name)
        if number >= len(rows):
            raise BadAdapterError(path, f"there are {len(rows)} rows, counted from 0")
        self._row = rows[number]
        self.dtypes = dict.fromkeys(self.shapes, spelled_dtype(rows.dtype))
        self.metadata = {}

    def array(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        start = 0
        for tensor, shape in self.shapes.items():
            stop = start + math.prod(shape)
            if tensor == name:
                return self._row[start:stop].reshape(shape).float().numpy()
            start = stop
        raise KeyError(name)


def _open(matrix: Path) -> tuple[torch.Tensor, dict[str, Shape]]:
    """(rows, tensor -> shape).

    Raises:
        BadAdapterError: it is no matrix as wide as the dimensions beside it say.
    """
    try:
        stamps = [path.stat().st_mtime_ns for path in (matrix, matrix.with_name(DIMENSIONS))]
    except OSError as error:
        reason = f"{DIMENSIONS} and it are needed: {error}"
        raise UnreadableAdapterError(matrix, reason) from error
    return _opened(matrix, *stamps)


@lru_cache(maxsize=4)  # for all rows
def _opened(matrix: Path, *stamps: int) -> tuple[torch.Tensor, dict[str, Shape]]:
    import torch

    shapes = _dimensions(matrix.with_name(DIMENSIONS))
    width = sum(map(math.prod, shapes.values()))
    rows = load_pickle(matrix)
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2 or rows.shape[1] != width:
        raise BadAdapterError(matrix, f"is no matrix with rows of {width} values")
    return rows.detach(), shapes


def _dimensions(path: Path) -> dict[str, Shape]:
    content = load_pickle(path)
    try:
        shapes = {_name(name): tuple(map(int, shape)) for name, (_, shape) in content.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise BadAdapterError(path, "does not say name -> (number of values, shape)") from error
    if len(shapes) < len(content):
        raise BadAdapterError(path, "names a tensor twice")
    return shapes


def _name(name: str) -> str:
    """A tensor's name as adapter files spell it."""
    match = _TENSOR.fullmatch(name)
    if match is None:
        return name
    half = {"A": "down", "B": "up"}.get(match["half"], match["half"])
    layer = match["layer"]
    prefix = "unet." if "." in layer else "lora_unet_"
    return f"{prefix}{layer}.lora_{half}.weight"
