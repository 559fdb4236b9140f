"""A sweep inside a Ray job: `ray job submit -- lorasweep run …`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lorasweep.sweep.request.spec import RuntimeOptions
from tests.faults.chaos import command

ROOT = Path(__file__).parents[2]

JOBS = """
import json, shlex, socket, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient

out, entrypoint = Path(sys.argv[1]), shlex.join(sys.argv[2:])

def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]

cluster = Cluster(initialize_head=True, head_node_args={
    "num_cpus": 2, "include_dashboard": True, "dashboard_port": free_port(),
    "dashboard_agent_listen_port": free_port()})
client = JobSubmissionClient(f"http://{cluster.webui_url}")

def submit():
    deadline = time.monotonic() + 60
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint)
        except RuntimeError:  # the agent is not there yet
            assert time.monotonic() < deadline
            time.sleep(1)

def end_of(job):
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.5)
    print(client.get_job_logs(job))
    return str(client.get_job_status(job))

first = submit()
while not any((out / "run" / "inflight").rglob("seed-*.safetensors")):
    assert not client.get_job_status(first).is_terminal(), client.get_job_logs(first)
    time.sleep(0.2)
client.stop_job(first)
ends = [end_of(first), end_of(submit())]
print("CAME TO " + json.dumps({"ends": ends, "dashboard": cluster.webui_url}))
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_job_joins_its_cluster_and_one_that_was_stopped_is_resumed_by_the_next(sanity, tmp_path):
    sweep = command(
        sanity, tmp_path, "--representations", "matrix_norms", "--configs", "all_layers",
        "--num-runs", "2", "--epochs", "1200", "--patience", "1200",
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", JOBS, str(tmp_path), *sweep],
        cwd=ROOT, capture_output=True, text=True, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    came_to = json.loads(done.stdout.partition("CAME TO ")[2].splitlines()[0])
    assert came_to["ends"] == ["STOPPED", "SUCCEEDED"], done.stdout
    # That of the cluster: a Ray of its own would have none here.
    assert f"dashboard http://{came_to['dashboard']}" in done.stdout
    assert len(list((tmp_path / "run" / "checkpoints").rglob("seed-*.json"))) == 2


@pytest.mark.parametrize(
    ("address", "variable", "cluster"),
    [
        (None, None, None),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        (None, "auto", "auto"),
        (None, "http://10.0.0.1:8265", None),
        ("local", "10.0.0.1:6379", None),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
    ],
)
def test_which_cluster_is_joined(address, variable, cluster, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert RuntimeOptions(address=address).cluster == cluster
