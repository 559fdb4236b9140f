"""Reading row ranges of Arrow and Parquet files, memory-mapped where the format allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from lorasweep.features.common.errors import UserError

_PARQUET_ROWS = 256
"""Rows of a Parquet row group decoded at a time."""


class TableReader:
    """One table in one or several files of one format.

    Arguments:
        files: Arrow IPC streams (what `datasets` writes), Arrow IPC files or Parquet files,
            in row order.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the first file."""
        return self._parts[0].schema

    @cached_property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(part.num_rows for part in self._parts)

    @cached_property
    def _parts(self) -> list[_ArrowPart | _ParquetPart]:
        return [_open_part(path) for path in self.files]

    def read(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Record batches that together hold the given columns of rows start … stop−1, in order."""
        first = 0
        for part in self._parts:
            low, high = max(start - first, 0), min(stop - first, part.num_rows)
            if low < high:
                yield from part.read(low, high, columns)
            first += part.num_rows


def _open_part(path: Path) -> _ArrowPart | _ParquetPart:
    try:
        return _ParquetPart(path) if path.suffix == ".parquet" else _ArrowPart(path)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot read {path}: {reason}") from error


class _ArrowPart:
    """Record batches over a memory map: nothing is read until a buffer is touched."""

    def __init__(self, path: Path) -> None:
        source = pa.memory_map(str(path))
        if source.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(source)
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        else:
            source.seek(0)
            reader = pa.ipc.open_stream(source)
            self._batches = list(reader)
        self.schema = reader.schema
        self.num_rows = sum(batch.num_rows for batch in self._batches)

    def read(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        first = 0
        for batch in self._batches:
            low, high = max(start - first, 0), min(stop - first, batch.num_rows)
            if low < high:
                yield batch.select(list(columns)).slice(low, high - low)
            first += batch.num_rows


class _ParquetPart:
    """Row groups, decoded a few rows at a time."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path, memory_map=True)
        metadata = self._file.metadata
        self._group_rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self.schema = self._file.schema_arrow
        self.num_rows = metadata.num_rows

    def read(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        first = 0
        for group, rows in enumerate(self._group_rows):
            if first + rows > start and first < stop:
                at = first
                for batch in self._file.iter_batches(
                    batch_size=_PARQUET_ROWS, row_groups=[group], columns=list(columns)
                ):
                    low, high = max(start - at, 0), min(stop - at, batch.num_rows)
                    if low < high:
                        yield batch.slice(low, high - low)
                    at += batch.num_rows
                    if at >= stop:
                        break
            first += rows
