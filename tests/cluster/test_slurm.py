"""The scripts of deploy/slurm on a real SLURM of two nodes on this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorasweep.zoo.random.sanity import make_sanity
from tests.faults.chaos import read_events, records, results_without_times, undisturbed
from tests.programs import require_program

from .slurm import PROGRAMS, Slurm, slurm

ROOT = Path(__file__).parents[2]
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


# Signals at every moment, with programs that only wait


PROGRAM = {
    "lorasweep": """trap 'exit 130' TERM; touch started; while :; do sleep 0.05; done""",
    "scontrol": """case "$1 $2" in
        requeue*) touch queued-again ;;
        *hostnames) printf 'n1\\nn2\\n' ;;
        *job) echo "JobId=7 PreemptTime=$(cat preempt)" ;;
    esac""",
    "scancel": """kill -TERM $(cat steps) 2> /dev/null""",
    "python3": "echo 127.0.0.1 1 2 3",
    "srun": """while [[ $1 == --* ]]; do shift; done; echo $$ >> steps; exec "$@\"""",
    "ray": """case $1 in
        status) [ -e answers ] ;;
        start) touch head; until [ -e end ]; do sleep 0.05; done ;;
    esac""",
    "mkdir": """[ ! -e early ] || { kill -USR1 $PPID; sleep 0.2; }; exec /bin/mkdir "$@\"""",
}


@pytest.fixture
def job(tmp_path):
    """Starts a script as SLURM does, where its and Ray's programs do nothing."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, script in PROGRAM.items():
        (programs / name).write_text(f"#!/bin/bash\n{script}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "preempt").write_text("None")
    started = []

    def start(script):
        started.append(
            subprocess.Popen(
                ["bash", SCRIPTS / script],
                cwd=tmp_path,
                env={
                    "PATH": f"{programs}:/usr/bin:/bin",
                    "SLURM_JOB_ID": f"test-{os.getpid()}",
                    "SLURM_CPUS_PER_TASK": "1",
                    "SLURM_JOB_NODELIST": "n[1-2]",
                },
            )
        )
        return started[0]

    yield start
    for each in started:
        each.kill()
        each.wait()


def appears(path, seconds=30):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.mark.parametrize("script", ["one-node.sbatch", "many-nodes.sbatch"])
@pytest.mark.parametrize(
    ("number", "preempted", "again"),
    [
        (signal.SIGUSR1, "None", True),  # near the time limit
        (signal.SIGTERM, "None", False),  # cancelled
        (signal.SIGTERM, "2026-01-01T00:00:00", True),
    ],
)
def test_which_signals_queue_a_job_again(script, number, preempted, again, job, tmp_path):
    (tmp_path / "preempt").write_text(preempted)
    (tmp_path / "answers").touch()
    running = job(script)
    appears(tmp_path / "started")
    running.send_signal(number)
    (tmp_path / "end").touch()
    assert running.wait(timeout=60) == 130
    assert (tmp_path / "queued-again").exists() == again


def test_a_signal_before_the_sweep_has_started_is_not_lost(job, tmp_path):
    (tmp_path / "early").touch()
    assert job("one-node.sbatch").wait(timeout=60) == 130
    assert (tmp_path / "queued-again").exists()
    assert not (tmp_path / "started").exists()


def test_a_signal_while_the_head_is_waited_for_is_not_lost(job, tmp_path):
    running = job("many-nodes.sbatch")
    appears(tmp_path / "head")
    running.send_signal(signal.SIGUSR1)
    (tmp_path / "end").touch()
    assert running.wait(timeout=60) == 130
    assert (tmp_path / "queued-again").exists()
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("answers", [True, False])
def test_a_head_that_ends_queues_the_job_again_if_it_ever_was_there(answers, job, tmp_path):
    if answers:
        (tmp_path / "answers").touch()
    running = job("many-nodes.sbatch")
    appears(tmp_path / ("started" if answers else "head"))
    (tmp_path / "end").touch()
    assert running.wait(timeout=60) == (130 if answers else 1)
    assert (tmp_path / "queued-again").exists() == answers


# On SLURM itself


@pytest.mark.long
@pytest.mark.timeout(1200)  # SLURM alone waits for two minutes before it starts a job again
def test_a_job_that_is_queued_again_in_mid_trial_goes_on(cluster, dataset, reference, tmp_path):
    job = submit(cluster, "one-node.sbatch", dataset, tmp_path)
    wait_for_slice(tmp_path / "run")
    cluster.run("scontrol", "requeue", job)
    cluster.wait_for(job, "COMPLETED", "FAILED", seconds=600)
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
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("warned", [False, True], ids=["SIGTERM", "send_user_signal"])
def test_a_preempted_job_stops_and_is_queued_again(warned, cluster, dataset, reference, tmp_path):
    if warned:
        cluster.send_user_signal()
    job = submit(cluster, "one-node.sbatch", dataset, tmp_path)
    wait_for_slice(tmp_path / "run")
    urgent = tmp_path / "urgent"
    urgent.write_text("#!/bin/bash\nsleep 10\n")
    other = cluster.submit(
        urgent, options=("--partition=urgent", "--nodes=2", f"--output={tmp_path}/urgent.log")
    )
    cluster.wait_for(other, "COMPLETED", seconds=120)
    assert cluster.state(job) == "PENDING"
    cluster.wait_for(job, "COMPLETED", "FAILED", seconds=600)
    log = check(cluster, job, tmp_path, reference)
    assert "interrupted" in log  # and not killed when its minute was over


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
