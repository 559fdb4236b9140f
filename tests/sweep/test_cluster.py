"""Several nodes: Ray's own local cluster, each node with processes of its own."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.engine.session import missing_paths
from tests.chaos import Chaos, command, compare, read_events, undisturbed
from tests.elastic import wait_for

ROOT = Path(__file__).parents[2]
OPTIONS = ["--representations", "matrix_norms", "--configs", "all_layers", "--num-runs", "2"]
OPTIONS += ["--epochs", "2500", "--patience", "2500"]

LOSE_A_NODE = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from sweep import RuntimeOptions, SweepSpec, run_sweep

dataset, out = sys.argv[1], Path(sys.argv[2])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False)

def lose_node():
    # Both trials are in mid-training once both have a slot.
    while len(list(out.rglob("inflight/**/seed-*.safetensors"))) < 2:
        time.sleep(0.1)
    cluster.remove_node(second, allow_graceful=False)

thread = threading.Thread(target=lose_node)
thread.start()
result = run_sweep(
    SweepSpec(dataset, representations=("matrix_norms",), configs=("all_layers",), num_runs=2,
              settings={"mlp": dict(epochs=2500, patience=2500)}),
    RuntimeOptions(output_dir=out, name="run", cache_dir=out / "cache"),
)
thread.join()
assert result.summary["ran"] == 2, result.summary
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_lost_node_costs_its_slices_and_nothing_else(sanity, tmp_path):
    out = tmp_path / "undisturbed"
    undisturbed(command(sanity, out, *OPTIONS), out)
    done = subprocess.run(
        [sys.executable, "-c", LOSE_A_NODE, str(sanity), str(tmp_path / "lost")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run_dir = tmp_path / "lost" / "run"
    chaos = Chaos()
    compare(run_dir, out / "run", chaos)
    assert chaos.different == []
    assert chaos.twice == 0
    resumed = [e for e in read_events(run_dir) if e["event"] == "trial_resumed"]
    assert len(resumed) == 1
    assert json.loads((run_dir / "summary.json").read_text())["failed"] == 0


def test_a_path_a_node_does_not_see_is_found(tmp_path):
    (tmp_path / "there").touch()
    paths = [str(tmp_path / "there"), str(tmp_path / "not-there")]
    assert missing_paths(paths) == paths[1:]


@pytest.mark.slow
def test_a_cluster_that_dies_and_comes_back_is_waited_for(sanity, tmp_path):
    from ray.cluster_utils import Cluster

    out = tmp_path / "undisturbed"
    undisturbed(command(sanity, out, *OPTIONS), out)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    node = {"num_cpus": 1, "gcs_server_port": port, "include_dashboard": False}
    out = tmp_path / "died"
    out.mkdir()
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        with open(out / "log", "w") as log:
            driver = subprocess.Popen(
                [*command(sanity, out, *OPTIONS), "--address", cluster.address],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=out,
            )
        wait_for(lambda: list(out.rglob("inflight/**/seed-*.safetensors")), driver)
        cluster.shutdown()
        wait_for(lambda: "waiting " in (out / "log").read_text(), driver)
        cluster = Cluster(initialize_head=True, head_node_args=node)
        assert driver.wait(timeout=300) == 0, (out / "log").read_text()
    finally:
        driver.kill()
        driver.wait()
        cluster.shutdown()
    chaos = Chaos()
    compare(out / "run", tmp_path / "undisturbed" / "run", chaos)
    assert (chaos.different, chaos.twice) == ([], 0)
