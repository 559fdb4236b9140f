"""The feature cache: one ordinary HF dataset per (dataset content, representation, version).

    <cache-dir>/<weights digest>/<representation>-v<version>/
        data-00000-of-00016.arrow …   one column per layer tensor: fixed-length float32 lists
        dataset_info.json, state.json what `datasets.load_from_disk` reads
        manifest.json                 what it was computed from, and a checksum of every file

While being computed it is a folder `….partial`, whose finished shards have a checksum beside
them; the last act is to write the manifest and rename the folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .core.files import (
    DamagedFileError,
    file_checksum,
    fsync_path,
    read_signed_json,
    sign,
    write_json,
)
from .hf_folder import finish_folder, shard_name, write_shard
from .reader import TableReader
from .representations import Representation

_SCHEMA = 1


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
        return self.root / self.weights / f"{self.item.name}-v{self.item.version}"

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
        shutil.rmtree(doomed)

    # Computing

    def has_shard(self, index: int, count: int, rows: int) -> bool:
        """Whether a shard is finished and intact in the partial folder."""
        path = self.partial / shard_name(index, count)
        try:
            note = read_signed_json(path.with_suffix(".json"))
            return note["rows"] == rows and note["file"] == file_checksum(path)
        except (OSError, DamagedFileError, KeyError):
            return False

    def write_shard(self, index: int, count: int, values: dict[str, np.ndarray]) -> None:
        """Write one shard and then its checksum.

        Nobody waits for the disk here: what a power cut takes, `has_shard` notices, and the
        driver calls `flush_shard` meanwhile.

        Arguments:
            values: layer tensor -> (rows, width) float32.
        """
        arrays = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])
            for name, matrix in values.items()
        }
        batch = pa.RecordBatch.from_pydict(arrays)
        path = self.partial / shard_name(index, count)
        write_shard(path, [batch], batch.schema, durable=False)
        note = {"rows": batch.num_rows, "file": file_checksum(path)}
        write_json(path.with_suffix(".json"), sign(note), durable=False)

    def flush_shard(self, index: int, count: int) -> None:
        """Wait until a shard would survive a power cut."""
        fsync_path(self.partial / shard_name(index, count))

    def finish(self, layers: Sequence[str], shards: list[int], origin: dict[str, Any]) -> None:
        """Turn a complete partial folder, its shards flushed, into the finished one.

        Arguments:
            layers: layer tensors in column order.
            shards: rows of every shard.
            origin: recorded in the manifest: device, dtype, versions.
        """
        names = [shard_name(i, len(shards)) for i in range(len(shards))]
        kind = pa.list_(pa.float32(), self.item.width)
        finish_folder(self.partial, pa.schema([(layer, kind) for layer in layers]), names)
        checksums = {}
        for name in names:
            note = (self.partial / name).with_suffix(".json")
            checksums[name] = read_signed_json(note)["file"]
        for name in ("dataset_info.json", "state.json"):
            checksums[name] = file_checksum(self.partial / name)
        manifest = {
            "schema": _SCHEMA,
            "weights": self.weights,
            "representation": self.item.name,
            "version": self.item.version,
            "width": self.item.width,
            "rows": sum(shards),
            "layers": list(layers),
            "files": checksums,
            **origin,
        }
        write_json(self.partial / "manifest.json", sign(manifest))
        for name in names:
            (self.partial / name).with_suffix(".json").unlink()
        os.replace(self.partial, self.folder)
        fsync_path(self.folder.parent)


@contextmanager
def exclusive(root: Path, weights: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Be the only process that computes features of this dataset content into this cache.

    Arguments:
        on_wait: called if another process has to be waited for.
    """
    folder = root / weights
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class FeatureMatrix:
    """A representation's values for some layer tensors, read from the cache.

    Attributes:
        folders: the stored parts' cache folders, in the representation's order.
        layers: layer tensors in sorted order of their names.
    """

    folders: tuple[Path, ...]
    layers: tuple[str, ...]

    @cached_property
    def _readers(self) -> list[TableReader]:
        return [TableReader(sorted(folder.glob("data-*.arrow"))) for folder in self.folders]

    def load(self) -> np.ndarray:
        """(n_samples, n_features) float32: layer tensors side by side, parts within each.

        One copy out of the page cache; only the columns asked for are touched.
        """
        widths = [
            [reader.schema.field(layer).type.list_size for reader in self._readers]
            for layer in self.layers
        ]
        rows = self._readers[0].num_rows
        matrix = np.empty((rows, sum(map(sum, widths))), dtype=np.float32)
        left_edges = np.concatenate([[0], np.cumsum(np.ravel(widths))])
        for part, reader in enumerate(self._readers):
            top = 0
            for batch in reader.read(0, rows, self.layers):
                bottom = top + batch.num_rows
                for i in range(len(self.layers)):
                    at = i * len(self._readers) + part
                    left, right = left_edges[at], left_edges[at + 1]
                    column = batch.column(i)
                    values = column.flatten().to_numpy(zero_copy_only=True)
                    matrix[top:bottom, left:right] = values.reshape(batch.num_rows, right - left)
                top = bottom
        return matrix


def feature_matrix(
    root: Path, weights: str, wanted: Representation, layers: Sequence[str]
) -> FeatureMatrix:
    """Where a representation (stored or a view) of some layer tensors is read from."""
    folders = tuple(CacheEntry(root, weights, part).folder for part in wanted.stored)
    return FeatureMatrix(folders, tuple(sorted(layers)))
