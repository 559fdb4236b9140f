"""What a sweep counts for Prometheus, without an endpoint."""

from lorasweep.sweep.watch.prometheus import SweepMetrics, read_targets
from lorasweep.trainables.store.events import (
    TrialFinished,
    TrialOutOfMemory,
    TrialProgress,
    TrialStarted,
    TrialWaiting,
)
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey


def test_a_resumed_sweep_counts_what_is_on_disk(tmp_path):
    keys = [TrialKey("all_layers", "stats", seed) for seed in range(5)]
    metrics = SweepMetrics(tmp_path / "run")
    records = {keys[0]: {"metrics": {"val_acc": 0.5}}, keys[1]: {"metrics": {"val_acc": 0.25}}}
    metrics.begin_with(records, keys[2:], keys[2:3])
    counts = {"finished": 2, "running": 0, "failed": 1, "todo": 2}
    assert metrics.counts() == {("all_layers", "stats", "mlp"): counts}
    metrics.take(TrialStarted(keys[2]))
    metrics.take(TrialStarted(keys[3]))
    counts = {"finished": 2, "running": 2, "failed": 0, "todo": 1}
    assert metrics.counts() == {("all_layers", "stats", "mlp"): counts}
    metrics.take(TrialWaiting(keys[2]))
    metrics.take(TrialFinished(keys[3], 1.0, val_acc=0.75, test_acc=0.1))
    metrics.take(TrialStarted(keys[4]))
    metrics.take(TrialOutOfMemory(keys[4]))
    counts = {"finished": 3, "running": 0, "failed": 0, "todo": 2}
    assert metrics.counts() == {("all_layers", "stats", "mlp"): counts}


def test_without_ray_nothing_is_exported_and_nothing_breaks(tmp_path):
    metrics = SweepMetrics(tmp_path / "run")
    key = TrialKey("all_layers", "stats", 1)
    metrics.begin_with({}, [key], [])
    with metrics.exporting():
        metrics.take(TrialProgress(key, 1, 0.5))
        metrics.take(TrialFinished(key, 1.0, val_acc=0.5, test_acc=0.5))
    assert not RunDir(tmp_path / "run").metrics_targets.exists()
    assert read_targets(tmp_path / "run") == []
    assert metrics.counts()[key.config, key.representation, key.classifier]["finished"] == 1
