"""What is read of a new adapter: the same values as of a dataset, and what does not fit."""

import numpy as np
import pytest

from features.adapter_files.adapter import open_adapter
from features.dataset_matrix import dataset_matrix
from features.model_input import model_input
from features.representations import REPRESENTATIONS, Unit, get_representation
from features.scan import scan_dataset
from features.sources import DatasetRequest, find_dataset
from tests.adapter_folder import write_rows

STORED = [name for name, item in REPRESENTATIONS.items() if not item.kernel]


@pytest.fixture
def scanned(make_dataset, tmp_path):
    """(dataset folder, source, scan) of 12 random adapters of rank 2."""
    folder = make_dataset()
    source = find_dataset(DatasetRequest(str(folder)), tmp_path)
    return folder, source, scan_dataset(source, "category_label", None, tmp_path)


@pytest.mark.parametrize("name", STORED)
def test_a_file_has_the_values_of_its_row(scanned, tmp_path, name):
    folder, source, scan = scanned
    item = get_representation(name)
    columns = sorted(scan.columns(item.unit))
    read = model_input(item, columns, scan, (), dora=False)
    paths = write_rows(folder, range(12), tmp_path / "files")
    stack = read.stack(20)
    for row, path in enumerate(paths):
        adapter = open_adapter(path)
        assert read.problem(item, adapter.shapes, adapter.base, 2) is None
        stack.read(row, adapter, frozenset(read.layers))
    expected = dataset_matrix(source, scan, item, columns).load()
    np.testing.assert_allclose(read.values(item, stack, 12), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "ranks", "fits"),
    [
        ("stats", (), {2}),
        ("stats", (1, 2), {1, 2}),
        ("flat", (), {2}),
        ("flat", (1, 2), {1, 2}),
        ("canonical", (), {1, 2}),
        ("update_spectrum", (), {1, 2, 3, 64}),
        ("channel_norms", (), {1, 2, 3, 64}),
        ("update_pca", (), {1, 2, 3, 64}),
        ("flat_pca", (), {2}),
    ],
)
def test_ranks_that_a_representation_reads(scanned, name, ranks, fits):
    _, _, scan = scanned
    item = get_representation(name)
    unit = Unit.LAYER if item.unit is Unit.ADAPTER else item.unit
    read = model_input(item, sorted(scan.columns(unit)), scan, ranks, dora=False)
    for rank in (1, 2, 3, 64):
        shapes = {layer: (m, n, rank) for layer, (m, n, _) in read.layers.items()}
        reason = read.problem(item, shapes, read.base, rank)
        assert (reason is None) == (rank in fits)
        assert reason is None or f"rank {rank}" in reason
