"""The Ray Data stage: every wanted representation of every adapter, in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from lorasweep.features.common.progress import Progress
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.datasets.sources import Source
from lorasweep.features.representations import Representation

from .cache import ORIGIN, CacheEntry
from .nodes import Nodes
from .pool import run_on_workers

_DATASET_NAME = "lorasweep-features"
"""What Ray's dashboard and its metrics call the stage."""

_MIN_SHARDS = 16
_SHARD_ROWS = (32, 1024)
"""Fewest and most samples of a shard: enough shards to share out, few enough to open fast."""

_SHARD_NUMBERS = 1 << 28
"""Weights of a shard at most, beyond the fewest samples. The widest representations have as many
values, and a worker holds those of a shard: a gigabyte each."""


class Task(Protocol):
    """What a worker does with a span of rows."""

    def warm_up(self) -> None:
        """Load whatever the first span would wait for."""

    def __call__(self, span: dict[str, Any]) -> dict[str, Any]:
        """{"shard", "start", "stop"} -> what was done, for the driver."""


@dataclass(frozen=True)
class StagePlan:
    """What the stage has to do, worked out without Ray.

    Attributes:
        computed: representations that will be computed.
        cached: representations that are in the cache already.
        damaged: representation name -> what is wrong with its cache; they are computed again.
    """

    computed: list[Representation]
    cached: list[Representation]
    damaged: dict[str, str]


@dataclass
class StageReport:
    """What the stage did.

    Attributes:
        seconds: of the stage; Ray's start-up not counted.
        waited: those of the seconds until the first worker was ready: its process started,
            its libraries imported, its compiled loops loaded.
        failed: representation name -> traceback of the first failure.
    """

    seconds: float = 0.0
    waited: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)


def plan_stage(scan: DatasetScan, wanted: list[Representation], root: Path) -> StagePlan:
    """Check the cache of each wanted stored representation, byte for byte."""
    computed, cached, damaged = [], [], {}
    for item in wanted:
        scan.columns(item.unit)  # refused now if there is nothing of the kind
        entry = CacheEntry(root, scan.weights, item)
        damage = entry.damage(scan.num_samples) if entry.exists else ""
        if damage is None:
            cached.append(item)
            continue
        computed.append(item)
        if damage:
            damaged[item.name] = damage
    return StagePlan(computed, cached, damaged)


def shard_bounds(num_rows: int, numbers_per_row: int) -> list[int]:
    """Row bounds of the shards. They depend on the dataset alone, so that an interrupted stage can
    be continued on another machine."""
    most = min(_SHARD_ROWS[1], _SHARD_NUMBERS // numbers_per_row)
    rows = max(min(-(-num_rows // _MIN_SHARDS), most), _SHARD_ROWS[0])
    return [*range(0, num_rows, rows), num_rows]


def run_stage(
    source: Source,
    scan: DatasetScan,
    plan: StagePlan,
    root: Path,
    *,
    nodes: Nodes | None = None,
    on_progress: Progress | None = None,
) -> StageReport:
    """Compute and cache what the plan says, with Ray Data. Ray must be running.

    Memory stays bounded: a worker holds a batch of matrices and the values of its shard.
    A representation that fails is reported and leaves the others alone.

    Arguments:
        nodes: those that take part, where not all do.
        on_progress: called with (adapters done, adapters in all).
    """
    began = time.perf_counter()
    report = StageReport()
    if not plan.computed:
        return report
    entries = {item.name: CacheEntry(root, scan.weights, item) for item in plan.computed}
    for entry in entries.values():
        entry.discard_damaged(scan.num_samples)

    from .shard import ShardTask

    spans = list(pairwise(shard_bounds(scan.num_rows, scan.numbers_per_sample)))
    for entry in entries.values():
        entry.begin(len(spans))
    wanted = [item.reference for item in plan.computed]
    task = ShardTask(
        source,
        scan.tensors,
        scan.layers,
        scan.padded,
        scan.bad_rows,
        root,
        scan.weights,
        wanted,
        len(spans),
    )
    shards = [0] * len(spans)
    done = 0
    origin: dict[str, Any] = {}
    with flushing_shards() as flush:
        seen = [*(entry.partial for entry in entries.values()), *source.files]
        for result in run_spans(task, spans, nodes, seen):
            if not done:
                report.waited = max(0.0, time.perf_counter() - began - result["seconds"])
            index = result["shard"]
            shards[index] = result["rows"]
            origin = {name: result[name] for name in ORIGIN}
            for name, reason in zip(result["failed"], result["reasons"]):
                report.failed.setdefault(name, reason)
            for name, entry in entries.items():
                if name not in report.failed:
                    flush(entry, index, len(spans))
            done += result["rows"]
            if on_progress:
                on_progress(done, scan.num_samples)
    for name, entry in entries.items():
        if name not in report.failed:
            entry.finish(scan.columns(entry.item.unit), shards, origin)
    report.seconds = time.perf_counter() - began
    return report


@contextmanager
def flushing_shards() -> Iterator[Callable[[CacheEntry, int, int], None]]:
    """Yields what flushes a shard to disk, given its entry, number and their count, in the
    background; after the block all of them are.

    Workers wait for no disk, and an interrupted stage keeps its finished shards, whatever
    interrupted it.
    """
    with ThreadPoolExecutor(1) as background:
        flushed: list[Future[None]] = []
        yield lambda *shard: flushed.append(background.submit(CacheEntry.flush_shard, *shard))
        for future in flushed:
            future.result()


def run_spans(
    task: Task, spans: list[tuple[int, int]], nodes: Nodes | None, seen: Sequence[Path]
) -> Iterator[dict]:
    """Run the task on every span with Ray Data; yields results as they arrive.

    Arguments:
        nodes, seen: see `run_on_workers`.

    Raises:
        OSError: the disk is full, or fails, under a worker.
    """
    rows = [{"shard": i, "start": a, "stop": b} for i, (a, b) in enumerate(spans)]
    return run_on_workers(ShardWorker, [task], rows, _DATASET_NAME, nodes, seen=seen, on_gpus=True)


class ShardWorker:
    """The task as a class, for the pool."""

    def __init__(self, task: Task) -> None:
        self.task = task
        task.warm_up()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        return {**self.task(row), "seconds": time.perf_counter() - began}
