import os

import numpy as np
import pyarrow as pa
import pytest

from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.zoo.random.sd15 import matrix_column
from tests.conftest import NAMES, adapter_table, random_matrices


def scan(path, memo, label="category_label", **kwargs):
    return scan_dataset(find_dataset(DatasetRequest(str(path)), memo), label, None, memo, **kwargs)


def test_scan_describes_the_dataset(make_dataset, tmp_path):
    found = scan(make_dataset(), tmp_path)
    assert found.num_rows == found.num_samples == 12
    assert list(found.tensors) == sorted(NAMES)
    assert found.numbers_per_sample == 16 * 3 + 12
    assert found.classes == [0, 1, 2]


def test_one_changed_number_or_label_changes_the_fingerprint(make_dataset, tmp_path):
    original = scan(make_dataset("a"), tmp_path)
    matrices = random_matrices()[NAMES[0]]
    matrices[7, 1, 3] = np.nextafter(matrices[7, 1, 3], np.float32(1e9))
    changed = scan(make_dataset("b", **{NAMES[0]: matrix_column(matrices)}), tmp_path)
    assert changed.weights != original.weights
    labels = pa.array([1, *(np.arange(1, 12) % 3)])
    relabelled = scan(make_dataset("c", category_label=labels), tmp_path)
    assert relabelled.weights == original.weights
    assert relabelled.fingerprint != original.fingerprint


def test_the_memo_is_used_until_a_file_changes(make_dataset, tmp_path):
    path = make_dataset()
    seen = []

    def again(**kwargs):
        seen.clear()
        found = scan(path, tmp_path, on_progress=lambda *p: seen.append(p), **kwargs)
        return found, bool(seen)

    first, was_read = again()
    assert was_read
    assert again() == (first, False)
    assert again(verify=True) == (first, True)
    shard = path / "data-00000-of-00001.arrow"
    os.utime(shard)
    assert again() == (first, True)
    memo = next((tmp_path / "scans").glob("*.json"))
    memo.write_bytes(memo.read_bytes()[:-40])
    assert again() == (first, True)


def test_a_memo_is_not_served_to_a_dataset_rewritten_in_place(make_dataset, tmp_path):
    before = scan(make_dataset(), tmp_path)
    after = scan(make_dataset(seed=1), tmp_path)
    assert before.weights != after.weights


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_bad_numbers_are_found_and_named(value, make_dataset, tmp_path):
    matrices = random_matrices()[NAMES[2]]
    matrices[3, 0, 1] = matrices[9, 1, 5] = value
    found = scan(make_dataset(**{NAMES[2]: matrix_column(matrices)}), tmp_path)
    assert found.bad_rows == [3, 9]
    assert found.num_samples == 10
    assert found.kept_labels == [i % 3 for i in range(12) if i not in (3, 9)]
    with pytest.raises(UserError, match=rf"2 of 12 samples .*first: row 3, column {NAMES[2]}"):
        found.require_usable(skip_bad_samples=False)
    found.require_usable(skip_bad_samples=True)


def ragged():
    values = [[[1.0, 2.0]]] * 5 + [[[1.0, 2.0, 3.0]]] + [[[1.0, 2.0]]] * 6
    return pa.array(values)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({NAMES[0]: ragged()}, rf"ragged matrices: column '{NAMES[0]}', row 5 has a list of 3"),
        ({NAMES[0]: pa.array([[[1.0]]] * 6 + [None] * 6)}, "row 6 is null"),
        ({NAMES[0]: pa.array([[[1]]] * 12)}, "holds int64, not floating-point"),
        ({NAMES[0]: pa.array([[[]]] * 12, pa.list_(pa.list_(pa.float32())))}, "need matrices"),
        ({"category_label": pa.array([0.5] * 12)}, "holds double; need strings or integers"),
        ({"category_label": pa.array([None, *range(11)])}, "has missing values"),
        ({"category_label": pa.array([7] * 12)}, "same label 7: nothing to classify"),
        ({"category_label": pa.array(range(12))}, "12 classes for 12 adapters: no class has two"),
    ],
)
def test_unusable_datasets_are_refused(columns, message, make_dataset, tmp_path):
    with pytest.raises(UserError, match=message):
        scan(make_dataset(**columns), tmp_path).require_usable(skip_bad_samples=False)


def test_missing_columns_and_rows_are_named(make_dataset, tmp_path):
    with pytest.raises(UserError, match=r"no label column 'kind' .* choose one of category_label"):
        scan(make_dataset(), tmp_path, label="kind")
    write_dataset(tmp_path / "no-layers", pa.table({"category_label": pa.array([1, 2])}))
    with pytest.raises(UserError, match=r"no layer tensors .*columns: category_label"):
        scan(tmp_path / "no-layers", tmp_path)
    write_dataset(tmp_path / "empty", adapter_table(0))
    with pytest.raises(UserError, match="is empty"):
        scan(tmp_path / "empty", tmp_path)
