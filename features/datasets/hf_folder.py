"""Writing what `datasets.load_from_disk` opens, without importing `datasets`.

The format is a folder of Arrow IPC streams with `dataset_info.json` (the features) and
`state.json` (the files in order, a fingerprint). Importing `datasets` costs most of a second in
every process, and Ray's workers write these files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from lorasweep.features.common.files import digest, remove_unfinished, write_atomic, write_json


def shard_name(index: int, count: int) -> str:
    """The file name `datasets` itself gives shard `index` of `count`."""
    return f"data-{index:05d}-of-{count:05d}.arrow"


def feature_of(kind: pa.DataType) -> dict[str, Any]:
    """The `datasets` feature (as in dataset_info.json) of an Arrow type."""
    if pa.types.is_fixed_size_list(kind):
        return {
            "feature": feature_of(kind.value_type),
            "length": kind.list_size,
            "_type": "List",
        }
    if pa.types.is_list(kind):
        return {"feature": feature_of(kind.value_type), "_type": "List"}
    names = {"float": "float32", "double": "float64", "halffloat": "float16"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}


def with_features(schema: pa.Schema) -> pa.Schema:
    """The schema with the metadata `datasets` reads its features from."""
    features = {field.name: feature_of(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_shard(
    path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema, *, durable: bool = True
) -> None:
    """Write record batches as one Arrow IPC stream, atomically."""
    schema = with_features(schema)

    def write(file: Any) -> None:
        with pa.ipc.new_stream(file, schema) as stream:
            for batch in batches:
                stream.write_batch(batch)

    write_atomic(path, write, durable=durable)


def finish_folder(folder: Path, schema: pa.Schema, shards: list[str]) -> None:
    """Write the two JSON files that make a folder of shards a dataset; all shards are written."""
    remove_unfinished(folder)
    features = {field.name: feature_of(field.type) for field in schema}
    info = {"citation": "", "description": "", "features": features, "homepage": "", "license": ""}
    write_json(folder / "dataset_info.json", info)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in shards],
        "_fingerprint": digest([features, shards])[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state)


def write_dataset(folder: Path, table: pa.Table) -> None:
    """Write a table as a dataset folder of one shard."""
    name = shard_name(0, 1)
    write_shard(folder / name, table.combine_chunks().to_batches(), table.schema)
    finish_folder(folder, table.schema, [name])
