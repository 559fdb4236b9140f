"""Random adapters of real shapes, for measuring at the real size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.hf_folder import finish_folder, shard_name, write_shard

from .folder import new_folder
from .sd15 import (
    layer_tensors,
    matrix_column,
    matrix_type,
    transformer_blocks,
)

_PROJECTIONS = ("attn1.to_q", "attn1.to_k", "attn2.to_q", "attn2.to_k")
_BATCH_NUMBERS = 12_000_000
"""Numbers of a record batch, 48 MB: what is held in memory."""
_SHARD_BATCHES = 8

# Adapters differ in scale and tails by more than classes do, so that no representation is perfect.
_SCALE_SPREAD, _SCALE_SIGNAL = 0.08, 0.010
_TAIL_SPREAD, _TAIL_SIGNAL = 0.02, 0.0025


def synthetic_shapes(rank: int) -> dict[str, tuple[int, int]]:
    """The 128 layer tensors of to_q and to_k in SD 1.5; 99,648 numbers at rank 1."""
    shapes: dict[str, tuple[int, int]] = {}
    for block, width in transformer_blocks():
        shapes |= layer_tensors(block, width, _PROJECTIONS, rank)
    return shapes


def make_synthetic(
    out: Path,
    *,
    samples: int,
    classes: int = 10,
    rank: int = 1,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write random adapters as a stream of Arrow shards; memory does not grow with `samples`.

    Every layer tensor is normal noise with a cubic tail; its scale and tail vary from adapter to
    adapter and, by less, from class to class.

    Arguments:
        out: folder to make.
        samples: adapters in all, classes taking turns.

    Returns:
        the dataset folder, `out`.

    Raises:
        UserError: impossible numbers, or the folder is taken.
    """
    if samples < 1 or rank < 1 or classes < 2:
        raise UserError("need --samples and --rank of at least 1 and --classes of at least 2")
    new_folder(out)
    shapes = synthetic_shapes(rank)
    schema = pa.schema(
        {name: matrix_type(*shape) for name, shape in shapes.items()}
        | {"category_label": pa.int64()}
    )
    rows = max(1, min(1000, _BATCH_NUMBERS // sum(m * n for m, n in shapes.values())))
    starts = list(range(0, samples, rows))
    effects = np.random.default_rng([seed, 0]).standard_normal((2, classes, len(shapes)))

    def batches(own: list[int]) -> Iterator[pa.RecordBatch]:
        for start in own:
            stop = min(start + rows, samples)
            yield _batch(shapes, schema, effects, start, stop, seed)
            if on_progress:
                on_progress(stop, samples)

    shards = [starts[i : i + _SHARD_BATCHES] for i in range(0, len(starts), _SHARD_BATCHES)]
    names = [shard_name(i, len(shards)) for i in range(len(shards))]
    for name, own in zip(names, shards):
        write_shard(out / name, batches(own), schema)
    finish_folder(out, schema, names)
    return out


def _batch(
    shapes: dict[str, tuple[int, int]],
    schema: pa.Schema,
    effects: np.ndarray,
    start: int,
    stop: int,
    seed: int,
) -> pa.RecordBatch:
    rng = np.random.default_rng([seed, 1, start])
    labels = np.arange(start, stop) % effects.shape[1]
    columns: list[pa.Array] = []
    for layer, (m, n) in enumerate(shapes.values()):
        own = rng.standard_normal((2, stop - start))
        scale = 0.01 * np.exp(_SCALE_SPREAD * own[0] + _SCALE_SIGNAL * effects[0, labels, layer])
        tail = 0.05 + _TAIL_SPREAD * own[1] + _TAIL_SIGNAL * effects[1, labels, layer]
        x = rng.standard_normal((stop - start, m * n), dtype=np.float32)
        cubic = x * x * tail[:, None].astype(np.float32) + np.float32(1.0)
        cubic *= x
        cubic *= scale[:, None].astype(np.float32)
        columns.append(matrix_column(cubic.reshape(-1, m, n)))
    return pa.RecordBatch.from_arrays([*columns, pa.array(labels)], schema=schema)
