"""The Ray Data stage and its cache, on real Ray."""

import errno
import fcntl
import os
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from lorasweep.features.common.hardware import hardware_of
from lorasweep.features.compute.cache import CacheEntry, exclusive, feature_matrix
from lorasweep.features.compute.shard import origin_of
from lorasweep.features.compute.stage import StagePlan, plan_stage, run_stage, shard_bounds
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.representations import (
    DEFAULT_REPRESENTATIONS,
    REPRESENTATIONS,
    get_representation,
    get_representations,
    stored_representations,
)
from lorasweep.features.representations.evaluate import evaluate, matrix_batch
from lorasweep.zoo.random.sd15 import matrix_column
from tests.conftest import NAMES, adapter_table, random_matrices

ROWS = 70
NINE = get_representations(DEFAULT_REPRESENTATIONS)
WANTED = [*stored_representations(NINE), *get_representations(["channel_norms"])]

pytestmark = pytest.mark.usefixtures("local_ray")


def looked_at(folder, **columns):
    """Write adapters as a dataset; returns its source and scan."""
    write_dataset(folder / "adapters", adapter_table(rows=ROWS, **columns))
    source = find_dataset(DatasetRequest(str(folder / "adapters")), folder)
    return source, scan_dataset(source, "category_label", None, folder)


def load(root, scan, item, layers=None):
    return feature_matrix(root, scan.weights, item, layers or list(scan.tensors)).load()


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """(source, scan) of adapters that nothing is wrong with."""
    return looked_at(tmp_path_factory.mktemp("intact"))


@pytest.fixture(scope="module")
def computed(local_ray, adapters, tmp_path_factory):
    """(cache root, progress told): everything of the adapters; it is not to be changed."""
    (source, scan), root, progress = adapters, tmp_path_factory.mktemp("computed"), []
    plan = plan_stage(scan, WANTED, root)
    run_stage(source, scan, plan, root, on_progress=lambda *p: progress.append(p))
    return root, progress


def expected_matrix(name, matrices):
    columns = []
    for layer in sorted(matrices):
        tensor = torch.from_numpy(matrices[layer])
        for part in REPRESENTATIONS[name].stored:
            batch = matrix_batch(tensor, [part])
            columns.append(evaluate(batch, [part])[part.name].numpy())
    return np.concatenate(columns, axis=1)


def test_cached_matrices_equal_direct_evaluation(adapters, computed):
    (_, scan), (root, progress) = adapters, computed
    assert progress[-1] == (ROWS, ROWS)
    assert len(progress) == len(shard_bounds(ROWS, scan.numbers_per_sample)) - 1 == 3
    for item in NINE:
        values = load(root, scan, item)
        assert values.dtype == np.float32
        np.testing.assert_allclose(
            values, expected_matrix(item.name, random_matrices(ROWS)), rtol=1e-5, atol=1e-30
        )
    visual = [layer for layer in scan.tensors if ".attn1." in layer]
    some = load(root, scan, REPRESENTATIONS["ensemble"], visual)
    everything = load(root, scan, REPRESENTATIONS["ensemble"])
    np.testing.assert_array_equal(some, everything[:, : 2 * 67])


def test_datasets_opens_the_cache(adapters, computed):
    folder = CacheEntry(computed[0], adapters[1].weights, REPRESENTATIONS["stats"]).folder
    opened = datasets.load_from_disk(folder).with_format("numpy")
    assert opened.column_names == sorted(NAMES)
    expected = expected_matrix("stats", random_matrices(ROWS))
    np.testing.assert_allclose(opened[NAMES[0]], expected[:, :7], rtol=1e-5)
    assert opened.features[NAMES[0]] == datasets.List(datasets.Value("float32"), length=7)


def test_what_is_there_is_not_computed(adapters, computed):
    (source, scan), (root, _) = adapters, computed
    plan = plan_stage(scan, WANTED, root)
    assert plan.computed == []
    assert run_stage(source, scan, plan, root).seconds == 0
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


DAMAGES = {
    "simple_stats": damage_flip,
    "rank_based": damage_truncate,
    "stats": damage_delete_shard,
    "spectral": damage_delete_manifest,
    "matrix_norms": damage_manifest,
    "distribution": damage_state,
}
MISSING, INTERRUPTED, INTACT = "info_theoretic", "frequency", "channel_norms"


