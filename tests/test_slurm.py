"""The scripts of deploy/slurm on a real SLURM of two nodes on this machine."""

import os
import sys
import time
from pathlib import Path

import pytest

from zoo.sanity import make_sanity

from .chaos import read_events, records, results_without_times, undisturbed
from .programs import require_program
from .slurm import PROGRAMS, Slurm, slurm

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "deploy/slurm"
SWEEP = (
    *("--representations", "stats,matrix_norms", "--configs", "all_layers", "--num-runs", "3"),
    *("--epochs", "9000", "--patience", "9000", "--hidden-dim", "16", "--name", "run"),
)
"""Six trials of a minute in all: long enough to be disturbed in one."""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster():
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons need root")
    for name in PROGRAMS:
        require_program(name)
    # Nodes run what this Python does.
    programs = str(Path(sys.executable).parent)
    with slurm() as found:
        found.variables["PATH"] = f"{programs}:{found.variables['PATH']}"
        found.variables["PYTHONPATH"] = str(ROOT)
        yield found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_sanity(tmp_path_factory.mktemp("data") / "sanity", samples=8, classes=3)


@pytest.fixture(scope="module")
def reference(dataset, tmp_path_factory):
    """What the sweep gives where nothing disturbs it."""
    out = tmp_path_factory.mktemp("reference")
    undisturbed([sys.executable, str(ROOT / "cli.py"), "run", *arguments(dataset, out)], out)
    return out / "run"


def arguments(dataset, out):
    return [
        *("--dataset", str(dataset), "--output-dir", str(out), "--cache-dir", str(out / "cache")),
        *("--no-dashboard", *SWEEP),
    ]


def submit(cluster: Slurm, script, dataset, out, *options):
    options = (f"--chdir={out}", "--mem=1000", "--cpus-per-task=1", *options)
    return cluster.submit(SCRIPTS / script, *arguments(dataset, out), options=options)


def wait_for_slice(run_dir, finished=1, seconds=180):
    """Wait until so many trials are finished and another one has saved a slice."""
    deadline = time.monotonic() + seconds
    while True:
        kinds = [e["event"] for e in read_events(run_dir)] if run_dir.exists() else []
        ended = [i for i, kind in enumerate(kinds) if kind == "trial_finished"]
        if len(ended) >= finished and "trial_progress" in kinds[ended[finished - 1] :]:
            return
        assert time.monotonic() < deadline, kinds
        time.sleep(0.2)


def check(cluster, job, out, reference):
    log = (out / f"lorasweep-{job}.log").read_text()
    assert cluster.state(job) == "COMPLETED", log
    assert records(out / "run") == records(reference)
    assert results_without_times(out / "run") == results_without_times(reference)
    assert "Traceback" not in log
    return log


@pytest.mark.long
def test_a_job_that_is_queued_again_in_mid_trial_goes_on(cluster, dataset, reference, tmp_path):
    job = submit(cluster, "one-node.sbatch", dataset, tmp_path)
    wait_for_slice(tmp_path / "run")
    cluster.run("scontrol", "requeue", job)
    cluster.wait_for(job, "COMPLETED", "FAILED", seconds=300)
    check(cluster, job, tmp_path, reference)
    events = read_events(tmp_path / "run")
    assert any(event["event"] == "trial_resumed" for event in events)
    assert not list(Path("/tmp").glob(f"lorasweep-{job}"))


@pytest.mark.slow
def test_a_job_near_its_time_limit_ends_its_slices_and_is_queued_again(
    cluster, dataset, reference, tmp_path
):
    """The limit is a minute from where the trials are, and the warning comes at once."""
    job = submit(cluster, "one-node.sbatch", dataset, tmp_path, "--signal=B:USR1@50", "--time=10")
    wait_for_slice(tmp_path / "run")
    ran = int(cluster.run("squeue", "-h", "-j", job, "-o", "%M").strip().split(":")[0])
    cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={ran + 1}")
    log = tmp_path / f"lorasweep-{job}.log"
    deadline = time.monotonic() + 90
    while "interrupted" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    # The limit stays the job's when it is queued again.
    cluster.wait_for(job, "PENDING", seconds=60)
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    cluster.wait_for(job, "COMPLETED", "FAILED", "TIMEOUT", seconds=400)
    check(cluster, job, tmp_path, reference)


@pytest.mark.slow
def test_a_sweep_on_two_nodes_outlives_one_of_them(cluster, dataset, reference, tmp_path):
    job = submit(
        cluster, "many-nodes.sbatch", dataset, tmp_path, "--nodes=2", "--ntasks-per-node=1"
    )
    wait_for_slice(tmp_path / "run", finished=2)
    cluster.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
    try:
        cluster.wait_for(job, "COMPLETED", "FAILED", "NODE_FAIL", seconds=400)
        check(cluster, job, tmp_path, reference)
    finally:
        cluster.run("scontrol", "update", "NodeName=n2", "State=RESUME", check=False)
