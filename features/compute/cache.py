"""The feature cache: one ordinary HF dataset per (dataset content, representation, version).

    <cache-dir>/<weights digest>/<representation>-v<version>/
        data-00000-of-00016.arrow …   a column per layer tensor or layer: fixed-length float32 lists
        dataset_info.json, state.json what `datasets.load_from_disk` reads
        manifest.json                 what it was computed from, and a checksum of every file

While being computed it is a folder `….partial`, whose finished shards have a checksum beside
them; the last act is to write the manifest and rename the folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lorasweep.features.common.files import (
    DamagedFileError,
    file_checksum,
    fsync_path,
    make_folders,
    path_name,
    read_signed_json,
    remove_unfinished,
    sign,
    write_json,
)
from lorasweep.features.common.hardware import same_origin
from lorasweep.features.common.lock import LockFile, locked
from lorasweep.features.datasets.hf_folder import finish_folder, shard_name, write_shard
from lorasweep.features.datasets.reader import TableReader
from lorasweep.features.representations.base import Representation, Shape, shape_name

_SCHEMA = 1

ORIGIN = ("device", "instructions", "dtype", "torch")
"""What a manifest says of where its numbers were computed; the last bits depend on it."""


@dataclass(frozen=True)
class CacheEntry:
    """Where one stored representation of one dataset's content lives.

    Attributes:
        root: the cache directory.
        weights: the dataset's weights digest.
        item: a stored representation.
    """

    root: Path
    weights: str
    item: Representation

    @property
    def folder(self) -> Path:
        """The finished dataset folder."""
        return (
            self.root
            / self.weights
            / f"{path_name(self.item.name)}-v{path_name(self.item.version)}"
        )

    @property
    def partial(self) -> Path:
        """The folder while shards are being computed."""
        return self.folder.with_name(self.folder.name + ".partial")

    @property
    def exists(self) -> bool:
        """Whether there is a finished folder, whatever its state."""
        return self.folder.exists()

    def damage(self, num_rows: int) -> str | None:
        """Check every byte of the finished folder; what is wrong with it, or None.

        Arguments:
            num_rows: the samples it must hold.
        """
        try:
            manifest = read_signed_json(self.folder / "manifest.json")
            if manifest["weights"] != self.weights or manifest["rows"] != num_rows:
                return "it belongs to another dataset"
            for name, checksum in manifest["files"].items():
                if file_checksum(self.folder / name) != checksum:
                    return f"{name} does not match its checksum"
        except (OSError, DamagedFileError, KeyError) as error:
            return str(error)
        return None

    def discard(self) -> None:
        """Delete the finished folder. The rename first keeps a half-deleted one from being seen."""
        doomed = self.folder.with_name(self.folder.name + ".discarded")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(self.folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def discard_damaged(self, num_rows: int) -> None:
        """Delete the finished folder if there is one and it is damaged; see `damage`."""
        if self.exists and self.damage(num_rows) is not None:
            self.discard()

    def origin(self) -> dict[str, Any]:
        """On what a finished folder was computed; empty if it does not say."""
        manifest = read_signed_json(self.folder / "manifest.json")
        return {name: manifest[name] for name in ORIGIN if name in manifest}

    # Computing

    def begin(self, count: int) -> None:
        """Make the partial folder; what it has of another number of shards is removed, and what
        killed workers did not finish."""
        make_folders([self.partial])
        remove_unfinished(self.partial)
        own = {Path(shard_name(index, count)).stem for index in range(count)}
        for path in self.partial.glob("data-*"):
            if path.stem not in own:
                path.unlink()

    def has_shard(self, index: int, count: int, rows: int, origin: dict[str, Any]) -> bool:
        """Whether a shard is finished and intact in the partial folder.

        One of another device or instruction set does not count: its numbers round differently, and
        a cache is of one kind.
        """
        path = self.partial / shard_name(index, count)
        try:
            note = read_signed_json(path.with_suffix(".json"))
            mine = note["rows"] == rows and same_origin(note.get("origin", {}), origin)
            return mine and note["file"] == file_checksum(path)
        except (OSError, DamagedFileError, KeyError):
            return False

    def write_shard(
        self, index: int, count: int, values: dict[str, np.ndarray], origin: dict[str, Any]
    ) -> None:
        """Write one shard and then its checksum.

        Nobody waits for the disk here: what a power cut takes, `has_shard` notices, and the
        driver calls `flush_shard` meanwhile.

        Arguments:
            values: column -> (rows, width) float32.
            origin: on what it was computed.
        """
        arrays = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
            for name, matrix in values.items()
        }
        batch = pa.RecordBatch.from_pydict(arrays)
        path = self.partial / shard_name(index, count)
        write_shard(path, [batch], batch.schema, durable=False)
        note = {"rows": batch.num_rows, "file": file_checksum(path), "origin": origin}
        write_json(path.with_suffix(".json"), sign(note), durable=False)

    def flush_shard(self, index: int, count: int) -> None:
        """Wait until a shard would survive a power cut."""
        path = self.partial / shard_name(index, count)
        for each in (path, path.with_suffix(".json"), self.partial):
            fsync_path(each)

    def finish(
        self,
        columns: dict[str, Shape],
        shards: list[int],
        origin: dict[str, Any],
        others: Sequence[str] = (),
    ) -> None:
        """Turn a complete partial folder, its shards flushed, into the finished one.

        Arguments:
            columns: column -> shape of what it is about, in order.
            shards: rows of every shard.
            origin: recorded in the manifest: device, dtype, versions.
            others: names of further files in the partial folder.
        """
        names = [shard_name(i, len(shards)) for i in range(len(shards))]
        values = {shape: self.item.values(shape) for shape in columns.values()}
        fields = [(c, pa.list_(pa.float32(), len(values[shape]))) for c, shape in columns.items()]
        finish_folder(self.partial, pa.schema(fields), names)
        checksums = {}
        for name in names:
            note = (self.partial / name).with_suffix(".json")
            checksums[name] = read_signed_json(note)["file"]
        for name in ("dataset_info.json", "state.json", *others):
            checksums[name] = file_checksum(self.partial / name)
        manifest = {
            "schema": _SCHEMA,
            "weights": self.weights,
            "representation": self.item.name,
            "version": self.item.version,
            "unit": self.item.unit.value,
            "values": {shape_name(shape): list(names) for shape, names in values.items()},
            "rows": sum(shards),
            "columns": list(columns),
            "files": checksums,
            **origin,
        }
        write_json(self.partial / "manifest.json", sign(manifest))
        for name in names:
            (self.partial / name).with_suffix(".json").unlink()
        self.discard_damaged(sum(shards))
        if self.exists:  # another process, which heard nothing of this one, was faster
            shutil.rmtree(self.partial)
            return
        os.replace(self.partial, self.folder)
        fsync_path(self.folder.parent)


@contextmanager
def exclusive(root: Path, weights: str, on_wait: Callable[[], None]) -> Iterator[LockFile]:
    """Be the only process that computes features of this dataset content into this cache.

    Arguments:
        on_wait: called if another process has to be waited for.
    """
    folder = root / weights
    make_folders([folder])
    with locked(folder / ".computing", on_wait, f"the feature cache {folder}") as lock:
        yield lock


OpenedFolders = dict[Path, TableReader]
"""Cache folder -> its table, memory-mapped."""


@dataclass(frozen=True)
class FeatureMatrix:
    """A representation's values for some columns, read from the cache.

    Attributes:
        folders: the stored parts' cache folders, in the representation's order.
        columns: layer tensors, or layers, in sorted order of their names.
    """

    folders: tuple[Path, ...]
    columns: tuple[str, ...]

    def load(self, opened: OpenedFolders | None = None) -> np.ndarray:
        """(n_samples, n_features) float32: columns side by side, parts within each.

        One copy out of the page cache; only the columns asked for are touched.

        Arguments:
            opened: folders that were opened for other matrices; updated. Opening one takes longer
                than reading a few columns.
        """
        opened = {} if opened is None else opened
        for folder in self.folders:
            if folder not in opened:
                opened[folder] = TableReader(sorted(folder.glob("data-*.arrow")))
        readers = [opened[folder] for folder in self.folders]
        widths = [
            [reader.schema.field(column).type.list_size for reader in readers]
            for column in self.columns
        ]
        rows = readers[0].num_rows
        matrix = np.empty((rows, sum(map(sum, widths))), dtype=np.float32)
        left_edges = np.concatenate([[0], np.cumsum(np.ravel(widths))])
        for part, reader in enumerate(readers):
            top = 0
            for batch in reader.read(0, rows, self.columns):
                bottom = top + batch.num_rows
                for i in range(len(self.columns)):
                    at = i * len(readers) + part
                    left, right = left_edges[at], left_edges[at + 1]
                    column = batch.column(i)
                    values = column.flatten().to_numpy(zero_copy_only=True)
                    matrix[top:bottom, left:right] = values.reshape(batch.num_rows, right - left)
                top = bottom
        return matrix


def feature_matrix(
    root: Path, weights: str, wanted: Representation, columns: Sequence[str]
) -> FeatureMatrix:
    """Where a representation (stored or a view) of some columns is read from."""
    folders = tuple(CacheEntry(root, weights, part).folder for part in wanted.stored)
    return FeatureMatrix(folders, tuple(sorted(columns)))
