import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorasweep.features.common.errors import UserError
from lorasweep.sweep.engine.packing import trial_resources
from lorasweep.sweep.request.spec import RuntimeOptions
from lorasweep.trainables.classifiers.base import DataSize
from lorasweep.trainables.classifiers.catalogue import CLASSIFIERS
from lorasweep.trainables.classifiers.mlp_training import Training
from tests.unit.test_training import toy_data


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
    resources = trial_resources(RuntimeOptions(**options), [available])
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
        trial_resources(RuntimeOptions(**options), [available])


CPUS, GPUS = [{"CPU": 2.0}] * 4, [{"CPU": 8.0, "GPU": 1.0}] * 4


@pytest.mark.parametrize(
    ("options", "nodes", "expected"),
    [
        ({"cpus_per_trial": 2}, CPUS, (2, 0.0, 4)),
        ({"cpus_per_trial": 3}, [{"CPU": 5.0}] * 4, (3, 0.0, 4)),
        ({"gpus_per_trial": 0.4}, GPUS, (1, 0.4, 8)),
        ({}, [*GPUS, *CPUS], (1, 0.125, 32)),
        ({"cpus_per_trial": 4}, CPUS, "Ray has only 2 CPUs on a node"),
        ({"gpus_per_trial": 2.0}, GPUS, "Ray has only 1 GPUs on a node"),
        (
            {"cpus_per_trial": 4, "gpus_per_trial": 1.0},
            [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 8.0}],
            "no node with both 4 CPUs and 1 GPUs",
        ),
        ({}, [], "Ray has only 0 CPUs"),
    ],
)
def test_a_trial_fits_on_one_node(options, nodes, expected):
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            trial_resources(RuntimeOptions(**options), nodes)
    else:
        resources = trial_resources(RuntimeOptions(**options), nodes)
        assert (resources.cpus, resources.gpus, resources.slots) == expected


LOGICAL_GPUS = """
import sys
from pathlib import Path
import ray
from lorasweep import RuntimeOptions, SweepSpec, run_sweep

dataset, out = sys.argv[1:]
ray.init("local", num_cpus=8, num_gpus=2, include_dashboard=False, log_to_driver=False)
result = run_sweep(
    SweepSpec(dataset, representations=("stats", "matrix_norms"), num_runs=10,
              settings={"mlp": dict(hidden_dim=32, epochs=150, patience=150)}),
    RuntimeOptions(output_dir=Path(out), cache_dir=Path(out) / "cache", gpus_per_trial=0.25),
)
assert result.summary["ran"] == 40, result.summary
"""


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("available", "trial_gb", "gpu_gb", "expected"),
    [
        ({"CPU": 16.0, "GPU": 1.0}, 20, 80, (0.25, 4)),  # memory decides
        ({"CPU": 16.0, "GPU": 1.0}, 30, 80, (0.5, 2)),
        ({"CPU": 16.0, "GPU": 1.0}, 50, 80, (1.0, 1)),
        ({"CPU": 16.0, "GPU": 1.0}, 200, 80, (1.0, 1)),  # will be told when it fails
        ({"CPU": 3.0, "GPU": 1.0}, 1, 80, (0.3333, 3)),  # the cores that feed it decide
        ({"CPU": 64.0, "GPU": 4.0}, 1, 80, (0.125, 32)),
        ({"CPU": 64.0, "GPU": 4.0}, 1, None, (0.125, 32)),  # logical GPUs
    ],
)
def test_automatic_packing_by_memory_and_cores(available, trial_gb, gpu_gb, expected):
    gpu_bytes = gpu_gb and gpu_gb << 30
    resources = trial_resources(RuntimeOptions(), [available], trial_gb << 30, gpu_bytes)
    assert (resources.gpus, resources.slots) == expected


def test_the_footprint_counts_what_a_trial_holds():
    mlp = CLASSIFIERS["mlp"]
    small, wide = (
        mlp.device_bytes(DataSize(50_000, width, 10), mlp.Settings()) for width in (640, 8576)
    )
    matrix = 50_000 * 4 * (8576 - 640)
    weights = 5 * 4 * 512 * (8576 - 640)
    assert wide - small == matrix + weights + 8192 * 4 * (8576 - 640)
    training = Training(toy_data(), mlp.Settings(hidden_dim=64), seed=0)
    tensors = [*training.model.parameters(), *training.optimizer.tensors().values()]
    tensors += [value for value in training.best_state.values() if value.is_floating_point()]
    tensors += [parameter.detach() for parameter in training.model.parameters()]  # gradients
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    own = mlp.device_bytes(DataSize(60, 7, 3), mlp.Settings(hidden_dim=64, batch_size=2))
    assert 0 < own - held < 1.1 * (1 << 30)


STARVING = """
import sys
from pathlib import Path
import ray, torch
import lorasweep.trainables.trial.trial
from lorasweep import RuntimeOptions, SweepSpec, run_sweep

class Starving(lorasweep.trainables.trial.trial.TrialWorker):
    needs = {"stats": 1.0, "simple_stats": 9.0}

    def _begin(self):
        assigned = ray.get_runtime_context().get_assigned_resources()
        share = max(value for name, value in assigned.items() if name.startswith("GPU"))
        if share < self.needs.get(self._key.representation, 0.0):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super()._begin()

lorasweep.trainables.trial.trial.TrialWorker = Starving
dataset, cache, out = sys.argv[1:]
ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
result = run_sweep(
    SweepSpec(dataset, representations=("stats", "simple_stats", "matrix_norms"), num_runs=1,
              configs=("all_layers",), settings={"mlp": dict(hidden_dim=32, epochs=2)}),
    RuntimeOptions(output_dir=Path(out), cache_dir=Path(cache)),
)
assert result.summary["ran"] == 2, result.summary
assert [key.representation for key in result.failed] == ["simple_stats"]
"""


@pytest.mark.long
def test_a_trial_out_of_gpu_memory_gets_twice_the_share_until_there_is_no_more(
    sanity, sanity_cache, tmp_path
):
    done = subprocess.run(
        [sys.executable, "-c", STARVING, str(sanity), str(sanity_cache), str(tmp_path)],
        cwd=Path(__file__).parents[2],
        timeout=200,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "2 trials ran out of GPU memory with 0.5 of a GPU: again with 1" in done.stdout
    run_dir = tmp_path / "sanity"
    asked, ran = [], []
    for folder in sorted((run_dir / "tune").iterdir()):
        note = json.loads((folder / "points.json").read_text())
        asked.append(note["asked"]["gpus"])
        ran.append(sorted(point["representation"] for point in note["points"]))
    assert asked == [0.5, 1.0]
    assert ran[0] == ["matrix_norms", "simple_stats", "stats"]
    assert ran[1] == ["simple_stats", "stats"]
    for path in (run_dir / "failures").rglob("*.json"):
        assert "out of GPU memory with 1 GPU" in path.read_text()


@pytest.mark.usefixtures("local_ray")
def test_a_gpu_that_is_not_assigned_is_not_used(monkeypatch):
    """`--gpus-per-trial 0` on a machine with one: Ray may leave it visible."""
    from lorasweep.trainables.trial.trial_setup import set_up_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert set_up_device(1).type == "cpu"


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: out of memory\nCompile with"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_too_little_gpu_memory_is_known_by_all_its_names(error, is_memory):
    from lorasweep.trainables.trial.trial import _out_of_memory

    assert (_out_of_memory(error) is not None) == is_memory
