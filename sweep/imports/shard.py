"""Reading the adapters of one shard and writing it: what a worker of Ray Data does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from lorasweep.features.adapters.adapter import open_adapter
from lorasweep.features.adapters.errors import BadAdapterError, UnreadableAdapterError
from lorasweep.features.adapters.stack import Stack
from lorasweep.features.common.files import DamagedFileError, read_signed_json, sign, write_json
from lorasweep.features.datasets.columns import matrix_type
from lorasweep.features.datasets.hf_folder import shard_name, write_shard
from lorasweep.features.layers.pairing import rank_column, scale_column, tensor_names

from .plan import ImportPlan
from .survey import SurveyedAdapter

_CHANGED = "has changed"


@dataclass(frozen=True)
class ShardFiles:
    """A shard's files while an import is under way.

    Attributes:
        data: the Arrow stream.
        done: what came of it; there once the stream is whole.
    """

    data: Path
    done: Path

    def result(self) -> dict[str, Any] | None:
        """What came of it: rows, bad adapters, the share lost; None: it is not there."""
        try:
            result = read_signed_json(self.done)
            return result if self.data.stat().st_size == result["bytes"] else None
        except (OSError, DamagedFileError):
            return None


def shard_files(work: Path, plan: ImportPlan, index: int) -> ShardFiles:
    """Where a shard is in the folder of an import."""
    data = work / "dataset" / shard_name(index, plan.shards)
    return ShardFiles(data, work / f"shard-{index:05d}.json")


class ShardWriter:
    """Writes shards; a class for the pool."""

    def __init__(self, plan: ImportPlan, work: Path) -> None:
        self.plan, self.work = plan, work
        self.schema = dataset_schema(plan)
        self.wanted = frozenset(plan.layers)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write shard number `row["index"]`, and then what came of it.

        Returns:
            index, how many adapters it is of, and the one, if any, whose files are not any more
            what was looked at: then nothing is written.

        Raises:
            OSError: a file cannot be read. That passes, so it is not noted of the adapter.
        """
        index = int(row["index"])
        start, stop = self.plan.bounds[index : index + 2]
        stack = Stack(self.plan.layers, stop - start)
        kept: list[int] = []
        bad: dict[str, str] = {}
        for i in range(start, stop):
            item = self.plan.adapters[i]
            reason = self._read(item, stack, len(kept))
            if reason == _CHANGED:
                return {"index": index, "adapters": stop - start, "changed": item.name}
            if reason:
                bad[item.name] = reason
            else:
                kept.append(i)
        arrays = stack.columns(len(kept))
        arrays["rank"] = pa.array(stack.rank[: len(kept)])
        arrays["lost"] = pa.array(stack.lost[: len(kept)])
        for name, values in self.plan.columns.items():
            arrays[name] = pa.array([values[i] for i in kept], self.schema.field(name).type)
        batch = pa.RecordBatch.from_arrays(
            [arrays[name] for name in self.schema.names], schema=self.schema
        )
        files = shard_files(self.work, self.plan, index)
        write_shard(files.data, [batch] if kept else [], self.schema)
        result = {
            "rows": len(kept),
            "bytes": files.data.stat().st_size,
            "bad": bad,
            "lost": float(stack.lost[: len(kept)].max(initial=0.0)),
        }
        write_json(files.done, sign(result))
        return {"index": index, "adapters": stop - start, "changed": ""}

    def _read(self, item: SurveyedAdapter, stack: Stack, row: int) -> str:
        """Put an adapter into a row; why that cannot be, or nothing."""
        reason = ""
        passing: BaseException | None = None
        try:
            stack.read(row, open_adapter(Path(item.weights), self.plan.lokr_rank), self.wanted)
        except UnreadableAdapterError as error:
            passing = error.__cause__ or error
        except BadAdapterError as error:
            reason = error.reason
        # Looked at last, so that it holds for all that was read.
        if item.has_changed():
            return _CHANGED
        if passing:
            raise passing
        return reason


def dataset_schema(plan: ImportPlan) -> pa.Schema:
    """The schema of a dataset: layers' tensors, scales and ranks, then everything else."""
    fields: dict[str, pa.DataType] = {}
    padded = set(plan.padded)
    for name, (outputs, inputs, rank) in plan.layers.items():
        down, up = tensor_names(name)
        fields[down], fields[up] = matrix_type(rank, inputs), matrix_type(outputs, rank)
        fields[scale_column(name)] = pa.float32()
        if name in padded:
            fields[rank_column(name)] = pa.int64()
    for name, values in plan.columns.items():
        fields[name] = pa.array(values).type
    return pa.schema({**fields, "rank": pa.int64(), "lost": pa.float64()})