def interrupt(entry, scan):
    """Leave of a finished entry what a stage killed in its third shard leaves: an intact shard,
    one damaged since, and one of another device. Returns their paths."""
    values = load(entry.root, scan, entry.item)
    layers = dict(zip(scan.tensors, np.split(values, len(scan.tensors), 1)))
    entry.discard()
    entry.partial.mkdir()
    here = origin_of(torch.device("cpu"))
    origins = (here, here, {**here, "device": "another"})
    bounds = shard_bounds(ROWS, scan.numbers_per_sample)
    for i, origin in enumerate(origins):
        part = {k: np.ascontiguousarray(v[bounds[i] : bounds[i + 1]]) for k, v in layers.items()}
        if origin is not here:
            part = {k: np.zeros_like(v) for k, v in part.items()}
        entry.write_shard(i, 3, part, origin)
    shards = [entry.partial / f"data-0000{i}-of-00003.arrow" for i in range(3)]
    shards[1].write_bytes(shards[1].read_bytes()[:-9])
    return shards


@dataclass
class Mended:
    """A cache with much wrong, after one more run of the stage; a run costs seconds, so what
    can go wrong does so at once, each to another representation."""

    root: Path
    plan: StagePlan
    kept_shard: int
    untouched: dict[Path, int]


@pytest.fixture(scope="module")
def mended(adapters, computed, tmp_path_factory):
    source, scan = adapters
    root = tmp_path_factory.mktemp("mended") / "cache"
    shutil.copytree(computed[0], root)
    entries = {item.name: CacheEntry(root, scan.weights, item) for item in WANTED}
    for name, damage in DAMAGES.items():
        damage(entries[name].folder)
    entries[MISSING].discard()
    kept, *_ = interrupt(entries[INTERRUPTED], scan)
    kept_shard = kept.stat().st_ino
    untouched = {p: p.stat().st_mtime_ns for p in entries[INTACT].folder.iterdir()}
    plan = plan_stage(scan, WANTED, root)
    run_stage(source, scan, plan, root)
    return Mended(root, plan, kept_shard, untouched)


@pytest.mark.parametrize("name", DAMAGES, ids=[d.__name__ for d in DAMAGES.values()])
def test_damage_is_noticed_and_repaired(name, adapters, computed, mended):
    scan, item = adapters[1], REPRESENTATIONS[name]
    assert name in mended.plan.damaged
    np.testing.assert_array_equal(load(mended.root, scan, item), load(computed[0], scan, item))


def test_only_what_is_missing_or_damaged_is_computed(adapters, computed, mended):
    scan, item = adapters[1], REPRESENTATIONS[MISSING]
    assert {item.name for item in mended.plan.computed} == {*DAMAGES, MISSING, INTERRUPTED}
    assert set(mended.plan.damaged) == set(DAMAGES)
    assert {p: p.stat().st_mtime_ns for p in mended.untouched} == mended.untouched
    np.testing.assert_array_equal(load(mended.root, scan, item), load(computed[0], scan, item))
    assert plan_stage(scan, WANTED, mended.root).computed == []


def test_an_interrupted_stage_keeps_its_finished_shards(adapters, computed, mended):
    """Those that are intact and of this device: the others are computed again."""
    scan, item = adapters[1], REPRESENTATIONS[INTERRUPTED]
    entry = CacheEntry(mended.root, scan.weights, item)
    assert entry.origin()["instructions"] == hardware_of(torch.device("cpu")).instructions
    assert (entry.folder / "data-00000-of-00003.arrow").stat().st_ino == mended.kept_shard
    assert not entry.partial.exists()
    np.testing.assert_array_equal(load(mended.root, scan, item), load(computed[0], scan, item))


