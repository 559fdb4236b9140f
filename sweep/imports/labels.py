"""Labels and other columns of adapters: from folders, metadata.json, headers, or a table."""

from __future__ import annotations

import json
import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import normalize

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import abbreviate

if TYPE_CHECKING:
    import pyarrow as pa

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
_NUMBER = re.compile(r"\s*[-+]?(0|[1-9]\d*)(\.\d*)?([eE][-+]?\d+)?\s*")


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
        spelled = (normalize("NFC", name) for name in names)
        row = next((name for name in spelled if name in self.rows), None)
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
    if path.suffix not in (".csv", ".tsv", ".jsonl", ".parquet"):
        raise UserError(
            f"--labels {text!r}: need folder, metadata:KEY, header:KEY, or a .csv, .tsv, .jsonl or "
            ".parquet file"
        )
    return _read_table(path)


def metadata_places(weights: Path) -> tuple[Path, Path]:
    """Where a JSON file about an adapter may lie: the first that is there counts."""
    if weights.is_dir():
        return weights / "metadata.json", weights.with_name(f"{weights.name}.json")
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
        if path.suffix in (".csv", ".tsv"):
            table = _read_csv(path)
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
    label = _label_column(names, key)
    if label is None:
        raise UserError(f"{path} needs a column of paths or file names, and one of labels")
    rows: dict[str, Row] = {}
    for row in table.to_pylist():
        # Windows writes backslashes, macOS letters and accents apart.
        name = normalize("NFC", str(row.pop(key)).replace("\\", "/"))
        name = name and os.path.normpath(name)
        if name in rows:
            raise UserError(f"{path} has two rows for {name!r} in its column {key!r}")
        rows[name] = _values({column: _plain(value) for column, value in row.items()})
    return LabelSource("table", label, rows, str(path))


def _plain(value: Any) -> Any:
    """A date or a time as text; all else as it is."""
    return value.isoformat() if hasattr(value, "isoformat") else value


def _read_csv(path: Path) -> pa.Table:
    """Read a table as Excel and others write it: UTF-8, or UTF-16 with its mark; separated by
    commas, semicolons or tabs. All is text but columns of plain numbers: `01` is not `1`.

    Raises:
        UserError: it is of another encoding; shows a line.
    """
    import io

    import pyarrow as pa
    from pyarrow import csv

    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        shown = content.splitlines()[line - 1].decode("cp1252", "replace")
        raise UserError(
            f"{path} is no UTF-8 text (line {line}, perhaps {shown!r}): save it as UTF-8"
        ) from error
    first = text.splitlines()[0] if text else ""
    separator = max(",;\t", key=first.count)
    parsing = csv.ParseOptions(delimiter=separator)
    source = text.encode()
    names = csv.open_csv(io.BytesIO(source), parse_options=parsing).schema.names
    options = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    table = csv.read_csv(io.BytesIO(source), parse_options=parsing, convert_options=options)
    kept = (_key_column(names), _label_column(names, _key_column(names)))
    for i, name in enumerate(table.column_names):
        numbers = None if name in kept else _decimals(table.column(i).to_pylist())
        if numbers:
            table = table.set_column(i, name, pa.array(numbers, pa.float64()))
    return table


def _decimals(texts: Sequence[str]) -> list[float | None] | None:
    """Numbers of a column of texts; None: some are none, or all are whole."""
    present = [text.strip().casefold() not in _MISSING for text in texts]
    numbers = [text for text, is_there in zip(texts, present) if is_there]
    if all(map(_is_whole, numbers)) or not all(map(_NUMBER.fullmatch, numbers)):
        return None
    return [float(text) if is_there else None for text, is_there in zip(texts, present)]


def _label_column(names: Sequence[str], key: str) -> str | None:
    others = [name for name in names if name != key]
    return next((name for name in _LABELS if name in others), others[0] if others else None)


def _key_column(names: Sequence[str]) -> str:
    return next((name for name in _KEYS if name in names), names[0] if names else "")


# Columns of a dataset


def label_column(values: Sequence[Value | None]) -> list[Any]:
    """Labels as a column: as `as_column`, but booleans are the classes true and false."""
    return as_column("the label", [str(v).lower() if isinstance(v, bool) else v for v in values])


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
