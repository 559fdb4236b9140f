"""Columns of the ranks that adapters had before padding: what a scan takes of them."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from lorasweep.features.common.errors import UserError
from lorasweep.features.compute import batches
from lorasweep.features.compute.dataset_matrix import dataset_matrix
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.representations import Unit, get_representation
from lorasweep.features.representations.base import representation
from lorasweep.features.representations.evaluate import PaddedMatrices
from lorasweep.zoo.random.sd15 import matrix_column
from tests.conftest import NAMES, adapter_table, random_matrices
from tests.unit.reference import REFERENCE

LAYER = NAMES[0].removesuffix(".lora.down.weight")
COLUMN = f"{LAYER}.rank"
ROWS = 12
RANKS = np.array([1, 2, 2] * 4)


def padded(ranks=RANKS):
    """The matrices of the first layer, zero beyond an adapter's rank, as columns."""
    matrices = random_matrices(ROWS)
    down, up = matrices[NAMES[0]], matrices[NAMES[1]]
    for row, rank in enumerate(ranks):
        down[row, rank:], up[row, :, rank:] = 0, 0
    return {NAMES[0]: matrix_column(down), NAMES[1]: matrix_column(up)}


def scan(folder, memo):
    source = find_dataset(DatasetRequest(str(folder)), memo)
    return source, scan_dataset(source, "category_label", None, memo)


def test_a_set_of_one_rank_is_known_by_what_it_was(make_dataset, tmp_path):
    _, plain = scan(make_dataset("plain"), tmp_path)
    assert plain.weights == "6e498abe2f2c71c84022e2ca378d7df1"
    assert plain.padded == {}
    _, said = scan(make_dataset("said", **{COLUMN: np.full(ROWS, 2)}), tmp_path)
    assert (said.weights, said.ranks, said.padded) == (plain.weights, [], {})


def test_ranks_are_part_of_the_content(make_dataset, tmp_path):
    weights = set()
    for i, ranks in enumerate((None, RANKS, np.ones(ROWS, int))):
        columns = {} if ranks is None else {COLUMN: pa.array(ranks, pa.int32())}
        made = padded(np.ones(ROWS, int))
        _, found = scan(make_dataset(f"{i}", **made, **columns), tmp_path)
        _, again = scan(tmp_path / f"{i}", tmp_path)
        assert again == found
        assert found.padded == ({} if ranks is None else dict.fromkeys(NAMES[:2], COLUMN))
        weights.add(found.weights)
    assert len(weights) == 3


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (RANKS - 1, r"row 0 is 0; the layer's ranks are from 1 to 2"),
        (np.array([2] * 11 + [3]), r"row 11 is 3"),
        (RANKS.astype(np.float32), "holds float; a layer's ranks are whole numbers"),
        (pa.array([None, *RANKS[1:]]), "has missing values"),
        (np.array([2] * 10 + [1, 2]), r"row 10 has numbers beyond its rank, which .* says is 1"),
    ],
)
def test_ranks_that_cannot_be_are_refused(make_dataset, tmp_path, ranks, message):
    with pytest.raises(UserError, match=message):
        scan(make_dataset(**{**padded(np.full(ROWS, 2)), COLUMN: ranks}), tmp_path)


def test_ranks_of_half_a_layer_say_nothing(tmp_path):
    table = adapter_table(**{COLUMN: RANKS}).drop_columns([NAMES[1]])
    write_dataset(tmp_path / "half", table)
    _, found = scan(tmp_path / "half", tmp_path)
    assert (found.ranks, found.padded) == ([], {})


@pytest.mark.parametrize("entries", [1, 40, 1 << 20])
@pytest.mark.parametrize("bad", [False, True])
def test_tensors_are_seen_without_padding(make_dataset, tmp_path, monkeypatch, entries, bad):
    monkeypatch.setitem(batches._BATCH_ENTRIES, "cpu", entries)
    scale = np.ones(ROWS, np.float32)
    scale[4] = np.nan if bad else 1
    columns = {COLUMN: RANKS, f"{LAYER}.scale": scale}
    source, found = scan(make_dataset(**padded(), **columns), tmp_path)
    stats = get_representation("stats")
    values = dataset_matrix(source, found, stats, found.columns(Unit.TENSOR)).load()
    rows = np.flatnonzero(np.isfinite(scale))
    matrices = random_matrices(ROWS)
    expected = []
    for name in sorted(NAMES):
        own = [matrices[name][row] for row in rows]
        if name == NAMES[0]:
            own = [matrix[:rank] for matrix, rank in zip(own, RANKS[rows])]
        if name == NAMES[1]:
            own = [matrix[:, :rank] for matrix, rank in zip(own, RANKS[rows])]
        expected.append([REFERENCE["stats"](matrix) for matrix in own])
    np.testing.assert_allclose(values, np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-6)


def test_layers_do_not_depend_on_it(make_dataset, tmp_path):
    source, plain = scan(make_dataset("plain", **padded()), tmp_path)
    other, told = scan(make_dataset("told", **padded(), **{COLUMN: RANKS}), tmp_path)
    for name in ("update_spectrum", "channel_norms", "canonical", "flat", "update_sketch:32"):
        item = get_representation(name)
        columns = list(plain.columns(Unit.LAYER))
        np.testing.assert_array_equal(
            dataset_matrix(source, plain, item, columns).load(),
            dataset_matrix(other, told, item, columns).load(),
        )


# Representations of one's own


@representation("rows", version=1, values=lambda shape: [f"row_{i}" for i in range(shape[0])])
def row_sums(w):
    """As many values as rows."""
    return w.matrices.sum(2)


@representation("count", version=1, values=("entries",))
def entries(w):
    """How many numbers there are."""
    return torch.full((w.batch, 1), float(w.size))


@representation("fussy", version=1, values=("mean",))
def fussy(w):
    """Nothing of a vector."""
    if w.m == 1:
        raise ValueError("a vector")
    return w.mean[:, None]


def test_what_gets_other_values_with_the_rank_sees_the_padding():
    matrices = torch.arange(24, dtype=torch.float32).reshape(4, 2, 3)
    matrices[1, 1] = 0
    shapes = np.array([[2, 3], [1, 3], [2, 3], [2, 3]])
    made = PaddedMatrices(matrices, shapes)
    found = made.evaluate([row_sums, entries])
    np.testing.assert_array_equal(found["rows"], matrices.sum(2))
    np.testing.assert_array_equal(found["count"][:, 0], [6, 3, 6, 6])
    failed = {}
    each = made.evaluate_each([row_sums, entries, fussy], failed)
    assert each.keys() == {"rows", "count"} == found.keys()
    assert "a vector" in failed["fussy"]
    for name, values in each.items():
        np.testing.assert_array_equal(values, found[name])
