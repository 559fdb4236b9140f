import json
import threading
from dataclasses import replace

import pytest

from lorasweep.features.common.files import DamagedFileError
from lorasweep.trainables.store.record import (
    await_records,
    has_record,
    read_record,
    write_failure,
    write_record,
)
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

KEY = TrialKey("all_layers", "stats", 42)


def test_a_record_is_read_back_and_clears_the_failure(tmp_path):
    write_failure(tmp_path, KEY, "abc", "it broke")
    assert json.loads(RunDir(tmp_path).failure(KEY).read_text())["reason"] == "it broke"
    write_record(tmp_path, KEY, "abc", {"metrics": {"test_acc": 0.1 + 0.2}})
    assert RunDir(tmp_path).record(KEY) == tmp_path / "checkpoints/all_layers/stats/seed-42.json"
    assert read_record(tmp_path, KEY)["metrics"] == {"test_acc": 0.1 + 0.2}
    assert has_record(tmp_path, KEY, "abc")
    assert not has_record(tmp_path, KEY, "other")
    assert not RunDir(tmp_path).failure(KEY).exists()
    assert [p.name for p in RunDir(tmp_path).record(KEY).parent.iterdir()] == ["seed-42.json"]


def test_a_record_that_is_not_seen_yet_is_waited_for(tmp_path):
    write = threading.Timer(0.3, write_record, [tmp_path, KEY, "abc", {}])
    write.start()
    await_records(tmp_path, [KEY], seconds=30)
    assert has_record(tmp_path, KEY, "abc")
    await_records(tmp_path, [replace(KEY, seed=43)], seconds=0.1)


@pytest.mark.parametrize("at", range(0, 200, 7))
def test_every_flipped_bit_is_noticed(at, tmp_path):
    write_record(tmp_path, KEY, "abc", {"metrics": {"test_acc": 0.123456789}})
    path = RunDir(tmp_path).record(KEY)
    content = bytearray(path.read_bytes())
    content[at % (len(content) - 1)] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        read_record(tmp_path, KEY)


@pytest.mark.parametrize("size", [0, 1, 50, 150])
def test_truncation_is_noticed(size, tmp_path):
    write_record(tmp_path, KEY, "abc", {"metrics": {"test_acc": 0.5}})
    path = RunDir(tmp_path).record(KEY)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedFileError):
        read_record(tmp_path, KEY)


def test_a_record_in_another_trials_place_is_not_believed(tmp_path):
    write_record(tmp_path, KEY, "abc", {})
    other = TrialKey("all_layers", "stats", 43)
    RunDir(tmp_path).record(KEY).rename(RunDir(tmp_path).record(other))
    with pytest.raises(DamagedFileError, match="another trial"):
        read_record(tmp_path, other)


def test_a_number_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_record(tmp_path, KEY, "abc", {"metrics": {"test_acc": float("nan")}})
    assert not RunDir(tmp_path).record(KEY).exists()
