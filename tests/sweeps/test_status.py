"""What `status` makes of records, events and the driver's lock."""

import json
import shutil
from pathlib import Path

import pytest

from lorasweep.sweep.watch.activity import RATE_SECONDS, ActivityReader, read_activity
from lorasweep.sweep.watch.status import StatusCache, format_bytes, read_status
from lorasweep.trainables.store.trial_key import TrialKey

KEYS = [TrialKey("all_layers", name, seed) for name in ("stats", "spectral") for seed in (1, 2, 3)]
LATEST, EARLIER = "20260102-000000-7", "20260101-000000-5"


def write_events(run_dir: Path, name: str, *events: dict) -> None:
    path = run_dir / "events" / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        for event in events:
            key = event.get("key")
            shown = {**event, "key": key.to_json()} if isinstance(key, TrialKey) else event
            file.write(json.dumps({**shown, "time": float(event["time"])}) + "\n")


@pytest.fixture
def run_dir(tmp_path):
    """Two workers, the host's name with dashes; one trial finished in an earlier invocation."""
    write_events(
        tmp_path, f"{EARLIER}-a-host-5",
        {"event": "started", "time": 10}, {"event": "experiment", "time": 11, "workers": 9},
    )  # fmt: skip
    write_events(
        tmp_path, f"{EARLIER}-a-host-6",
        {"event": "trial_started", "time": 12, "key": KEYS[0]},
        {"event": "trial_finished", "time": 22, "key": KEYS[0], "seconds": 10.0},
        {"event": "trial_started", "time": 23, "key": KEYS[5]},
    )  # fmt: skip
    write_events(
        tmp_path, f"{LATEST}-a-host-7",
        {"event": "started", "time": 1000}, {"event": "planned", "time": 1001},
        {"event": "dashboard", "time": 1001, "url": "http://127.0.0.1:8265"},
        {"event": "features_progress", "time": 1002, "done": 5, "total": 20},
    )  # fmt: skip
    return tmp_path


def train(run_dir):
    write_events(
        run_dir, f"{LATEST}-a-host-7",
        {"event": "features", "time": 1003}, {"event": "experiment", "time": 1004, "workers": 2},
    )  # fmt: skip
    write_events(
        run_dir, f"{LATEST}-a-host-8",
        {"event": "trial_started", "time": 1005, "key": KEYS[1]},
        {"event": "trial_progress", "time": 1007, "key": KEYS[1], "epoch": 4, "val_acc": 0.5},
        {"event": "trial_finished", "time": 1025, "key": KEYS[1], "seconds": 20.0},
        {"event": "trial_started", "time": 1026, "key": KEYS[3]},
        {"event": "trial_progress", "time": 1028, "key": KEYS[3], "epoch": 7, "val_acc": 0.25},
    )  # fmt: skip
    write_events(
        run_dir, f"{LATEST}-other-9",
        {"event": "trial_started", "time": 1006, "key": KEYS[2]},
        {"event": "trial_finished", "time": 1036, "key": KEYS[2], "seconds": 30.0},
    )  # fmt: skip


def test_features_are_followed_until_trials_run(run_dir):
    activity = read_activity(run_dir)
    assert activity.invocation == LATEST
    assert activity.dashboard == "http://127.0.0.1:8265"
    assert (activity.stage, activity.features) == ("computing features", (5, 20))
    assert activity.running == []
    train(run_dir)
    activity = read_activity(run_dir)
    assert (activity.stage, activity.features, activity.workers) == ("training", None, 2)


def test_what_runs_is_what_a_worker_took_and_did_not_end(run_dir):
    train(run_dir)
    (trial,) = read_activity(run_dir).running
    assert (trial.key, trial.since, trial.epoch, trial.val_acc) == (KEYS[3], 1026, 7, 0.25)
    assert trial.worker == "a-host:8"
    # Its worker dies; another takes the trial, and ends it.
    write_events(
        run_dir, f"{LATEST}-other-9", {"event": "trial_started", "time": 1040, "key": KEYS[3]}
    )
    (trial,) = read_activity(run_dir).running
    assert (trial.since, trial.worker) == (1040, "other:9")
    write_events(
        run_dir, f"{LATEST}-other-9",
        {"event": "trial_finished", "time": 1041, "key": KEYS[3], "seconds": 1.0},
    )  # fmt: skip
    assert read_activity(run_dir).running == []


