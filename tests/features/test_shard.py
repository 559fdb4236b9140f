"""How a shard's matrices are put together into batches."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from features import shard
from features.shard import ShardTask
from features.sources import DatasetRequest, find_dataset
from tests.conftest import adapter_table, random_matrices

ROWS = 70
SHAPES = {name: matrices.shape[1:] for name, matrices in random_matrices(1).items()}


@pytest.fixture(params=["arrow", "parquet"])
def source(request, tmp_path):
    """The same table in record batches, or row groups, of 30."""
    table = adapter_table(ROWS)
    path = tmp_path / f"adapters.{request.param}"
    if request.param == "parquet":
        pq.write_table(table, path, row_group_size=30)
    else:
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table, max_chunksize=30)
    return find_dataset(DatasetRequest(str(path)), tmp_path / "memo")


@pytest.mark.parametrize("entries", [1, 40, 700, 1 << 20])
@pytest.mark.parametrize("keep", [None, np.delete(np.arange(50), [0, 17, 49])])
def test_every_matrix_comes_once(source, entries, keep, monkeypatch):
    monkeypatch.setitem(shard._BATCH_ENTRIES, "cpu", entries)
    task = ShardTask(source, SHAPES, [], [], Path(), "", [], 1)
    seen = {name: np.zeros(50 if keep is None else len(keep)) for name in SHAPES}
    start, stop = 15, 65
    for layers, rows, make in task._matrices(start, stop, keep, torch.device("cpu")):
        matrices = make([]).matrices
        assert matrices.numel() <= max(entries, matrices[0].numel())
        for layer, part in zip(
            layers, matrices.numpy().reshape(len(layers), -1, *matrices.shape[1:])
        ):
            whole = random_matrices(ROWS)[layer][start:stop]
            expected = whole if keep is None else whole[keep]
            np.testing.assert_array_equal(part, expected[rows])
            seen[layer][rows] += 1
    assert all((count == 1).all() for count in seen.values())
