"""The Ray Data stage: every wanted representation of every adapter, in one pass."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cache import CacheEntry
from .columns import to_matrices
from .representations import Representation, evaluate
from .scan import DatasetScan
from .sources import Source

if TYPE_CHECKING:
    import torch

_MIN_SHARDS = 16
_SHARD_ROWS = (32, 1024)
"""Fewest and most samples of a shard: enough shards to share out, few enough to open fast."""

Progress = Callable[[int, int], None]


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
        failed: representation name -> traceback of the first failure.
    """

    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)


def plan_stage(scan: DatasetScan, wanted: list[Representation], root: Path) -> StagePlan:
    """Check the cache of each wanted stored representation, byte for byte."""
    computed, cached, damaged = [], [], {}
    for item in wanted:
        entry = CacheEntry(root, scan.weights, item)
        damage = entry.damage(scan.num_samples) if entry.exists else ""
        if damage is None:
            cached.append(item)
            continue
        computed.append(item)
        if damage:
            damaged[item.name] = damage
    return StagePlan(computed, cached, damaged)


def shard_bounds(num_rows: int) -> list[int]:
    """Row bounds of the shards. They depend on the number of rows alone, so that an interrupted
    stage can be continued on another machine."""
    rows = min(max(-(-num_rows // _MIN_SHARDS), _SHARD_ROWS[0]), _SHARD_ROWS[1])
    return [*range(0, num_rows, rows), num_rows]


def run_stage(
    source: Source,
    scan: DatasetScan,
    plan: StagePlan,
    root: Path,
    *,
    on_progress: Progress | None = None,
) -> StageReport:
    """Compute and cache what the plan says, with Ray Data. Ray must be running.

    Memory stays bounded: a task holds one column of one shard and the shard's values.
    A representation that fails is reported and leaves the others alone.

    Arguments:
        on_progress: called with (adapters done, adapters in all).
    """
    began = time.perf_counter()
    report = StageReport()
    if not plan.computed:
        return report
    entries = {item.name: CacheEntry(root, scan.weights, item) for item in plan.computed}
    for entry in entries.values():
        if entry.exists:
            entry.discard()
        entry.partial.mkdir(parents=True, exist_ok=True)

    bounds = shard_bounds(scan.num_rows)
    spans = list(pairwise(bounds))
    task = ShardTask(source, scan.layers, scan.bad_rows, list(entries.values()), len(spans))
    shards = [0] * len(spans)
    done = 0
    origin: dict[str, Any] = {}
    for result in _run_tasks(task, spans, f"features of {source.label}"):
        shards[result["shard"]] = result["rows"]
        origin = {"device": result["device"], "dtype": "float32", "torch": result["torch"]}
        for name, reason in zip(result["failed"], result["reasons"]):
            report.failed.setdefault(name, reason)
        done += result["rows"]
        if on_progress:
            on_progress(done, scan.num_samples)
    for name, entry in entries.items():
        if name not in report.failed:
            entry.finish(list(scan.layers), shards, origin)
    report.seconds = time.perf_counter() - began
    return report


def _run_tasks(task: ShardTask, spans: list[tuple[int, int]], name: str) -> Iterator[dict]:
    """Run the task on every span with Ray Data; yields results as they arrive."""
    import ray
    import ray.data

    items = [{"shard": i, "start": a, "stop": b} for i, (a, b) in enumerate(spans)]
    inputs = ray.data.from_items(items, override_num_blocks=len(items))
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus:
        # An actor keeps its CUDA context; two per GPU overlap reading with computing.
        per_gpu = 2 if ray.cluster_resources()["CPU"] >= 2 * gpus else 1
        workers = min(per_gpu * gpus, len(items))
        dataset = inputs.map(
            ShardWorker,  # type: ignore[arg-type]  # Ray's stubs know functions only
            fn_constructor_args=[task],
            num_gpus=1 / per_gpu,
            compute=ray.data.ActorPoolStrategy(size=workers),
        )
    else:
        dataset = inputs.map(task)
    dataset.set_name(name)
    yield from dataset.iter_rows()


class ShardWorker:
    """The task as a class, for Ray Data's actors."""

    def __init__(self, task: ShardTask) -> None:
        self.task = task

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.task(row)


@dataclass
class ShardTask:
    """Computes and writes one shard of every representation; runs in a Ray worker.

    Attributes:
        source: the dataset's files.
        layers: layer tensor -> (m, n).
        bad_rows: rows to leave out.
        entries: cache entries to fill.
        count: shards in all.
    """

    source: Source
    layers: dict[str, tuple[int, int]]
    bad_rows: list[int]
    entries: list[CacheEntry]
    count: int

    def __call__(self, span: dict[str, Any]) -> dict[str, Any]:
        """{"shard", "start", "stop"} -> what was done, for the driver."""
        import torch

        torch.set_num_threads(1)
        index, start, stop = int(span["shard"]), int(span["start"]), int(span["stop"])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        bad = [row - start for row in self.bad_rows if start <= row < stop]
        keep = np.delete(np.arange(stop - start), bad) if bad else None
        rows = stop - start - len(bad)
        todo = [e for e in self.entries if not e.has_shard(index, self.count, rows)]
        failed: dict[str, str] = {}
        values: dict[str, dict[str, np.ndarray]] = {entry.item.name: {} for entry in todo}
        for layer, shape in self.layers.items():
            matrices = self._read(layer, shape, start, stop, keep, device)
            wanted = [entry.item for entry in todo if entry.item.name not in failed]
            for name, value in _evaluate_each(matrices, wanted, failed).items():
                values[name][layer] = value
        for entry in todo:
            if entry.item.name not in failed:
                entry.write_shard(index, self.count, values.pop(entry.item.name))
        return {
            "shard": index,
            "rows": rows,
            "device": str(device),
            "torch": torch.__version__,
            "failed": list(failed),
            "reasons": list(failed.values()),
        }

    def _read(
        self,
        layer: str,
        shape: tuple[int, int],
        start: int,
        stop: int,
        keep: np.ndarray | None,
        device: torch.device,
    ) -> torch.Tensor:
        """(rows, m, n) float32 of one layer tensor, on the device."""
        import torch

        reader = self._reader
        pieces = [to_matrices(b.column(0), shape) for b in reader.read(start, stop, [layer])]
        matrices = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        if keep is not None:
            matrices = matrices[keep]
        with warnings.catch_warnings():
            # The memory map is read-only, and so is everything done with it.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(matrices).to(device)

    @property
    def _reader(self) -> Any:
        key = self.source.files
        if _OPEN.get("files") != key:
            _OPEN.update(files=key, reader=self.source.open())
        return _OPEN["reader"]


_OPEN: dict[str, Any] = {}
"""The reader a worker process has open: opening parses the headers of every record batch."""


def _evaluate_each(
    matrices: torch.Tensor, wanted: list[Representation], failed: dict[str, str]
) -> dict[str, np.ndarray]:
    """Evaluate together; if that fails, one by one, to find the one to blame."""
    try:
        together = evaluate(matrices, wanted)
    except Exception:
        # Whatever a representation raises is its own failure, recorded with its traceback.
        together = {}
        for item in wanted:
            try:
                together.update(evaluate(matrices, [item]))
            except Exception:
                failed[item.name] = traceback.format_exc()
    return {name: value.cpu().numpy() for name, value in together.items()}
