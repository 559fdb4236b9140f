"""The marks of Ray's own release tests, for lorasweep and for bare Tune on the same machine."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Run, lorasweep
from lorasweep.trainables.store.run_dir import RunDir

SLEEPING = Path(__file__).with_name("sleeping.py")
TRIALS, STEPS, SECONDS, TOGETHER = 8, 8, 0.5, 2

BARE_TUNE = """
import json, sys, tempfile, time
from pathlib import Path
import ray
from ray import tune

def train(config):
    began, checkpoint = 0, tune.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as folder:
            began = json.loads(Path(folder, "step.json").read_text())
    for step in range(began + 1, {steps} + 1):
        time.sleep({seconds})
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "step.json").write_text(str(step))
            Path(config["marks"], f"{{config['trial']}}").open("a").write(f"{{step}}\\n")
            tune.report({{"step": step}}, checkpoint=tune.Checkpoint.from_directory(folder))

out = Path(sys.argv[1])
ray.init(num_cpus={together}, include_dashboard=False, log_to_driver=False)
folder = str(out / "results" / "marks")
if tune.Tuner.can_restore(folder):
    tuner = tune.Tuner.restore(folder, train, resume_errored=True)
else:
    space = {{"trial": tune.grid_search(list(range({trials}))), "marks": str(out / "marks")}}
    failures = tune.FailureConfig(max_failures=-1)
    tuner = tune.Tuner(train, param_space=space, run_config=tune.RunConfig(
        name="marks", storage_path=str(out / "results"), failure_config=failures, verbose=0))
results = tuner.fit()
assert not results.errors, results.errors
"""


@dataclass(frozen=True)
class Restored:
    """A sweep that was interrupted over and over, until it was complete.

    Attributes:
        seconds: in all, every start included.
        starts: how often it was started.
    """

    seconds: float
    starts: int


def restore_tune(work: Path, seed: int | None) -> Restored:
    """Ray's scenario with bare Tune: a checkpoint every step, `Tuner.restore` after each signal.

    Arguments:
        seed: of the times of the signals; None: there are none.
    """
    out = Path(tempfile.mkdtemp(dir=work))
    (out / "marks").mkdir()
    values = {"steps": STEPS, "seconds": SECONDS, "together": TOGETHER, "trials": TRIALS}
    command = [sys.executable, "-c", BARE_TUNE.format(**values), str(out)]

    def steps() -> list[str]:
        return [step for path in (out / "marks").iterdir() for step in path.read_text().split()]

    return _interrupted(
        command, lambda: len(steps()), lambda: steps().count(str(STEPS)) >= TRIALS, seed
    )


def restore_lorasweep(work: Path, dataset: Path, seed: int | None) -> Restored:
    """The same with lorasweep: the same command again."""
    out = Path(tempfile.mkdtemp(dir=work))
    command = [
        str(Path(sys.executable).with_name("lorasweep")),
        *("run", "--dataset", str(dataset), "--output-dir", str(out), "--name", "marks"),
        *("--cache-dir", str(work / "cache-of-marks"), "--no-dashboard", "--save-models", "none"),
        *("--representations", "stats", "--configs", "all_layers"),
        *("--classifiers", f"{SLEEPING}:Sleeping", "--num-runs", str(TRIALS)),
        *("--set", f"sleeping.steps={STEPS}", "--set", f"sleeping.seconds={SECONDS}"),
        *("--max-concurrent", str(TOGETHER)),
    ]

    def told(kind: str) -> int:
        return sum(event["event"] == kind for event in _events(out / "marks"))

    return _interrupted(
        command,
        lambda: told("trial_started"),
        lambda: told("trial_finished") == TRIALS,
        seed,
    )


def _interrupted(
    command: list[str], progress: Callable[[], int], complete: Callable[[], bool], seed: int | None
) -> Restored:
    """Run a command until its work is complete, with a signal 3 to 5 seconds after each start's
    first progress."""
    rng, began, starts = random.Random(seed), time.perf_counter(), 0
    while not complete():
        starts += 1
        before = progress()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        if seed is not None:
            while process.poll() is None and progress() == before:
                time.sleep(0.05)
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(3, 5))
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        if process.returncode == 2 or starts > 40:
            raise RuntimeError(errors.decode())
    return Restored(time.perf_counter() - began, starts)


def _events(run_dir: Path) -> list[dict]:
    found = []
    for path in RunDir(run_dir).events.glob("*.jsonl"):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return found


@dataclass(frozen=True)
class Bookkeeping:
    """What many trials that only sleep cost.

    Attributes:
        milliseconds: of wall time a trial, besides its sleep.
        kilobytes: by which the driver grew, a trial.
    """

    milliseconds: float
    kilobytes: float


def bookkeeping(work: Path, dataset: Path, trials: int, seconds: float, cpus: int) -> Bookkeeping:
    """Ray's scenario: trials of one result, on CPUs that are there in name only."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": cpus, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        run = lorasweep(
            *("run", "--dataset", dataset, "--output-dir", work / "bookkeeping"),
            *("--name", "marks", "--cache-dir", work / "cache-of-marks"),
            *("--representations", "stats", "--configs", "all_layers"),
            *("--classifiers", f"{SLEEPING}:Sleeping", "--num-runs", trials),
            *("--set", f"sleeping.seconds={seconds}", "--save-models", "none"),
            *("--log-to", "none", "--address", cluster.address),
            watch=True,
        )
    finally:
        cluster.shutdown()
    return _bookkeeping(run, _events(work / "bookkeeping" / "marks"), seconds / cpus)


def _bookkeeping(run: Run, events: list[dict], ideal: float) -> Bookkeeping:
    """Arguments: `ideal`: seconds a trial if it were only sleep."""
    times = sorted(event["time"] for event in events if event["event"] == "trial_finished")
    began = min(event["time"] for event in events if event["event"] == "trial_started")
    sizes = [mb for at, mb in run.driver_mb if times[len(times) // 10] < at < times[-1]]
    return Bookkeeping(
        1e3 * ((times[-1] - began) / len(times) - ideal),
        1024 * (max(sizes) - sizes[0]) / (0.9 * len(times)),
    )
