"""Features that are read from the dataset itself."""

import json

import numpy as np
import pytest

from lorasweep.features.common.errors import UserError
from lorasweep.features.compute.dataset_matrix import DatasetMatrix, dataset_matrix
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.representations import get_representation, stored_representations
from tests.conftest import NAMES, random_matrices

ROWS = 40
LAYER = NAMES[0].removesuffix(".lora.down.weight")
SCALE = np.linspace(-2, 2, ROWS, dtype=np.float32)


@pytest.fixture(params=["all rows", "a bad row"])
def dataset(request, make_dataset, tmp_path):
    """(source, scan, rows that are samples)"""
    scale = SCALE.copy()
    if request.param == "a bad row":
        scale[7] = np.nan
    path = make_dataset(rows=ROWS, **{f"{LAYER}.scale": scale})
    source = find_dataset(DatasetRequest(str(path)), tmp_path / "memo")
    scan = scan_dataset(source, "category_label", None, tmp_path / "memo")
    return source, scan, np.flatnonzero(np.isfinite(scale))


def expected(scan, layers, kept):
    parts, matrices = [], random_matrices(ROWS)
    for layer in scan.layers:
        if layer.name in layers:
            s = SCALE[:, None, None] if layer.name == LAYER else np.float32(1)
            parts += [(s * matrices[layer.up])[kept], matrices[layer.down][kept]]
    return np.concatenate([part.reshape(len(kept), -1) for part in parts], axis=1)


@pytest.mark.parametrize("some", [False, True])
def test_flat_is_what_the_dataset_holds(dataset, some):
    source, scan, kept = dataset
    flat = get_representation("flat")
    layers = [layer.name for layer in scan.layers][: 1 if some else None]
    matrix = dataset_matrix(source, scan, flat, layers)
    again = DatasetMatrix.from_json(json.loads(json.dumps(matrix.to_json())))
    assert again == matrix
    values = again.load()
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected(scan, layers, kept))
    shapes = {layer.name: layer.shape for layer in scan.layers}
    assert values.shape[1] == sum(flat.width(shapes[name]) for name in layers)


def test_what_is_not_cached_is_not_computed_beforehand():
    wanted = [get_representation(name) for name in ("stats", "flat")]
    assert [item.name for item in stored_representations(wanted)] == ["stats"]


def test_another_file_than_the_scanned_is_refused(dataset):
    source, scan, _ = dataset
    matrix = dataset_matrix(source, scan, get_representation("flat"), [LAYER])
    with open(source.files[0], "ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match="has changed since the run began"):
        matrix.load()
