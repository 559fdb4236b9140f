"""Several nodes: Ray's own local cluster, each node with processes of its own."""

import json
import random
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray

from lorasweep import RuntimeOptions
from lorasweep.features.common.errors import UserError
from lorasweep.features.compute import nodes as nodes_module
from lorasweep.features.compute.nodes import Nodes, RequiredPaths, first_missing
from lorasweep.sweep.cluster.capacity import capacity, require_cpu
from lorasweep.sweep.process.signals import interruptible
from lorasweep.trainables.store.trial_key import TrialKey
from tests.cluster.elastic import OPTIONS as ELASTIC
from tests.cluster.elastic import change_nodes, wait_for
from tests.faults.chaos import Chaos, command, compare, read_events, undisturbed

ROOT = Path(__file__).parents[2]
OPTIONS = ["--representations", "matrix_norms", "--configs", "all_layers", "--num-runs", "2"]
OPTIONS += ["--epochs", "2500", "--patience", "2500"]

LOSE_A_NODE = """
import sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from lorasweep import RuntimeOptions, SweepSpec, run_sweep

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


def test_a_path_a_node_does_not_see_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("lorasweep.features.compute.nodes._SEE_SECONDS", 0.1)
    (tmp_path / "there").touch()
    paths = [str(tmp_path / "there"), str(tmp_path / "not-there")]
    assert first_missing(paths) == paths[1]
    assert first_missing(paths[:1]) == ""
    late = tmp_path / "late"
    monkeypatch.setattr("lorasweep.features.compute.nodes._SEE_SECONDS", 30)
    threading.Timer(0.2, late.touch).start()
    assert first_missing([str(late)]) == ""


@pytest.fixture
def impatient(monkeypatch):
    """What takes seconds otherwise."""
    monkeypatch.setattr("lorasweep.features.compute.nodes._SEE_SECONDS", 0.1)
    monkeypatch.setattr("lorasweep.sweep.cluster.capacity._LOOK_SECONDS", 0.05)
    monkeypatch.setattr("lorasweep.sweep.cluster.session._LOOK_SECONDS", 0.05)


JOINED = RuntimeOptions(address="10.0.0.1:6379", cluster_wait=0)


@pytest.mark.usefixtures("local_ray", "impatient")
def test_work_is_refused_where_a_node_does_not_see_its_files(tmp_path):
    nodes = Nodes(lambda line: None)
    shared = RequiredPaths([tmp_path], [tmp_path / "not-there"])
    with (
        interruptible() as interruption,
        pytest.raises(UserError, match=r"does not see .*/not-there: run directory"),
        capacity(JOINED, [nodes], shared, partial(require_cpu, nodes), print, interruption),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("local_ray", "impatient")
def test_work_whose_nodes_have_all_left_says_so_and_ends(tmp_path):
    left, told = threading.Event(), []

    def require():
        if left.is_set():
            raise UserError("Ray has only 0 CPUs")

    nodes = Nodes(lambda line: None, any_hardware=True)
    options = replace(JOINED, cluster_wait=1)

    def work():
        with (
            interruptible() as interruption,
            capacity(options, [nodes], RequiredPaths(), require, told.append, interruption),
        ):
            left.set()
            time.sleep(60)

    with pytest.raises(UserError, match="only 0 CPUs"):
        work()
    assert ["only 0 CPUs" in event.message for event in told] == [True]


@pytest.mark.usefixtures("local_ray", "impatient")
def test_a_worker_that_does_not_see_the_runs_files_hands_its_trial_back(tmp_path):
    from lorasweep.trainables.trial.trial import TrialWorker

    point = {**TrialKey("all_layers", "stats", 42).to_json(), "fingerprint": "f"}
    worker = TrialWorker({"point": point, "job": str(tmp_path / "job.json")})
    for _ in range(2):
        result = worker.step()
        assert result["done"]
        assert result["misplaced"][1:] == ("", "", str(tmp_path / "job.json"))
        assert worker.reset_config({"point": point})


@pytest.mark.usefixtures("local_ray")
def test_a_node_that_does_not_answer_is_left_for_the_next_look(monkeypatch):
    def answer(seconds):
        time.sleep(seconds)
        return seconds

    nodes = ray.nodes()
    assert list(nodes_module._on_each(nodes, answer, 0.0).values()) == [0.0]
    monkeypatch.setattr("lorasweep.features.compute.nodes._ANSWER_SECONDS", 0.5)
    assert nodes_module._on_each(nodes, answer, 60.0) == {}
    assert nodes_module._on_each([{**nodes[0], "NodeID": "ab" * 28}], answer, 0.0) == {}


@pytest.mark.slow
@pytest.mark.parametrize("during", ["features", "trials"])
def test_a_sweep_whose_nodes_have_all_left_ends_after_a_while(during, sanity, tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    options = [*OPTIONS, "--address", cluster.address, "--cluster-wait", "10"]
    begun = {
        "features": lambda: list((tmp_path / "cache").rglob("*.partial")),
        "trials": lambda: list(tmp_path.rglob("inflight/**/seed-*.safetensors")),
    }[during]
    try:
        node = cluster.add_node(num_cpus=1)
        with open(tmp_path / "log", "w") as log:
            driver = subprocess.Popen(
                command(sanity, tmp_path, *options), stdout=log, stderr=subprocess.STDOUT
            )
        wait_for(begun, driver)
        cluster.remove_node(node, allow_graceful=False)
        assert driver.wait(timeout=120) == 2, (tmp_path / "log").read_text()
    finally:
        driver.kill()
        driver.wait()
        cluster.shutdown()
    text = (tmp_path / "log").read_text()
    assert "waiting   up to 10 s, since --cpus-per-trial 1: Ray has only 0 CPUs" in text
    assert "error: --cpus-per-trial 1: Ray has only 0 CPUs" in text.splitlines()[-1]


@pytest.mark.long
def test_nodes_that_join_and_leave_change_no_number(sanity, tmp_path):
    out = tmp_path / "undisturbed"
    undisturbed(command(sanity, out, *ELASTIC), out)
    sweep = command(sanity, tmp_path / "changed", *ELASTIC)
    changes = change_nodes(sweep, tmp_path / "changed", random.Random(0), most=5, mean=4.0)
    assert sum(changes.values()) >= 1
    chaos = Chaos()
    compare(tmp_path / "changed/run", out / "run", chaos)
    assert (chaos.different, chaos.twice) == ([], 0)


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
