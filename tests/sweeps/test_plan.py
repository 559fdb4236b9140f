"""What counts as done, failed or still to do."""

from lorasweep.sweep.store.plan import failed_trials, read_records
from lorasweep.trainables.store.record import write_failure, write_record
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

KEYS = [TrialKey("all_layers", "stats", seed) for seed in (1, 2, 3, 4)]
NOW = dict.fromkeys(KEYS, "now")


def test_a_failure_counts_for_the_version_it_happened_to_and_if_it_is_whole(tmp_path):
    for key, fingerprint in zip(KEYS, ("now", "earlier", "now")):
        write_failure(tmp_path, key, fingerprint, "why")
    damaged = RunDir(tmp_path).failure(KEYS[2])
    damaged.write_text(damaged.read_text()[:-5])
    assert failed_trials(tmp_path, NOW) == [KEYS[0]]
    RunDir(tmp_path).failure(KEYS[0]).replace(RunDir(tmp_path).failure(KEYS[3]))
    assert failed_trials(tmp_path, NOW) == [], "another trial's"


def test_whoever_needs_parts_of_the_records_keeps_no_more(tmp_path):
    for key in KEYS[:2]:
        write_record(tmp_path, key, "now", {"metrics": {"val_acc": 0.5}, "importance": {"a": 1}})
    whole = read_records(tmp_path, NOW)
    some = read_records(tmp_path, NOW, parts=("fingerprint", "metrics"))
    assert some.done == whole.done == KEYS[:2]
    for key, record in whole.records.items():
        assert some.records[key] == {name: record[name] for name in ("fingerprint", "metrics")}
