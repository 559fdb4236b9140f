"""Importing adapter files, against reading the same files with `safetensors` alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class ImportSpeed:
    """Milliseconds per adapter, of one process.

    Attributes:
        bare: `safetensors.numpy.load_file`, nothing kept.
        look: names, shapes and the label, without the weights.
        shard: weights read, checked and written as a shard, and flushed to disk.
    """

    bare: float
    look: float
    shard: float


def write_adapters(folder: Path, count: int) -> Path:
    """Rank-1 adapters of 64 layers of Stable Diffusion 1.5, of ten classes, once per folder."""
    from safetensors.numpy import save_file

    from lorasweep.zoo.random.synthetic import synthetic_shapes

    shapes = synthetic_shapes(1)
    for i in range(count):
        path = folder / f"class-{i % 10}" / f"adapter-{i:05d}" / "pytorch_lora_weights.safetensors"
        if not path.exists():
            rng = np.random.default_rng(i)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {name: rng.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}, path
            )
    return folder


def measure_import(folder: Path, work: Path) -> ImportSpeed:
    """Time the three, each after all files were read once."""
    from safetensors.numpy import load_file

    from lorasweep.sweep.imports.labels import label_source
    from lorasweep.sweep.imports.plan import make_plan
    from lorasweep.sweep.imports.shard import ShardWriter
    from lorasweep.sweep.imports.survey import survey

    files = sorted(folder.rglob("*.safetensors"))
    for path in files:
        path.read_bytes()
    bare = _seconds(lambda: [load_file(path) for path in files] and None)
    found = survey([folder], label_source("folder"), 64).found
    look = _seconds(lambda: survey([folder], label_source("folder"), 64) and None)
    plan = make_plan(found, 0.9, 64)
    writer = ShardWriter(plan, work / "import")

    def write() -> None:
        for index in range(plan.shards):
            writer({"index": index})

    each = 1e3 / len(files)
    return ImportSpeed(bare * each, look * each, _seconds(write) * each)


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
