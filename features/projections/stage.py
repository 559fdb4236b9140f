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
from .products import COLUMN, ProductEntry, ProductTask, origin_here
from .projection import FILE as PROJECTION
from .projection import Projection

ROWS_AT_A_TIME = 1024
_SUMS_BYTES = 1 << 30
"""Bytes of the inner products of all folds that one pass adds up, at most."""


def run_projections(
    source: Source,
    scan: DatasetScan,
    wanted: Sequence[ProjectionPlan],
    root: Path,
    *,
    nodes: Nodes | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Compute and cache what is missing, one pass for all that compare with the same adapters by
    the same kernel. Ray must be running. An interrupted pass keeps its finished shards.

    Arguments:
        nodes: those that take part, where not all do.
        on_progress: called with (adapters done, adapters in all), over all passes.
    """
    passes = _passes(scan, wanted)
    total, before = len(passes) * scan.num_samples, 0
    for alike in passes:
        done, squares = _compute_products(
            source, scan, alike, root, nodes, on_progress, before, total
        )
        before += done
        for version, of in squares.items():
            sizes = [one for one in alike if one.products.version == version]
            _finish(scan, sizes, root, np.array([of[name] for name in sizes[0].layers]))


def _passes(scan: DatasetScan, wanted: Sequence[ProjectionPlan]) -> list[list[ProjectionPlan]]:
    """Group plans by pass; folds share as many passes as their sums need memory."""
    alike: dict[tuple[str, str], dict[str, list[ProjectionPlan]]] = {}
    for one in wanted:
        of_pass = alike.setdefault((one.compared_with.digest, one.item.kernel), {})
        of_pass.setdefault(one.products.version, []).append(one)
    found = []
    for of_pass in alike.values():
        sets = list(of_pass.values())
        at_a_time = len(sets)
        if sets[0][0].everybody:
            at_a_time = max(1, _SUMS_BYTES // (4 * scan.num_samples**2))
        for first in range(0, len(sets), at_a_time):
            found.append([one for of in sets[first : first + at_a_time] for one in of])
    return found


def _compute_products(
    source: Source,
    scan: DatasetScan,
    alike: list[ProjectionPlan],
    root: Path,
    nodes: Nodes | None,
    on_progress: Progress | None,
    before: int,
    total: int,
) -> tuple[int, dict[str, dict[str, float]]]:
    """Adapters done; and by the version of what was computed the mean square that each layer's
    products are divided by."""
    kernel, landmarks = KERNELS[alike[0].item.kernel], alike[0].compared_with
    used = set().union(*(one.layers for one in alike))
    layers = [layer for layer in scan.layers if layer.name in used]
    folder = root / scan.weights / f"landmarks-{landmarks.digest[:16]}-{digest(sorted(used))[:16]}"
    write_landmarks(source, scan, layers, landmarks, folder)
    own = {layer.name: _squares(kernel, folder, i, layer) for i, layer in enumerate(layers)}
    spans = list(pairwise(shard_bounds(scan.num_rows, scan.numbers_per_sample)))
    entries = {}
    for one in {one.products.version: one for one in alike}.values():
        columns = np.array(one.landmarks.samples) if one.everybody else None
        chosen = slice(None) if columns is None else torch.from_numpy(columns)
        squares = {name: float(own[name][chosen].mean()) for name in one.layers}
        where = CacheEntry(root, scan.weights, one.products)
        where.begin(len(spans))
        entries[one.products.version] = ProductEntry(squares, columns, where)
    task = ProductTask(
        source,
        scan.tensors,
        layers,
        scan.bad_rows,
        folder,
        len(landmarks.samples),
        kernel,
        list(entries.values()),
        len(spans),
    )
    done = 0
    with flushing_shards() as flush:
        seen = [folder, *(entry.where.partial for entry in entries.values()), *source.files]
        for result in run_spans(task, spans, nodes, seen):
            for entry in entries.values():
                flush(entry.where, result["shard"], len(spans))
            done += result["rows"]
            if on_progress:
                on_progress(before + done, total)
    # NFS keeps a file's place in its folder for as long as somebody has it mapped.
    shutil.rmtree(folder, ignore_errors=True)
    return done, {version: entry.mean_squares for version, entry in entries.items()}


def _squares(kernel: Kernel, folder: Path, index: int, layer: Layer) -> torch.Tensor:
    """(n,) float64 k(i, i) of a layer, whose mean over landmarks the layer is divided by."""
    return kernel.own(read_landmarks(folder, index, layer, torch.device("cpu")))


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
