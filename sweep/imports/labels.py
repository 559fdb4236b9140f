"""Labels and other columns of adapters: from folders, metadata.json, headers, or a table."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import abbreviate

Value = str | int | float | bool
Row = Mapping[str, Value]

LABEL = "category_label"
_KEYS = ("path", "file", "file_name", "filename", "name", "adapter", "adapter_id", "id")
"""Columns of a table that may say which adapter a row is of, the surest first."""
_LABELS = (LABEL, "label", "class")
_LONGEST = 200
"""Characters of a text that is still a column's; headers hold whole lists of tags, too."""
_MISSING = ("", "na", "n/a", "nan", "null")
"""Texts, in any case, of cells without a value."""


class AdapterMetadata(NamedTuple):
    """What is known of an adapter besides its weights.

    Attributes:
        columns: values of its header, its metadata.json and its row.
        label: None: it has none.
        row: the key of its row; None: there is none.
    """

    columns: Row
    label: Value | None
    row: str | None


@dataclass(frozen=True)
class LabelSource:
    """Where labels are from.

    Attributes:
        kind: "folder", "metadata", "header" or "table".
        key: key in metadata.json or the header; the label's column of the table.
        rows: of a table: value of the key column -> its other columns.
        table: where the rows are from.
    """

    kind: str
    key: str = ""
    rows: Mapping[str, Row] = field(default_factory=dict)
    table: str = ""

    def lookup(
        self, names: Sequence[str], weights: Path, folder: str, header: Mapping[str, str]
    ) -> AdapterMetadata:
        """What is known of an adapter; only the source that was asked for gives its label.

        Arguments:
            names: what a table may call it, the surest first.
            weights: its file.
            folder: name of the folder above it.
            header: the strings of its safetensors header.

        Raises:
            ValueError: its metadata.json is damaged.
        """
        row = next((name for name in names if name in self.rows), None)
        metadata: dict[str, Row] = {
            "header": _values(header),
            "metadata": metadata_of(weights),
            "table": {} if row is None else self.rows[row],
        }
        label = folder if self.kind == "folder" else metadata[self.kind].get(self.key)
        return AdapterMetadata(
            {**metadata["header"], **metadata["metadata"], **metadata["table"]}, label, row
        )

    def unused(self, adapters: Iterable[tuple[str, str | None]]) -> list[str]:
        """The keys of a table's rows that fit no adapter.

        Arguments:
            adapters: (name, key of its row).

        Raises:
            UserError: a row fits several, which its label cannot be meant for.
        """
        of_row = [(row, name) for name, row in adapters if row is not None]
        counts = Counter(row for row, _ in of_row)
        for row, count in counts.items():
            if count > 1:
                fitting = abbreviate([name for own, name in of_row if own == row])
                raise UserError(
                    f"{self.table}: the row {row!r} fits {count} adapters ({fitting}): name them by"
                    " their paths"
                )
        return [row for row in self.rows if row not in counts]


def label_source(text: str) -> LabelSource:
    """What `--labels` says.

    Raises:
        UserError: nothing that is known, or a table that cannot be read.
    """
    kind, _, key = text.partition(":")
    if text == "folder":
        return LabelSource("folder")
    if kind in ("metadata", "header") and key:
        return LabelSource(kind, key)
    path = Path(text)
    if path.suffix not in (".csv", ".jsonl", ".parquet"):
        raise UserError(
            f"--labels {text!r}: need folder, metadata:KEY, header:KEY, or a .csv, .jsonl or "
            ".parquet file"
        )
    return _read_table(path)


def metadata_places(weights: Path) -> tuple[Path, Path]:
    """Where a JSON file about an adapter may lie: the first that is there counts."""
    return weights.with_suffix(".json"), weights.with_name("metadata.json")


def metadata_of(weights: Path) -> dict[str, Value]:
    """Plain values of the JSON file beside an adapter.

    Raises:
        ValueError: it is damaged.
    """
    for path in metadata_places(weights):
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its {path.name} is damaged") from error
        if isinstance(content, dict):
            return _values(content)
    return {}


def _values(row: Mapping[str, Any]) -> dict[str, Value]:
    """What a column can have: finite numbers, and texts that are not too long and say something."""
    return {key: value for key, value in row.items() if _is_value(value)}


def _is_value(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST and value.strip().casefold() not in _MISSING
    # Nor infinity or NaN; `math.isfinite` would fail for whole numbers of 400 digits.
    return isinstance(value, int | float) and abs(value) < 2**63


def _read_table(path: Path) -> LabelSource:
    import pyarrow as pa

    try:
        if path.suffix == ".csv":
            from pyarrow import csv

            # A key is a text: as a number, 00001 would be 1, which is no file's name.
            key = _key_column(csv.open_csv(path).schema.names)
            options = csv.ConvertOptions(column_types={key: pa.string()})
            table = csv.read_csv(path, convert_options=options)
        elif path.suffix == ".jsonl":
            from pyarrow import json as arrow_json

            table = arrow_json.read_json(path)
        else:
            from pyarrow import parquet

            table = parquet.read_table(path)
    except FileNotFoundError as error:
        raise UserError(f"--labels {path}: there is no such file") from error
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    names = table.column_names
    key = _key_column(names)
    others = [name for name in names if name != key]
    if not others:
        raise UserError(f"{path} needs a column of paths or file names, and one of labels")
    label = next((name for name in _LABELS if name in others), others[0])
    rows: dict[str, Row] = {}
    for row in table.to_pylist():
        name = str(row.pop(key))
        name = name and os.path.normpath(name)
        if name in rows:
            raise UserError(f"{path} has two rows for {name!r} in its column {key!r}")
        rows[name] = _values(row)
    return LabelSource("table", label, rows, str(path))


def _key_column(names: Sequence[str]) -> str:
    return next((name for name in _KEYS if name in names), names[0] if names else "")


# Columns of a dataset


def as_column(name: str, values: Sequence[Value | None]) -> list[Any]:
    """Values of one kind: whole numbers, numbers or texts, whatever all of them are.

    Texts that are all whole numbers, as headers have them, become numbers. A missing text or number
    stays missing.

    Raises:
        UserError: texts and numbers are mixed; names the column.
    """
    present = [value for value in values if value is not None]
    texts = [value for value in present if isinstance(value, str)]
    if not texts:
        kind = float if any(isinstance(value, float) for value in present) else int
        return [None if value is None else kind(value) for value in values]
    if len(texts) < len(present):
        other = next(value for value in present if not isinstance(value, str))
        raise UserError(
            f"{name} is text for some adapters ({abbreviate(texts[:1])}) and {other} for one"
        )
    if all(_is_whole(text) for text in texts):
        return [None if value is None else int(value) for value in values]
    return list(values)


def _is_whole(text: str) -> bool:
    try:
        return str(int(text)) == text and abs(int(text)) < 2**63
    except ValueError:
        return False
