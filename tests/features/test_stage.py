"""The Ray Data stage and its cache, on real Ray."""

import os
import shutil
import threading
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch

from features.cache import CacheEntry, exclusive, feature_matrix
from features.hf_folder import write_dataset
from features.representations import (
    DEFAULT_REPRESENTATIONS,
    REPRESENTATIONS,
    get_representation,
    get_representations,
    stored_representations,
)
from features.representations.evaluate import evaluate, matrix_batch
from features.scan import scan_dataset
from features.shard import _origin
from features.sources import DatasetRequest, find_dataset
from features.stage import plan_stage, run_stage, shard_bounds
from tests.conftest import NAMES, adapter_table, random_matrices
from zoo.sd15 import matrix_column

ROWS = 70
NINE = get_representations(DEFAULT_REPRESENTATIONS)
ALL = stored_representations(NINE)

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def stage(make_dataset, tmp_path):
    """(source, scan, cache root, function that runs what is missing of `wanted`)."""
    source = find_dataset(DatasetRequest(str(make_dataset(rows=ROWS))), tmp_path)
    scan = scan_dataset(source, "category_label", None, tmp_path)
    root = tmp_path / "cache"

    def run(wanted=ALL, **kwargs):
        plan = plan_stage(scan, list(wanted), root)
        return plan, run_stage(source, scan, plan, root, **kwargs)

    return source, scan, root, run


@pytest.fixture(scope="module")
def computed(local_ray, tmp_path_factory):
    """Cache root with stats and simple_stats of the adapters that `stage` has."""
    folder = tmp_path_factory.mktemp("computed")
    write_dataset(folder / "adapters", adapter_table(rows=ROWS))
    source = find_dataset(DatasetRequest(str(folder / "adapters")), folder)
    scan = scan_dataset(source, "category_label", None, folder)
    wanted = get_representations(["stats", "simple_stats"])
    run_stage(source, scan, plan_stage(scan, wanted, folder / "cache"), folder / "cache")
    return folder / "cache"


def expected_matrix(name, matrices):
    columns = []
    for layer in sorted(matrices):
        tensor = torch.from_numpy(matrices[layer])
        for part in REPRESENTATIONS[name].stored:
            batch = matrix_batch(tensor, [part])
            columns.append(evaluate(batch, [part])[part.name].numpy())
    return np.concatenate(columns, axis=1)


def test_cached_matrices_equal_direct_evaluation(stage):
    _, scan, root, run = stage
    progress = []
    run(on_progress=lambda *p: progress.append(p))
    assert progress[-1] == (ROWS, ROWS)
    assert len(progress) == len(shard_bounds(ROWS, scan.numbers_per_sample)) - 1 == 3
    for item in NINE:
        values = feature_matrix(root, scan.weights, item, list(scan.tensors)).load()
        assert values.dtype == np.float32
        np.testing.assert_allclose(
            values, expected_matrix(item.name, random_matrices(ROWS)), rtol=1e-5, atol=1e-30
        )
    visual = [layer for layer in scan.tensors if ".attn1." in layer]
    some = feature_matrix(root, scan.weights, REPRESENTATIONS["ensemble"], visual).load()
    everything = feature_matrix(
        root, scan.weights, REPRESENTATIONS["ensemble"], list(scan.tensors)
    ).load()
    np.testing.assert_array_equal(some, everything[:, : 2 * 67])


def test_datasets_opens_the_cache(stage):
    _, scan, root, run = stage
    run(get_representations(["stats"]))
    folder = CacheEntry(root, scan.weights, REPRESENTATIONS["stats"]).folder
    opened = datasets.load_from_disk(folder).with_format("numpy")
    assert opened.column_names == sorted(NAMES)
    expected = expected_matrix("stats", random_matrices(ROWS))
    np.testing.assert_allclose(opened[NAMES[0]], expected[:, :7], rtol=1e-5)
    assert opened.features[NAMES[0]] == datasets.List(datasets.Value("float32"), length=7)


def test_only_what_is_missing_is_computed(stage):
    _, scan, root, run = stage
    plan, _ = run(get_representations(["stats", "frequency"]))
    assert [item.name for item in plan.computed] == ["stats", "frequency"]
    plan, report = run(get_representations(["stats", "frequency"]))
    assert plan.computed == []
    assert report.seconds == 0
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.arrow")}
    plan, _ = run(get_representations(["stats", "info_theoretic", "frequency"]))
    assert [item.name for item in plan.computed] == ["info_theoretic"]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    newer = replace(REPRESENTATIONS["stats"], version="next")
    assert plan_stage(scan, [newer], root).computed == [newer]


