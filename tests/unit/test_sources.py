"""Every form a dataset can come in gives the same adapters."""

import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.columns import to_matrices
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset, load_through_datasets
from tests.conftest import NAMES, adapter_table, random_matrices

ROWS = 12


def python_columns(dtype=np.float32):
    matrices = {k: v.astype(dtype) for k, v in random_matrices(ROWS).items()}
    return {**matrices, "category_label": np.arange(ROWS) % 3}


def save_array2d(path):
    columns = python_columns()
    features = datasets.Features(
        {
            **{n: datasets.Array2D(columns[n].shape[1:], "float32") for n in NAMES},
            "category_label": datasets.Value("int64"),
        }
    )
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(path)
    return path


def save_nested_lists(path, dtype="float32"):
    values = {k: v.tolist() for k, v in python_columns().items()}
    kind = {"float16": pa.float16(), "float32": pa.float32(), "float64": pa.float64()}[dtype]
    arrays = {n: pa.array(values[n], pa.list_(pa.list_(kind))) for n in NAMES}
    arrays["category_label"] = pa.array(values["category_label"])
    path.mkdir()
    pq.write_table(pa.table(arrays), path / "part.parquet", row_group_size=5)
    return path


def save_dataset_dict(path):
    columns = {k: v.tolist() for k, v in python_columns().items()}
    train = datasets.Dataset.from_dict(columns)
    other = datasets.Dataset.from_dict({k: v[:2] for k, v in columns.items()})
    datasets.DatasetDict({"test": other, "train": train}).save_to_disk(path)
    return path


def save_several_shards(path):
    columns = {k: v.tolist() for k, v in python_columns().items()}
    datasets.Dataset.from_dict(columns).save_to_disk(path, num_shards=3)
    return path


def save_parquet_file(path):
    pq.write_table(adapter_table(ROWS), path.with_suffix(".parquet"), row_group_size=4)
    return path.with_suffix(".parquet")


def save_split_files(path):
    path.mkdir()
    table = adapter_table(ROWS)
    pq.write_table(table.slice(0, 7), path / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(7), path / "train-00001-of-00002.parquet")
    pq.write_table(table.slice(0, 3), path / "test-00000-of-00001.parquet")
    return path


def save_arrow_stream(path):
    table = adapter_table(ROWS)
    with pa.ipc.new_stream(str(path.with_suffix(".arrow")), table.schema) as stream:
        stream.write_table(table, max_chunksize=5)
    return path.with_suffix(".arrow")


def save_arrow_file(path):
    path.mkdir()
    pyarrow.feather.write_feather(
        adapter_table(ROWS), path / "a.arrow", compression="uncompressed", chunksize=5
    )
    return path


FORMS = [
    save_array2d,
    save_nested_lists,
    save_dataset_dict,
    save_several_shards,
    save_parquet_file,
    save_split_files,
    save_arrow_stream,
    save_arrow_file,
]


def read_all(source, scan, name):
    batches = source.open().read(0, scan.num_rows, [name])
    return np.concatenate([to_matrices(b.column(0), scan.tensors[name]) for b in batches])


@pytest.mark.parametrize("save", FORMS, ids=lambda f: f.__name__)
def test_every_local_form_reads_the_same(save, tmp_path):
    path = save(tmp_path / "data")
    source = find_dataset(DatasetRequest(str(path)), tmp_path)
    scan = scan_dataset(source, "category_label", None, tmp_path)
    assert scan.num_rows == ROWS
    assert scan.labels == [i % 3 for i in range(ROWS)]
    for name, expected in random_matrices(ROWS).items():
        np.testing.assert_array_equal(read_all(source, scan, name), expected)
        middle = source.open().read(4, 9, [name])
        values = np.concatenate([to_matrices(b.column(0), scan.tensors[name]) for b in middle])
        np.testing.assert_array_equal(values, expected[4:9])


@pytest.mark.parametrize("save", [save_parquet_file, save_arrow_stream, save_split_files])
def test_the_fingerprint_is_of_the_content_not_the_layout(save, tmp_path, make_dataset):
    prints = set()
    for path in (save(tmp_path / "one"), make_dataset()):
        source = find_dataset(DatasetRequest(str(path)), tmp_path)
        prints.add(scan_dataset(source, "category_label", None, tmp_path).fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_float_types_are_read_as_float32(dtype, tmp_path):
    path = save_nested_lists(tmp_path / "data", dtype)
    source = find_dataset(DatasetRequest(str(path)), tmp_path)
    scan = scan_dataset(source, "category_label", None, tmp_path)
    for name, matrices in random_matrices(ROWS).items():
        values = read_all(source, scan, name)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, matrices.astype(dtype).astype(np.float32))


