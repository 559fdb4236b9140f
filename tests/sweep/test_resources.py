import json
import subprocess
import sys
from pathlib import Path

import pytest

from features.errors import UserError
from sweep.cluster import trial_resources
from sweep.spec import RuntimeOptions


@pytest.mark.parametrize(
    ("options", "available", "expected"),
    [
        ({}, {"CPU": 2.0}, (1, 0.0, 2)),
        ({"cpus_per_trial": 2}, {"CPU": 8.0}, (2, 0.0, 4)),
        ({"max_concurrent": 3}, {"CPU": 8.0}, (1, 0.0, 3)),
        ({"gpus_per_trial": 0.25}, {"CPU": 16.0, "GPU": 2.0}, (1, 0.25, 8)),
        ({"gpus_per_trial": 0.3}, {"CPU": 16.0, "GPU": 2.0}, (1, 0.3, 6)),
        ({"gpus_per_trial": 0.1}, {"CPU": 16.0, "GPU": 1.0}, (1, 0.1, 10)),
        ({"gpus_per_trial": 2.0}, {"CPU": 16.0, "GPU": 5.0}, (1, 2.0, 2)),
        ({"gpus_per_trial": 0.0}, {"CPU": 4.0, "GPU": 2.0}, (1, 0.0, 4)),
        ({}, {"CPU": 8.0, "GPU": 2.0}, (1, 0.25, 8)),
        ({}, {"CPU": 6.0, "GPU": 2.0}, (1, 0.3333, 6)),
        ({}, {"CPU": 2.0, "GPU": 2.0}, (1, 1.0, 2)),
        ({}, {"CPU": 64.0, "GPU": 1.0}, (1, 0.125, 8)),
    ],
)
def test_shares_and_slots(options, available, expected):
    resources = trial_resources(RuntimeOptions(**options), available)
    assert (resources.cpus, resources.gpus, resources.slots) == expected


@pytest.mark.parametrize(
    ("options", "available", "message"),
    [
        ({"gpus_per_trial": 1.0}, {"CPU": 2.0}, "--gpus-per-trial 1: Ray has only 0 GPUs"),
        ({"gpus_per_trial": 4.0}, {"CPU": 2.0, "GPU": 2.0}, "Ray has only 2 GPUs"),
        ({"cpus_per_trial": 4}, {"CPU": 2.0}, "Ray has only 2 CPUs"),
    ],
)
def test_more_than_there_is_is_refused(options, available, message):
    with pytest.raises(UserError, match=message):
        trial_resources(RuntimeOptions(**options), available)


LOGICAL_GPUS = """
import sys
from pathlib import Path
import ray
from sweep import RuntimeOptions, SweepSpec, run_sweep
from trainables.hyperparameters import Hyperparameters

dataset, out = sys.argv[1:]
ray.init("local", num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False)
result = run_sweep(
    SweepSpec(dataset, representations=("stats", "matrix_norms"), num_runs=10,
              hyper=Hyperparameters(hidden_dim=32, epochs=150, patience=150)),
    RuntimeOptions(output_dir=Path(out), cache_dir=Path(out) / "cache", gpus_per_trial=0.25),
)
assert result.summary["ran"] == 40, result.summary
"""


def test_two_logical_gpus_at_a_quarter_run_eight_trials_at_once(sanity, tmp_path):
    """Ray schedules logical GPUs on a machine without any; the trials then run on the CPU."""
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", LOGICAL_GPUS, str(sanity), str(tmp_path)],
        check=True,
        cwd=root,
        timeout=200,
    )
    started, finished = {}, {}
    for path in (tmp_path / "sanity/events").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            if event["event"] in ("trial_started", "trial_finished"):
                into = started if event["event"] == "trial_started" else finished
                into[tuple(event["key"].values())] = (event["time"], path.name)
    assert len(started) == len(finished) == 40
    assert len({file for _, file in started.values()}) == 8, "trial worker processes"
    moments = [(time, 1) for time, _ in started.values()] + [(t, -1) for t, _ in finished.values()]
    running = highest = 0
    for _, change in sorted(moments):
        running += change
        highest = max(highest, running)
    assert highest == 8
