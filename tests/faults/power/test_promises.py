"""What the writing functions promise holds through a power cut at any moment."""

import errno
import random

import numpy as np
import pytest
import torch

from lorasweep.features.common.files import DamagedFileError, write_text
from lorasweep.features.common.plugins import find_origin
from lorasweep.features.compute.cache import CacheEntry, exclusive
from lorasweep.features.representations import get_representation
from lorasweep.trainables.store.record import read_record, write_record
from lorasweep.trainables.store.state import TrialState, read_state, write_state
from lorasweep.trainables.store.trial_key import TrialKey
from tests.faults.power.disk import Disk
from tests.faults.power.mount import Fault, mounted, pattern_of
from tests.programs import require_fuse

CUTS = 30
KEY = TrialKey("all_layers", "stats", 0)
ORIGIN = {"device": "cpu"}


class PowerCuts:
    """A mounted recorder's disk, and folders of what cuts leave of it."""

    def __init__(self, mount, folder):
        self.path, self._mount, self._folder = mount.path, mount, folder
        self._disk, self._cuts = Disk(), 0
        self._rng = random.Random(0)

    def _cut(self):
        self._cuts += 1
        left = self._folder / str(self._cuts)
        left.mkdir()
        self._disk.cut(left, self._rng)
        return left

    def now(self):
        """What may be left after all that was done, in many ways."""
        self._disk.apply(self._mount.operations())
        for _ in range(CUTS):
            yield self._cut()

    def meanwhile(self):
        """What may be left after every single operation that was done, in a few ways."""
        for operation in self._mount.operations():
            self._disk.apply([operation])
            for _ in range(3):
                yield self._cut()


@pytest.fixture
def power(tmp_path):
    require_fuse()
    with mounted(tmp_path / "disk", tmp_path / "below") as mount:
        yield PowerCuts(mount, tmp_path)


@pytest.fixture
def entry(power):
    return CacheEntry(power.path / "new" / "cache", "weights", get_representation("stats"))


def write_one_shard(entry):
    values = {"layer": np.arange(12, dtype=np.float32).reshape(3, 4)}
    entry.write_shard(0, 1, values, ORIGIN)
    entry.flush_shard(0, 1)


def moved(entry, left):
    """The same entry in what is left."""
    return CacheEntry(left / "new" / "cache", entry.weights, entry.item)


def test_a_file_in_new_folders_survives(power):
    write_text(power.path / "a/b/c/file", "content")
    for left in power.now():
        assert (left / "a/b/c/file").read_text() == "content"


def test_a_file_in_folders_whose_maker_was_killed_at_once_survives(power):
    (power.path / "a" / "b").mkdir(parents=True)  # and not flushed
    write_text(power.path / "a/b/file", "content")
    for left in power.now():
        assert (left / "a/b/file").read_text() == "content"


def test_a_file_is_the_old_one_or_the_new_one(power):
    path = power.path / "file"
    write_text(path, "old")
    for _ in power.now():
        pass
    write_text(path, "new" * 10_000)
    found = {(left / "file").read_text() for left in power.meanwhile()}
    assert found == {"old", "new" * 10_000}


def test_a_record_survives_and_is_never_wrong(power):
    write_record(power.path / "run", KEY, "fingerprint", {"metrics": {"val_acc": 0.5}})
    record = read_record(power.path / "run", KEY)
    for left in power.meanwhile():
        try:
            assert read_record(left / "run", KEY) == record
        except (FileNotFoundError, DamagedFileError):
            continue
    for left in power.now():
        assert read_record(left / "run", KEY) == record


def test_a_state_survives_and_is_never_wrong(power):
    def state(value):
        return TrialState("fingerprint", {}, {"weights": torch.full((5000,), value)}, {})

    write_state(power.path, KEY, state(1.0))
    for left in power.now():
        assert read_state(left, KEY).tensors["weights"].eq(1.0).all()
    write_state(power.path, KEY, state(2.0))
    found = {read_state(left, KEY).tensors["weights"].unique().item() for left in power.meanwhile()}
    assert found == {1.0, 2.0}


def test_a_flushed_shard_survives_an_interrupted_stage(power, entry):
    with exclusive(entry.root, entry.weights, lambda: None):
        entry.begin(1)
        write_one_shard(entry)
    for left in power.now():
        assert moved(entry, left).has_shard(0, 1, 3, ORIGIN)


def test_finished_features_survive_and_are_never_wrong(power, entry):
    with exclusive(entry.root, entry.weights, lambda: None):
        entry.begin(1)
        write_one_shard(entry)
        entry.finish({"layer": (4, 4)}, [3], {})
    for left in power.meanwhile():
        found = moved(entry, left)
        if found.exists:
            assert found.damage(3) is None
    for left in power.now():
        assert moved(entry, left).damage(3) is None


def test_a_copy_of_a_users_own_code_is_whole_or_not_there(power, tmp_path):
    (tmp_path / "mine.py").write_text("size = 3\n" * 1000)
    origin = find_origin(f"{tmp_path}/mine.py:size", "none")
    copy = origin.copied(power.path / "run" / "plugins")
    place = copy.root.relative_to(power.path)

    def digest(left):
        return find_origin(f"{left / place}/mine.py:size", "none").digest

    for left in power.meanwhile():
        assert not (left / place).exists() or digest(left) == origin.digest
    for left in power.now():
        assert digest(left) == origin.digest


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        (
            "/run/checkpoints/all_layers/stats/seed-42.json",
            "/run/checkpoints/all_layers/stats/seed-#.json",
        ),
        ("/cache/0123456789abcdef/stats/data-00001.arrow", "/cache/#/stats/data-#.arrow"),
        ("/run/tune/0/TrialWorker_1e2de_00000_0_point=x/file", "/run/tune/#/TrialWorker_#/file"),
        ("/run/results.json", "/run/results.json"),
    ],
)
def test_files_of_one_kind_have_one_pattern(path, pattern):
    assert pattern_of(path) == pattern


def test_a_fault_is_about_the_files_it_names(tmp_path):
    require_fuse()
    with mounted(tmp_path / "disk", tmp_path / "below") as mount:
        fault = Fault(frozenset({"rename"}), False, 2, errno.EIO, "/.b#.#.tmp")
        mount.arm(fault)
        for name in ("a1", "b1", "a2"):
            write_text(mount.path / name, "content")
        with pytest.raises(OSError, match="Input/output"):
            write_text(mount.path / "b2", "content")
        assert mount.counted() == 2
        write_text(mount.path / "b3", "content")