def test_flat_lists_are_rows_or_of_a_given_rank(tmp_path):
    flat = {n: pa.array(m.reshape(ROWS, -1).tolist()) for n, m in random_matrices(ROWS).items()}
    table = pa.table({**flat, "label": pa.array(["a", "b"] * 6)})
    pq.write_table(table, tmp_path / "flat.parquet")
    source = find_dataset(DatasetRequest(str(tmp_path / "flat.parquet")), tmp_path)
    as_rows = scan_dataset(source, "label", None, tmp_path)
    assert list(as_rows.tensors.values()) == [(1, 16), (1, 16), (1, 12), (1, 16)]
    assert as_rows.classes == ["a", "b"]
    ranked = scan_dataset(source, "label", 2, tmp_path)
    assert list(ranked.tensors.values()) == [(2, 8), (8, 2), (2, 6), (8, 2)]
    assert ranked.weights != as_rows.weights
    for name, expected in random_matrices(ROWS).items():
        np.testing.assert_array_equal(read_all(source, ranked, name), expected)
    with pytest.raises(UserError, match="no multiple of rank 5"):
        scan_dataset(source, "label", 5, tmp_path)


def test_class_labels_become_their_names(tmp_path):
    columns = {k: v.tolist() for k, v in python_columns().items()}
    data = datasets.Dataset.from_dict(columns).cast_column(
        "category_label", datasets.ClassLabel(names=["cat", "ant", "bee"])
    )
    data.save_to_disk(tmp_path / "data")
    source = find_dataset(DatasetRequest(str(tmp_path / "data")), tmp_path)
    scan = scan_dataset(source, "category_label", None, tmp_path)
    assert scan.classes == ["ant", "bee", "cat"]
    assert scan.labels[:3] == [2, 0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "is no existing path"),
        (lambda p: p, "is no dataset"),
        (lambda p: (p / "a.txt").write_text("x") and p / "a.txt", "neither a .parquet nor"),
        (lambda p: (p / "a.parquet").write_text("x") and p / "a.parquet", "cannot read"),
        (lambda p: (p / "a.arrow").write_text("nonsense") and p, "cannot read"),
        (lambda p: (p / "state.json").write_text("{") and p, "is damaged"),
    ],
)
def test_what_is_no_dataset_is_refused_in_one_line(make, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        find_dataset(DatasetRequest(str(make(tmp_path))), tmp_path / "memo").open().schema  # noqa: B018
    assert "\n" not in str(caught.value)


def test_splits_without_train_must_be_the_only_one(tmp_path):
    columns = {k: v.tolist() for k, v in python_columns().items()}
    part = datasets.Dataset.from_dict(columns)
    datasets.DatasetDict({"a": part, "b": part}).save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match="splits a, b and none is 'train'"):
        find_dataset(DatasetRequest(str(tmp_path / "two")), tmp_path)
    datasets.DatasetDict({"a": part}).save_to_disk(tmp_path / "one")
    assert find_dataset(DatasetRequest(str(tmp_path / "one")), tmp_path).files


def test_an_unreachable_hub_dataset_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="'jacekduszenko/lora-ws-1k' from the Hugging Face hub"):
        find_dataset(DatasetRequest("1k"), tmp_path)


def test_hub_loading_goes_through_datasets_with_configurations(tmp_path, monkeypatch):
    """The loading code itself, on a local folder with the hub's layout and two configurations."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    repo = tmp_path / "repo"
    for config, rows in (("rank_8", 4), ("rank_16", 6)):
        (repo / config).mkdir(parents=True)
        pq.write_table(adapter_table(rows), repo / config / "train-00000-of-00001.parquet")
    cards = [
        {"config_name": c, "data_files": [{"split": "train", "path": f"{c}/train-*"}]}
        for c in ("rank_8", "rank_16")
    ]
    (repo / "README.md").write_text(f"---\nconfigs: {json.dumps(cards)}\n---\n")
    files = load_through_datasets(str(repo), "rank_16")
    assert sum(pa.ipc.open_stream(f).read_all().num_rows for f in files) == 6
    with pytest.raises(UserError, match=r"Config name is missing"):
        load_through_datasets(str(repo), None)