def damage_flip(folder):
    shard = folder / "data-00001-of-00003.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)


def damage_truncate(folder):
    shard = folder / "data-00000-of-00003.arrow"
    os.truncate(shard, shard.stat().st_size // 2)


def damage_delete_shard(folder):
    (folder / "data-00002-of-00003.arrow").unlink()


def damage_delete_manifest(folder):
    (folder / "manifest.json").unlink()


def damage_manifest(folder):
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"rows": {ROWS}', '"rows": 3'))


def damage_state(folder):
    (folder / "state.json").write_text("{}")


@pytest.mark.parametrize(
    "damage",
    [
        damage_flip,
        damage_truncate,
        damage_delete_shard,
        damage_delete_manifest,
        damage_manifest,
        damage_state,
    ],
)
def test_damage_is_noticed_and_repaired(damage, stage, computed):
    _, scan, root, run = stage
    wanted = get_representations(["stats", "simple_stats"])
    shutil.copytree(computed, root)
    folder = CacheEntry(root, scan.weights, REPRESENTATIONS["stats"]).folder
    intact = feature_matrix(root, scan.weights, wanted[0], list(scan.tensors)).load().copy()
    damage(folder)
    plan, _ = run(wanted)
    assert [item.name for item in plan.computed] == ["stats"]
    assert list(plan.damaged) == ["stats"]
    repaired = feature_matrix(root, scan.weights, wanted[0], list(scan.tensors)).load()
    np.testing.assert_array_equal(repaired, intact)
    assert plan_stage(scan, wanted, root).computed == []


def test_an_interrupted_stage_keeps_its_finished_shards(stage):
    _, scan, root, run = stage
    wanted = get_representations(["stats"])
    run(wanted)
    entry = CacheEntry(root, scan.weights, wanted[0])
    # What a stage killed after two of three shards leaves, one of them since damaged.
    half = {
        i: {
            layer: values.reshape(-1, 7)
            for layer, values in zip(
                scan.tensors,
                np.split(
                    feature_matrix(root, scan.weights, wanted[0], list(scan.tensors)).load(), 4, 1
                ),
            )
        }
        for i in (0, 1)
    }
    bounds = shard_bounds(ROWS, scan.numbers_per_sample)
    entry.discard()
    for i, values in half.items():
        part = {k: np.ascontiguousarray(v[bounds[i] : bounds[i + 1]]) for k, v in values.items()}
        entry.write_shard(i, 3, part, _origin(torch.device("cpu")))
    kept, damaged = (entry.partial / f"data-0000{i}-of-00003.arrow" for i in (0, 1))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    inode = kept.stat().st_ino
    plan, _ = run(wanted)
    assert plan.computed == wanted
    assert (entry.folder / kept.name).stat().st_ino == inode
    assert not entry.partial.exists()
    np.testing.assert_allclose(
        feature_matrix(root, scan.weights, wanted[0], list(scan.tensors)).load(),
        expected_matrix("stats", random_matrices(ROWS)),
        rtol=1e-5,
    )


def test_bad_rows_are_left_out(make_dataset, tmp_path):
    matrices = random_matrices(ROWS)
    broken = matrices[NAMES[1]].copy()
    broken[[0, 33]] = np.nan
    path = make_dataset(rows=ROWS, **{NAMES[1]: matrix_column(broken)})
    source = find_dataset(DatasetRequest(str(path)), tmp_path)
    scan = scan_dataset(source, "category_label", None, tmp_path)
    wanted = get_representations(["simple_stats"])
    run_stage(source, scan, plan_stage(scan, wanted, tmp_path), tmp_path)
    values = feature_matrix(tmp_path, scan.weights, wanted[0], list(scan.tensors)).load()
    kept = {k: np.delete(v, [0, 33], axis=0) for k, v in matrices.items()}
    np.testing.assert_allclose(values, expected_matrix("simple_stats", kept), rtol=1e-5)


FAULTY = """
import torch
from features.representations import representation

@representation("raises", version=1, values=["a"])
def raises(batch):
    raise ArithmeticError("no such thing")

@representation("narrow", version=1, values=["a", "b"])
def narrow(batch):
    return batch.mean[:, None]

@representation("undefined", version=1, values=["a"])
def undefined(batch):
    return torch.full((batch.batch, 1), float("nan"))

@representation("right", version=1, values=["a"])
def right(batch):
    return batch.mean[:, None]
"""


def test_a_failing_representation_is_blamed_and_leaves_the_others_alone(stage, tmp_path):
    _, scan, root, run = stage
    (tmp_path / "faulty.py").write_text(FAULTY)
    own = [
        get_representation(f"{tmp_path}/faulty.py:{name}").copied(root / "plugins")
        for name in ("raises", "narrow", "undefined", "right")
    ]
    _, report = run([*own, *get_representations(["stats"])])
    assert sorted(report.failed) == ["narrow", "raises", "undefined"]
    assert "no such thing" in report.failed["raises"]
    assert "'narrow' returned (" in report.failed["narrow"]
    assert "'undefined' gives NaN" in report.failed["undefined"]
    assert not CacheEntry(root, scan.weights, own[0]).exists
    assert plan_stage(scan, [own[3], *get_representations(["stats"])], root).computed == []


def test_a_representation_of_layers_has_a_column_for_each(make_dataset, tmp_path):
    scale = np.linspace(-2, 2, ROWS, dtype=np.float32)
    layer = NAMES[0].removesuffix(".lora.down.weight")
    source = find_dataset(
        DatasetRequest(str(make_dataset(rows=ROWS, **{f"{layer}.scale": scale}))), tmp_path
    )
    scan = scan_dataset(source, "category_label", None, tmp_path)
    wanted = get_representations(["channel_norms", "channel_norms:5", "stats"])
    run_stage(source, scan, plan_stage(scan, wanted, tmp_path), tmp_path)
    names = [item.name for item in scan.layers]
    assert names[0] == layer
    values = feature_matrix(tmp_path, scan.weights, wanted[0], names).load()
    expected = []
    matrices = random_matrices(ROWS)
    for item in scan.layers:
        update = matrices[item.up].astype(np.float64) @ matrices[item.down]
        if item.name == layer:
            update *= scale[:, None, None]
        expected += [np.linalg.norm(update, axis=2), np.linalg.norm(update, axis=1)]
    np.testing.assert_allclose(values, np.concatenate(expected, 1), rtol=1e-5, atol=1e-6)
    assert feature_matrix(tmp_path, scan.weights, wanted[1], names).load().shape == (ROWS, 20)


def test_the_nine_are_the_same_beside_representations_of_layers(stage):
    _, _, root, run = stage
    run()
    files = {p: p.read_bytes() for p in root.rglob("data-*.arrow")}
    shutil.rmtree(root)
    run(stored_representations(get_representations(["all"])))
    assert len(files) == 3 * len(ALL)
    assert all(path.read_bytes() == found for path, found in files.items())


def test_shards_of_another_device_are_computed_again(stage):
    _, scan, root, run = stage
    wanted = get_representations(["stats"])
    run(wanted)
    entry = CacheEntry(root, scan.weights, wanted[0])
    intact = feature_matrix(root, scan.weights, wanted[0], list(scan.tensors)).load().copy()
    assert entry.origin()["instructions"] == torch.backends.cpu.get_cpu_capability()
    entry.discard()
    elsewhere = {name: np.zeros((35, 7), np.float32) for name in scan.tensors}
    entry.partial.mkdir(parents=True)
    entry.write_shard(0, 3, elsewhere, {**_origin(torch.device("cpu")), "device": "another"})
    run(wanted)
    again = feature_matrix(root, scan.weights, wanted[0], list(scan.tensors)).load()
    np.testing.assert_array_equal(again, intact)


def test_shards_hold_fewer_samples_of_larger_adapters():
    assert shard_bounds(50_000, 99_648)[1] == 1024
    assert shard_bounds(50_000, 64 * 99_648)[1] == 42
    assert shard_bounds(50_000, 1 << 40)[1] == 32
    assert shard_bounds(70, 100) == [0, 32, 64, 70]


def test_shards_of_another_number_are_removed(stage):
    _, scan, root, run = stage
    wanted = get_representations(["stats"])
    entry = CacheEntry(root, scan.weights, wanted[0])
    entry.partial.mkdir(parents=True)
    values = {name: np.zeros((35, 7), np.float32) for name in scan.tensors}
    entry.write_shard(0, 2, values, {})
    run(wanted)
    assert feature_matrix(root, scan.weights, wanted[0], list(scan.tensors)).load().shape[0] == ROWS


def test_runs_that_need_the_same_features_take_turns(tmp_path):
    order = []
    waiting = threading.Event()

    def other():
        with exclusive(tmp_path, "weights", waiting.set):
            order.append("other")

    with exclusive(tmp_path, "weights", lambda: order.append("waited")):
        thread = threading.Thread(target=other)
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "other"]
