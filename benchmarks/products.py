"""Inner products of ΔW against the machine's own rate of matrix products."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from lorasweep.features.common.memory import keep_freed_memory
from lorasweep.features.compute.cache import CacheEntry
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.projections import plan_projection
from lorasweep.features.projections.kernel import KERNELS
from lorasweep.features.projections.landmarks import write_landmarks
from lorasweep.features.projections.products import ProductEntry, ProductTask
from lorasweep.features.representations import get_representation

LANDMARKS = 4096
_SHARD = 1024


def measure_products(dataset: Path, work: Path, repeat: int) -> tuple[float, float]:
    """FLOP/s of a shard's inner products with 4,096 landmarks, reading, scaling, adding up and
    writing included, and of a bare float32 matrix product; one thread, processor time, medians.

    Arguments:
        dataset: of at least 1,024 + 4,096 adapters; the shard is its first rows.
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    source = find_dataset(DatasetRequest(str(dataset)), work / "memo")
    scan = scan_dataset(source, "category_label", None, work / "memo")
    item = get_representation("update_pca:256")
    train = range(_SHARD, _SHARD + LANDMARKS)
    one = plan_projection(item, scan, train, [layer.name for layer in scan.layers])
    write_landmarks(source, scan, scan.layers, one.landmarks, work / "landmarks")
    flop = one.landmarks.cost * _SHARD / scan.num_samples
    pass_rates, bare_rates = [], []
    for turn in range(repeat):
        entry = CacheEntry(work / f"products-{turn}", scan.weights, one.products)
        entry.begin(1)
        task = ProductTask(
            source, scan.tensors, list(scan.layers), scan.bad_rows, work / "landmarks", LANDMARKS,
            KERNELS[item.kernel], [ProductEntry(dict.fromkeys(one.layers, 1.0), None, entry)], 1,
        )  # fmt: skip
        bare_rates.append(_bare_rate())
        began = time.process_time()
        task({"shard": 0, "start": 0, "stop": _SHARD})
        pass_rates.append(flop / (time.process_time() - began))
    return statistics.median(pass_rates), statistics.median(bare_rates)


def _bare_rate(size: int = 2048, times: int = 10) -> float:
    first, second = torch.randn(2, size, size)
    first @ second
    began = time.process_time()
    for _ in range(times):
        first @ second
    return times * 2 * size**3 / (time.process_time() - began)
