"""One look at a whole dataset: its shapes, labels, content fingerprint and bad numbers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import (
    DamagedFileError,
    digest,
    read_signed_json,
    sign,
    write_json,
)
from lorasweep.features.common.names import abbreviate
from lorasweep.features.common.progress import Progress
from lorasweep.features.layers.pairing import Layer, pair_layers, ranked_tensors
from lorasweep.features.layers.spellings import has_new_name
from lorasweep.features.representations.base import Shape, Unit

from .columns import RaggedColumnError, flat_values, matrix_shape
from .ranks import RankScan
from .shapes import layer_columns, rank_columns
from .sources import Source

_ROWS_AT_A_TIME = 1024
_SCAN_VERSION = 5
_SHOWN_BAD_CELLS = 3


@dataclass(frozen=True)
class DatasetScan:
    """What is known of a dataset's content.

    Attributes:
        num_rows: adapters in the files, bad ones included.
        tensors: layer tensor name -> (m, n), in sorted order of names.
        scales: columns that hold a layer's scale.
        classes: the distinct labels in ascending order; a class index points into it.
        labels: (num_rows,) class index of every row.
        weights: xxh3-128 over names, dtypes, shapes and values of all layer tensors, scales and
            `ranks`.
        fingerprint: the same with the labels.
        bad_rows: rows with NaN or infinite weights, ascending.
        bad_cells: the first few [row, column] of them, for a message.
        ranks: columns of the ranks that adapters had before they were padded, if some were.
    """

    num_rows: int
    tensors: dict[str, tuple[int, int]]
    scales: list[str]
    classes: list[str] | list[int]
    labels: list[int]
    weights: str
    fingerprint: str
    bad_rows: list[int]
    bad_cells: list[tuple[int, str]]
    ranks: list[str]

    @cached_property
    def kept_labels(self) -> list[int]:
        """Class index of every row that is not bad: the samples, in order."""
        bad = set(self.bad_rows)
        return [label for row, label in enumerate(self.labels) if row not in bad]

    @cached_property
    def layers(self) -> list[Layer]:
        """The layers whose two tensors are there, in sorted order of names."""
        return pair_layers(self.tensors, self.scales)

    @cached_property
    def padded(self) -> dict[str, str]:
        """Layer tensor -> the column of its own ranks, where some adapter is padded."""
        return ranked_tensors(self.tensors, self.ranks)

    def columns(self, unit: Unit) -> dict[str, Shape]:
        """What a representation of this unit has a column of -> its shape, in sorted order.

        Raises:
            UserError: there is nothing of this kind.
        """
        if unit is Unit.TENSOR:
            return dict(self.tensors)
        if unit is Unit.ADAPTER:
            return {"adapter": ()}
        if not self.layers:
            raise UserError(
                "no two layer tensors of this dataset are the down and the up projection of one "
                "layer, so that there is no layer to represent (flat lists need --lora-rank)"
            )
        return {layer.name: layer.shape for layer in self.layers}

    @property
    def num_samples(self) -> int:
        """Rows that are not bad."""
        return self.num_rows - len(self.bad_rows)

    @property
    def numbers_per_sample(self) -> int:
        """Weights of one adapter."""
        return sum(m * n for m, n in self.tensors.values())

    def require_usable(self, *, skip_bad_samples: bool) -> None:
        """Raise a `UserError` if nothing can be learned from this dataset."""
        if self.bad_rows and not skip_bad_samples:
            cells = "; ".join(f"row {row}, column {column}" for row, column in self.bad_cells)
            raise UserError(
                f"{len(self.bad_rows)} of {self.num_rows} samples have NaN or infinite weights "
                f"(first: {cells}); --skip-bad-samples leaves those samples out"
            )
        if self.num_samples == 0:
            raise UserError("no sample is left: every one has NaN or infinite weights")
        present = set(self.kept_labels)
        if len(present) < 2:
            name = self.classes[next(iter(present))]
            raise UserError(f"all samples have the same label {name!r}: nothing to classify")
        if len(present) == self.num_samples:
            raise UserError(
                f"{len(present)} classes for {self.num_samples} adapters: no class has two, one to "
                "learn from and one to test"
            )


def scan_dataset(
    source: Source,
    label_column: str,
    lora_rank: int | None,
    memo: Path,
    *,
    verify: bool = False,
    on_progress: Progress | None = None,
) -> DatasetScan:
    """Read everything once; later calls take it from a memo while no file has changed.

    Arguments:
        label_column: column of strings or integers.
        lora_rank: shape of flat lists, see `matrix_shape`.
        memo: folder for memos. They are valid while every file's path, size, modification and
            change time and inode are the same.
        verify: read everything again whatever the memo says.
        on_progress: called with (rows done, rows in all).

    Raises:
        UserError: no layer tensors, missing or unusable labels, ragged matrices, no rows.
    """
    key = {
        "version": _SCAN_VERSION,
        "files": [stamp[0] for stamp in source.stamps],
        "label_column": label_column,
        "lora_rank": lora_rank,
    }
    path = memo / "scans" / f"{digest(key)}.json"
    if not verify:
        try:
            known = read_signed_json(path)
            if known["stamps"] == source.stamps:
                return _from_json(known["scan"])
        except (OSError, DamagedFileError):
            pass
    scan = _scan(source, label_column, lora_rank, on_progress)
    write_json(path, sign({"stamps": source.stamps, "scan": asdict(scan)}), indent=None)
    return scan


def _from_json(value: dict[str, Any]) -> DatasetScan:
    tensors = {name: (shape[0], shape[1]) for name, shape in value["tensors"].items()}
    cells = [(row, column) for row, column in value["bad_cells"]]
    return DatasetScan(**{**value, "tensors": tensors, "bad_cells": cells})


def _scan(
    source: Source, label_column: str, lora_rank: int | None, on_progress: Progress | None
) -> DatasetScan:
    reader = source.open()
    names = reader.schema.names
    tensors, scales = layer_columns(names, source.label)
    if label_column not in names:
        others = [name for name in names if name not in tensors]
        raise UserError(
            f"no label column {label_column!r} in {source.label}; choose one of "
            f"{abbreviate(others)} with --label-column"
        )
    if reader.num_rows == 0:
        raise UserError(f"dataset {source.label} is empty")

    numeric = [*tensors, *scales]
    columns = {name: _ColumnScan(name) for name in numeric}
    ranks = RankScan(rank_columns(names, tensors), tensors, lora_rank)
    labels: list[Any] = []
    bounds = [*range(0, reader.num_rows, _ROWS_AT_A_TIME), reader.num_rows]
    with ThreadPoolExecutor() as pool:
        # xxhash and NumPy release the interpreter lock, so columns are hashed side by side.
        for start, stop in pairwise(bounds):
            row = start
            for batch in reader.read(start, stop, [*numeric, *ranks.columns, label_column]):
                labels.extend(_labels(batch.column(label_column), label_column))
                list(pool.map(lambda n, b=batch, r=row: columns[n].update(b.column(n), r), numeric))
                ranks.update(batch, row)
                row += batch.num_rows
            if on_progress:
                on_progress(stop, reader.num_rows)

    for name in scales:
        if columns[name].shape:
            raise UserError(f"column {name!r} has lists; a layer's scale is one number")
    shapes = {name: matrix_shape(name, columns[name].shape, lora_rank) for name in tensors}
    known: dict[str, Any] = {**shapes, **dict.fromkeys(scales)}
    content = [[n, columns[n].dtype, known[n], columns[n].hexdigest()] for n in numeric]
    padded = ranks.padded()
    renamed = ["names 2"] if any(map(has_new_name, tensors)) else []
    weights = digest([*content, *padded.items(), *renamed])
    names_of_classes = class_names(reader.schema, label_column)
    if names_of_classes:
        if min(labels) < 0:
            raise UserError(f"label column {label_column!r} has missing values (-1)")
        labels = [names_of_classes[label] for label in labels]
    classes = sorted(set(labels))
    index = {label: i for i, label in enumerate(classes)}
    bad = sorted((row, name) for name in numeric for row in columns[name].bad_rows)
    return DatasetScan(
        num_rows=reader.num_rows,
        tensors=shapes,
        scales=scales,
        classes=classes,
        labels=[index[label] for label in labels],
        weights=weights,
        fingerprint=digest([weights, labels]),
        bad_rows=sorted({row for row, _ in bad}),
        bad_cells=bad[:_SHOWN_BAD_CELLS],
        ranks=list(padded),
    )


class _ColumnScan:
    """Running hash, shape and bad rows of one layer tensor."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.shape: tuple[int, ...] = ()
        self.dtype = ""
        self.bad_rows: list[int] = []
        self._hasher = xxhash.xxh3_128()

    def update(self, array: pa.Array, first_row: int) -> None:
        try:
            values, shape = flat_values(array)
        except RaggedColumnError as error:
            raise UserError(
                f"ragged matrices: column {self.name!r}, row {first_row + error.row} {error}; "
                "every row of a column must have the same shape"
            ) from error
        except TypeError as error:
            raise UserError(f"column {self.name!r} {error}") from error
        if self.dtype and shape != self.shape:
            raise UserError(
                f"ragged matrices: column {self.name!r}, row {first_row} has shape "
                f"{list(shape)} where earlier rows have {list(self.shape)}; "
                "every row of a column must have the same shape"
            )
        self.shape, self.dtype = shape, str(values.dtype)
        self._hasher.update(values.data)
        # Two reductions that keep NaN and infinities are far cheaper than an isfinite of all.
        if values.size and not np.isfinite(_as_float32_range(values)):
            rows = values.reshape(len(array), -1)
            with np.errstate(over="ignore"):
                finite = np.isfinite(rows.astype(np.float32, copy=False)).all(axis=1)
            self.bad_rows += [first_row + int(i) for i in np.flatnonzero(~finite)]

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()


def _as_float32_range(values: np.ndarray) -> np.float32:
    """Non-finite if any value, read as float32, is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.float32(values.max()) - np.float32(values.min()) * np.float32(0.0)


def _labels(array: pa.Array, column: str) -> list[Any]:
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if not (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)
    ):
        raise UserError(f"label column {column!r} holds {kind}; need strings or integers")
    if array.null_count:
        raise UserError(f"label column {column!r} has missing values")
    return array.to_pylist()


def class_names(schema: pa.Schema, label_column: str) -> list[str] | None:
    """Names of a `datasets.ClassLabel` column; its values are indices into them."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        return info["info"]["features"][label_column].get("names")
    except (KeyError, ValueError, AttributeError):
        return None
