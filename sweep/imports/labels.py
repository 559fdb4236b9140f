"""Labels and other columns of adapters: from folders, metadata.json, headers, or a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.core.errors import UserError
from features.shapes import some

Value = str | int | float | bool
Row = Mapping[str, Value]

LABEL = "category_label"
_KEYS = ("path", "file", "file_name", "filename", "name", "adapter", "adapter_id", "id")
"""Columns of a table that may say which adapter a row is of, the surest first."""
_LABELS = (LABEL, "label", "class")
_LONGEST = 200
"""Characters of a text that is still a column's; headers hold whole lists of tags, too."""


@dataclass(frozen=True)
class LabelSource:
    """Where labels are from.

    Attributes:
        kind: "folder", "metadata", "header" or "table".
        key: key in metadata.json or the header; the label's column of the table.
        rows: of a table: value of the key column -> its other columns.
    """

    kind: str
    key: str = ""
    rows: Mapping[str, Row] = field(default_factory=dict)

    def columns(self, names: Sequence[str], weights: Path, header: Mapping[str, str]) -> Row:
        """Everything that is known of an adapter besides its weights, without its label.

        Arguments:
            names: what a table may call it, the surest first.
            weights: its file.
            header: the strings of its safetensors header.

        Raises:
            ValueError: its metadata.json is damaged.
        """
        row: Row = next((self.rows[name] for name in names if name in self.rows), {})
        of_header = {key: value for key, value in header.items() if len(value) <= _LONGEST}
        return {**of_header, **_metadata(weights), **row}

    def label(self, columns: Row, folder: str, header: Mapping[str, str]) -> Value | None:
        """The label of an adapter; None: it has none."""
        if self.kind == "folder":
            return folder
        return header.get(self.key) if self.kind == "header" else columns.get(self.key)


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


def _metadata(weights: Path) -> dict[str, Value]:
    """Plain values of the JSON file beside an adapter."""
    for path in metadata_places(weights):
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise ValueError(f"its {path.name} is damaged") from error
        if isinstance(content, dict):
            return {key: value for key, value in content.items() if _is_value(value)}
    return {}


def _is_value(value: Any) -> bool:
    """Whether a column can have it: a finite number, or a text that is not too long."""
    if isinstance(value, str):
        return len(value) <= _LONGEST
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**63


def _read_table(path: Path) -> LabelSource:
    import pyarrow as pa

    try:
        if path.suffix == ".csv":
            from pyarrow import csv

            table = csv.read_csv(path)
        elif path.suffix == ".jsonl":
            from pyarrow import json as arrow_json

            table = arrow_json.read_json(path)
        else:
            from pyarrow import parquet

            table = parquet.read_table(path)
    except FileNotFoundError as error:
        raise UserError(f"--labels {path}: there is no such file") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}") from error
    names = table.column_names
    key = next((name for name in _KEYS if name in names), names[0] if names else "")
    others = [name for name in names if name != key]
    if not others:
        raise UserError(f"{path} needs a column of paths or file names, and one of labels")
    label = next((name for name in _LABELS if name in others), others[0])
    rows: dict[str, Row] = {}
    for row in table.to_pylist():
        name = str(row.pop(key))
        if name in rows:
            raise UserError(f"{path} has two rows for {name!r} in its column {key!r}")
        rows[name] = {k: v for k, v in row.items() if _is_value(v)}
    return LabelSource("table", label, rows)


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
        raise UserError(f"{name} is text for some adapters ({some(texts[:1])}) and {other} for one")
    if all(_is_whole(text) for text in texts):
        return [None if value is None else int(value) for value in values]
    return list(values)


def _is_whole(text: str) -> bool:
    try:
        return str(int(text)) == text and abs(int(text)) < 2**63
    except ValueError:
        return False