def test_rate_and_time_left_come_from_measured_times(run_dir):
    activity = read_activity(run_dir)
    assert activity.rate(1003.0) is None
    train(run_dir)
    activity = read_activity(run_dir)
    now = 1046.0
    assert activity.rate(now) == pytest.approx(1 / (now - 1025))
    assert activity.rate(now + RATE_SECONDS) is None
    # stats took 10, 20 and 30 s: 20 on average; spectral is not known, so the mean of all.
    assert activity.trial_seconds([KEYS[0], KEYS[4]]) == {KEYS[0]: 20.0, KEYS[4]: 20.0}
    # KEYS[3] runs since 20 s; two more remain, for two workers.
    assert activity.seconds_left(KEYS[3:], now) == pytest.approx((0 + 20 + 20) / 2)
    assert activity.seconds_left([KEYS[4]], now) == 20
    assert activity.seconds_left([], now) == 0
    assert read_activity(run_dir.parent / "nothing").seconds_left(KEYS, now) is None


@pytest.mark.parametrize("line", [b"{", b"[1]", b"3", b'{"event": 1}', b"\xff", b'{"event": "x"'])
def test_torn_lines_are_skipped(run_dir, line):
    train(run_dir)
    before = read_activity(run_dir)
    with open(run_dir / "events" / f"{LATEST}-a-host-8.jsonl", "ab") as file:
        file.write(line)
    assert read_activity(run_dir) == before


def test_looking_again_reads_only_what_was_appended(run_dir):
    reader = ActivityReader(run_dir)
    assert reader.read() == read_activity(run_dir)
    train(run_dir)
    whole = reader.read()
    assert whole == read_activity(run_dir)
    for path in (run_dir / "events").iterdir():
        path.write_bytes(b" " * path.stat().st_size)
    assert reader.read() == whole


def test_a_torn_line_is_completed_later(run_dir):
    train(run_dir)
    path = run_dir / "events" / f"{LATEST}-other-9.jsonl"
    content, reader = path.read_bytes(), ActivityReader(run_dir)
    for cut in range(len(content) - 40, len(content) + 1):
        path.write_bytes(content[:cut])
        activity = reader.read()
        assert (KEYS[2] in activity.seconds) is (cut == len(content))
    assert activity == read_activity(run_dir)


def test_a_file_that_shrank_is_read_anew_and_one_that_went_forgotten(run_dir):
    train(run_dir)
    reader = ActivityReader(run_dir)
    assert KEYS[2] in reader.read().seconds
    path = run_dir / "events" / f"{LATEST}-other-9.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert [trial.key for trial in reader.read().running] == [KEYS[2], KEYS[3]]
    path.unlink()
    assert reader.read() == read_activity(run_dir)


def test_strange_events_are_skipped(run_dir):
    before = read_activity(run_dir)
    write_events(run_dir, f"{LATEST}-a-host-8", {"event": "trial_started", "time": 1, "key": 3})
    write_events(run_dir, f"{LATEST}-a-host-7", {"event": "dashboard", "time": 1})
    assert read_activity(run_dir) == before


def test_watching_keeps_what_it_has_read(zoo_run, tmp_path):
    run_dir = shutil.copytree(zoo_run, tmp_path / "run")
    memory = StatusCache(run_dir)
    first = read_status(run_dir, memory)
    for path in (run_dir / "events").iterdir():
        path.write_bytes(b" " * path.stat().st_size)
    assert read_status(run_dir, memory).activity == first.activity


def test_sizes_are_shown_in_powers_of_ten():
    assert [format_bytes(n) for n in (0, 999, 1234, 5_600_000, 7e9, 2.5e13)] == [
        "0 B", "999 B", "1.23 kB", "5.6 MB", "7 GB", "2.5e+04 GB",
    ]  # fmt: skip
