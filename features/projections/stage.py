"""The Ray Data pass of fitted representations: everybody's inner products with the landmarks, their
components, and everybody's coordinates."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lorasweep.features.common.files import digest
from lorasweep.features.common.progress import Progress
from lorasweep.features.compute.cache import CacheEntry
from lorasweep.features.compute.nodes import Nodes
from lorasweep.features.compute.stage import flushing_shards, run_spans, shard_bounds
from lorasweep.features.datasets.reader import TableReader
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.datasets.sources import Source
from lorasweep.features.layers.pairing import Layer

from .components import Components, principal_components
from .kernel import KERNELS, Kernel
from .landmarks import read_landmarks, write_landmarks
from .plan import ProjectionPlan
from .products import COLUMN, ProductTask, origin_here
from .projection import FILE as PROJECTION
from .projection import Projection

ROWS_AT_A_TIME = 1024


def run_projections(
    source: Source,
    scan: DatasetScan,
    wanted: Sequence[ProjectionPlan],
    root: Path,
    *,
    nodes: Nodes | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Compute and cache what is missing, one pass for all that share their landmarks and kernel.
    Ray must be running. An interrupted pass keeps its finished shards.

    Arguments:
        nodes: those that take part, where not all do.
        on_progress: called with (adapters done, adapters in all), over all passes.
    """
    passes: dict[tuple[str, str], list[ProjectionPlan]] = {}
    for one in wanted:
        passes.setdefault((one.landmarks.digest, one.item.kernel), []).append(one)
    total, before = len(passes) * scan.num_samples, 0
    for alike in passes.values():
        done, squares = _compute_products(
            source, scan, alike, root, nodes, on_progress, before, total
        )
        before += done
        for same in {one.products.version: one for one in alike}.values():
            sizes = [one for one in alike if one.layers == same.layers]
            _finish(scan, sizes, root, np.array([squares[name] for name in same.layers]))


def _compute_products(
    source: Source,
    scan: DatasetScan,
    alike: list[ProjectionPlan],
    root: Path,
    nodes: Nodes | None,
    on_progress: Progress | None,
    before: int,
    total: int,
) -> tuple[int, dict[str, float]]:
    """Adapters done, and of every layer the mean square that its products are divided by."""
    kernel, landmarks = KERNELS[alike[0].item.kernel], alike[0].landmarks
    used = set().union(*(one.layers for one in alike))
    layers = [layer for layer in scan.layers if layer.name in used]
    folder = root / scan.weights / f"landmarks-{landmarks.digest[:16]}-{digest(sorted(used))[:16]}"
    write_landmarks(source, scan, layers, landmarks, folder)
    scales = [_mean_square(kernel, folder, i, layer) for i, layer in enumerate(layers)]
    spans = list(pairwise(shard_bounds(scan.num_rows, scan.numbers_per_sample)))
    entries = {one.layers: CacheEntry(root, scan.weights, one.products) for one in alike}
    for entry in entries.values():
        entry.begin(len(spans))
    task = ProductTask(
        source,
        scan.tensors,
        layers,
        scan.bad_rows,
        folder,
        len(landmarks.samples),
        scales,
        kernel,
        list(entries.items()),
        len(spans),
    )
    done = 0
    with flushing_shards() as flush:
        seen = [folder, *(entry.partial for entry in entries.values()), *source.files]
        for result in run_spans(task, spans, nodes, seen):
            for entry in entries.values():
                flush(entry, result["shard"], len(spans))
            done += result["rows"]
            if on_progress:
                on_progress(before + done, total)
    # NFS keeps a file's place in its folder for as long as somebody has it mapped.
    shutil.rmtree(folder, ignore_errors=True)
    return done, dict(zip((layer.name for layer in layers), scales))


def _mean_square(kernel: Kernel, folder: Path, index: int, layer: Layer) -> float:
    """Mean of k(i, i) over the landmarks, by which a layer is divided; 0: it is left out."""
    return float(kernel.own(read_landmarks(folder, index, layer, torch.device("cpu"))).mean())


def _finish(
    scan: DatasetScan, sizes: list[ProjectionPlan], root: Path, squares: NDArray[np.float64]
) -> None:
    """From inner products to coordinates, of all sizes asked for."""
    products = CacheEntry(root, scan.weights, sizes[0].products)
    reader = TableReader(sorted(products.partial.glob("data-*.arrow")))
    samples = np.array(sizes[0].landmarks.samples)
    own = np.concatenate(
        [block[samples[(samples >= top) & (samples < top + len(block))] - top]
         for top, block in _blocks(reader)]
    )  # fmt: skip
    most = max(one.item.size or 0 for one in sizes)
    found = principal_components(own, most)
    coordinates = np.concatenate([found.project(block) for _, block in _blocks(reader)])
    here = origin_here()
    for one in sizes:
        entry = CacheEntry(root, scan.weights, one.stored)
        entry.discard_damaged(scan.num_samples)
        entry.begin(1)
        values = np.ascontiguousarray(coordinates[:, : one.item.size])
        entry.write_shard(0, 1, {COLUMN: values}, here)
        entry.flush_shard(0, 1)
        components = Components(found.weights[:, : one.item.size], found.means)
        Projection(components, squares).write(entry.partial)
        entry.finish({COLUMN: ()}, [len(values)], here, [PROJECTION])
    shutil.rmtree(products.partial, ignore_errors=True)


def _blocks(reader: TableReader) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """First row and (rows, landmarks) of the products, one piece after the other."""
    top = 0
    for start in range(0, reader.num_rows, ROWS_AT_A_TIME):
        stop = min(start + ROWS_AT_A_TIME, reader.num_rows)
        for batch in reader.read(start, stop, [COLUMN]):
            values = batch.column(0).flatten().to_numpy(zero_copy_only=True)
            yield top, values.reshape(batch.num_rows, -1)
            top += batch.num_rows
