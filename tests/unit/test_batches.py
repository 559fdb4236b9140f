"""How rows of a dataset are put together into batches."""

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lorasweep.features.compute import batches
from lorasweep.features.compute.batches import DatasetBatches, open_reader
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.layers.pairing import pair_layers
from lorasweep.features.representations import Unit
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
@pytest.mark.parametrize("units", [{Unit.TENSOR}, {Unit.LAYER}, {Unit.TENSOR, Unit.LAYER}])
def test_every_matrix_comes_once(source, entries, keep, units, monkeypatch):
    monkeypatch.setitem(batches._BATCH_ENTRIES, "cpu", entries)
    layers = {layer.name: layer for layer in pair_layers(SHAPES)}
    dataset = DatasetBatches(partial(open_reader, source), SHAPES, list(layers.values()))
    rows = np.arange(15, 65) if keep is None else keep + 15
    columns = [*(SHAPES if Unit.TENSOR in units else ()), *(layers if Unit.LAYER in units else ())]
    seen = {name: np.zeros(len(rows)) for name in columns}

    for batch in dataset.read(15, 65, keep, units, torch.device("cpu")):
        made = batch.make([])
        if batch.unit is Unit.TENSOR:
            tensors, owners = [made.matrices], [batch.columns]
        else:
            tensors = [made.down, made.up]
            owners = [
                [layers[n].down for n in batch.columns],
                [layers[n].up for n in batch.columns],
            ]
            assert made.layers == tuple(batch.columns)
        assert sum(x.numel() for x in tensors) <= max(entries, sum(x[0].numel() for x in tensors))
        for matrices, names in zip(tensors, owners):
            parts = matrices.numpy().reshape(len(names), -1, *matrices.shape[1:])
            for name, part in zip(names, parts):
                wanted = random_matrices(ROWS)[name][rows[batch.rows]]
                np.testing.assert_array_equal(part, wanted)
        for column in batch.columns:
            seen[column][batch.rows] += 1
    assert all((count == 1).all() for count in seen.values())