FAULTY = """
import torch
from lorasweep.features.representations import representation

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


def test_a_failing_representation_is_blamed_and_leaves_the_others_alone(adapters, tmp_path):
    (source, scan), root = adapters, tmp_path / "cache"
    (tmp_path / "faulty.py").write_text(FAULTY)
    own = [
        get_representation(f"{tmp_path}/faulty.py:{name}").copied(root / "plugins")
        for name in ("raises", "narrow", "undefined", "right")
    ]
    wanted = [*own, REPRESENTATIONS["stats"]]
    report = run_stage(source, scan, plan_stage(scan, wanted, root), root)
    assert sorted(report.failed) == ["narrow", "raises", "undefined"]
    assert "no such thing" in report.failed["raises"]
    assert "'narrow' returned (" in report.failed["narrow"]
    assert "'undefined' gives NaN" in report.failed["undefined"]
    assert not CacheEntry(root, scan.weights, own[0]).exists
    assert plan_stage(scan, wanted[3:], root).computed == []


BAD = [0, 33]
SCALED = NAMES[0].removesuffix(".lora.down.weight")


@pytest.fixture(scope="module")
def odd(local_ray, tmp_path_factory):
    """(cache root, scan, matrices and scales of the rows that count) of adapters with a scale in
    one layer and two rows that are not finite."""
    matrices = random_matrices(ROWS)
    broken = matrices[NAMES[1]].copy()
    broken[BAD] = np.nan
    scale = np.linspace(-2, 2, ROWS, dtype=np.float32)
    root = tmp_path_factory.mktemp("odd")
    columns = {NAMES[1]: matrix_column(broken), f"{SCALED}.scale": scale}
    source, scan = looked_at(root, **columns)
    wanted = get_representations(["simple_stats", "channel_norms", "channel_norms:5", "stats"])
    run_stage(source, scan, plan_stage(scan, wanted, root), root)
    kept = {name: np.delete(values, BAD, axis=0) for name, values in matrices.items()}
    return root, scan, kept, np.delete(scale, BAD)


def test_bad_rows_are_left_out(odd):
    root, scan, matrices, _ = odd
    values = load(root, scan, REPRESENTATIONS["simple_stats"])
    np.testing.assert_allclose(values, expected_matrix("simple_stats", matrices), rtol=1e-5)


def test_a_representation_of_layers_has_a_column_for_each(odd):
    root, scan, matrices, scale = odd
    names = [item.name for item in scan.layers]
    assert names[0] == SCALED
    whole, binned = get_representations(["channel_norms", "channel_norms:5"])
    expected = []
    for item in scan.layers:
        update = matrices[item.up].astype(np.float64) @ matrices[item.down]
        if item.name == SCALED:
            update *= scale[:, None, None]
        expected += [np.linalg.norm(update, axis=2), np.linalg.norm(update, axis=1)]
    np.testing.assert_allclose(
        load(root, scan, whole, names), np.concatenate(expected, 1), rtol=1e-5, atol=1e-6
    )
    assert load(root, scan, binned, names).shape == (len(scale), 20)


def test_the_nine_are_the_same_beside_representations_of_layers(adapters, computed, tmp_path):
    (source, scan), nine = adapters, stored_representations(NINE)
    everything = stored_representations(get_representations(["all"]))
    run_stage(source, scan, plan_stage(scan, everything, tmp_path), tmp_path)
    for item in nine:
        alone = CacheEntry(computed[0], scan.weights, item).folder
        beside = CacheEntry(tmp_path, scan.weights, item).folder
        files = sorted(path.name for path in alone.glob("data-*.arrow"))
        assert len(files) == 3
        for name in files:
            assert (beside / name).read_bytes() == (alone / name).read_bytes()


def test_shards_hold_fewer_samples_of_larger_adapters():
    assert shard_bounds(50_000, 99_648)[1] == 1024
    assert shard_bounds(50_000, 64 * 99_648)[1] == 42
    assert shard_bounds(50_000, 1 << 40)[1] == 32
    assert shard_bounds(70, 100) == [0, 32, 64, 70]


def test_shards_of_another_number_are_removed(adapters, tmp_path):
    (source, scan), wanted = adapters, get_representations(["stats"])
    entry = CacheEntry(tmp_path, scan.weights, wanted[0])
    entry.partial.mkdir(parents=True)
    values = {name: np.zeros((35, 7), np.float32) for name in scan.tensors}
    entry.write_shard(0, 2, values, {})
    run_stage(source, scan, plan_stage(scan, wanted, tmp_path), tmp_path)
    assert load(tmp_path, scan, wanted[0]).shape[0] == ROWS


def finished_entry(root, rows=35):
    """A finished cache of one shard, and its entry."""
    entry = CacheEntry(root, "weights", get_representation("stats"))
    entry.begin(1)
    entry.write_shard(0, 1, {"layer": np.zeros((rows, 7), np.float32)}, {})
    entry.finish({"layer": (4, 4)}, [rows], {})
    return entry


def test_what_another_process_has_finished_is_neither_deleted_nor_replaced(tmp_path):
    entry = finished_entry(tmp_path)
    before = (entry.folder / "manifest.json").stat().st_ino
    entry.discard_damaged(35)
    finished_entry(tmp_path)
    assert (entry.folder / "manifest.json").stat().st_ino == before
    assert not entry.partial.exists()
    (entry.folder / "manifest.json").write_text("{}")
    finished_entry(tmp_path)
    assert entry.damage(35) is None


def test_what_killed_workers_left_is_in_no_finished_cache(tmp_path):
    entry = CacheEntry(tmp_path, "weights", get_representation("stats"))
    entry.begin(1)
    left = entry.partial / ".data-00000-of-00001.arrow.0123abcd.tmp"
    left.write_bytes(b"half")
    entry.begin(1)
    assert not left.exists()
    left.write_bytes(b"half")
    entry.write_shard(0, 1, {"layer": np.zeros((35, 7), np.float32)}, {})
    entry.finish({"layer": (4, 4)}, [35], {})
    assert not list(entry.folder.glob(".*"))


@pytest.mark.parametrize("locks", [True, False])
def test_runs_that_need_the_same_features_take_turns(locks, tmp_path, monkeypatch):
    """Whether or not the file system has locks of its own."""
    if not locks:
        monkeypatch.setattr(fcntl, "flock", refuse)
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


def refuse(descriptor, operation):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
