"""A run's work is done on one kind of device and processor."""

import json
import re
import shutil
import subprocess
import time
from dataclasses import replace

import pytest
import torch

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import sign, write_json
from lorasweep.features.common.hardware import CPU, Hardware, hardware_of, same_origin
from lorasweep.features.compute.nodes import Node, Nodes
from lorasweep.trainables.store.run_dir import RunDir
from tests.faults.chaos import Chaos, command, compare, undisturbed

OPTIONS = ["--representations", "matrix_norms", "--configs", "all_layers", "--num-runs", "4"]
EPOCHS = {"before the features": "500", "during the trials": "2500"}


def test_a_kind_that_says_less_fits_more():
    avx2 = Hardware(CPU, "AVX2")
    assert all(kind.fits(avx2) for kind in (Hardware(), Hardware(CPU), avx2))
    assert not Hardware(CPU, "AVX512").fits(avx2)
    assert not Hardware("NVIDIA H100", "AVX2").fits(avx2)


def test_whose_processor_it_is_counts_where_both_say_it():
    """MKL chooses its code by that, too; earlier versions' records and caches do not say it."""
    amd, intel, old = (
        Hardware(CPU, f"AVX2{of}") for of in (" (AuthenticAMD)", " (GenuineIntel)", "")
    )
    assert not amd.fits(intel)
    assert all(one.fits(other) for one, other in ((amd, old), (old, amd), (amd, amd)))
    before = {"torch": "2.9", "features": {"stats": {"instructions": "AVX2"}}}
    now = {"torch": "2.9", "features": {"stats": {"instructions": "AVX2 (AuthenticAMD)"}}}
    assert same_origin(before, now)
    assert not same_origin(before, {**now, "torch": "3"})
    assert not same_origin({}, now)
    assert re.fullmatch(r".+ \(.+\)", hardware_of(torch.device("cpu")).instructions)


@pytest.fixture
def four_nodes(monkeypatch):
    """Three nodes with GPUs, of them one of another kind, and one without."""
    have = {
        "a": (Hardware("H100", "AVX512"), {"CPU": 8.0, "GPU": 2.0}),
        "b": (Hardware("A100", "AVX512"), {"CPU": 8.0, "GPU": 1.0}),
        "c": (Hardware("H100", "AVX2"), {"CPU": 8.0, "GPU": 4.0}),
        "d": (Hardware(CPU, "AVX512"), {"CPU": 16.0}),
    }
    alive = [
        {"NodeID": name, "NodeManagerHostname": f"host-{name}", "Resources": resources}
        for name, (_, resources) in have.items()
    ]
    monkeypatch.setattr("lorasweep.features.compute.nodes._alive", lambda: alive)
    monkeypatch.setattr(
        "lorasweep.features.compute.nodes._ask",
        lambda nodes: {
            node["NodeID"]: Node(have[node["NodeID"]][0], 80 if "GPU" in node["Resources"] else 0)
            for node in nodes
        },
    )
    return alive


def test_work_goes_to_the_kind_that_most_nodes_have(four_nodes):
    said = []
    nodes = Nodes(said.append)
    nodes.look()
    assert (nodes.hardware, set(nodes.refused)) == (Hardware("H100", "AVX512"), {"b", "c"})
    assert nodes.resources() == {"CPU": 24.0, "GPU": 2.0}
    assert nodes.selector() == {"ray.io/node-id": "!in(b,c)"}
    assert nodes.stage_hardware(on_gpus=False) == Hardware(CPU, "AVX512")
    assert [re.findall(r"host-\w", line) for line in said] == [["host-b"], ["host-c"]]
    nodes.look()
    assert len(said) == 2


def test_work_stays_with_the_kind_it_began_on(four_nodes):
    nodes = Nodes(lambda line: None, instructions="AVX2", gpu="H100")
    nodes.look()
    assert set(nodes.refused) == {"a", "b", "d"}


def test_a_node_that_does_not_see_the_files_takes_no_part(four_nodes, monkeypatch):
    unseen = {"a": "/shared", "b": "", "d": ""}  # c does not answer
    asked = []

    def look(nodes, shared):
        asked.append([node["NodeID"] for node in nodes])
        return {node["NodeID"]: unseen[node["NodeID"]] for node in nodes if node["NodeID"] != "c"}

    monkeypatch.setattr("lorasweep.features.compute.nodes._unseen_on", look)
    said = []
    nodes = Nodes(said.append, any_hardware=True)
    nodes.look()
    nodes.look()
    assert asked == [["a", "b", "c", "d"], ["c"]]
    assert nodes.selector() == {"ray.io/node-id": "!in(a)"}
    assert nodes.resources() == {"CPU": 32.0, "GPU": 5.0}
    assert said == ["node host-a does not see /shared: it takes no part"]
    with pytest.raises(UserError, match="node host-a does not see /shared"):
        nodes.require_shared()
    nodes.misplaced("b", "", "", "/cache")
    assert set(nodes.nodes_without_files) == {"a", "b"}


def test_work_on_a_cluster_that_was_joined_may_come_to_be_on_several_nodes(four_nodes, monkeypatch):
    monkeypatch.setattr("lorasweep.features.compute.nodes._alive", lambda: four_nodes[:1])
    assert not Nodes().several()
    assert Nodes(joined=True).several()


def test_any_kind_refuses_nobody(four_nodes):
    nodes = Nodes(lambda line: None, any_hardware=True)
    nodes.look()
    nodes.refuse("a", Hardware("other", "other"))
    assert (nodes.refused, nodes.selector(), nodes.stage_hardware(on_gpus=True)) == (
        {},
        {},
        Hardware(),
    )


@pytest.mark.parametrize(
    "lacking", ["trials", pytest.param("features and trials", marks=pytest.mark.long)]
)
def test_a_run_goes_on_where_it_began_unless_told_otherwise(
    lacking, sanity, sanity_cache, sanity_run, tmp_path
):
    shutil.copytree(sanity_run.run_dir, tmp_path / "run")
    own = RunDir(tmp_path / "run")
    for path in own.path.rglob("seed-*.json"):
        record = json.loads(path.read_text())
        record.pop("checksum")
        record["environment"]["instructions"] = "of another processor"
        write_json(path, sign(record))
    spec = SweepSpec(
        str(sanity),
        representations=("stats", "matrix_norms"),
        num_runs=3,
        settings={"mlp": dict(hidden_dim=16, epochs=3)},
    )
    cache = tmp_path / "cache" if "features" in lacking else sanity_cache
    options = RuntimeOptions(
        tmp_path, name="run", cache_dir=cache, log_to="none", save_models="none"
    )
    with pytest.raises(UserError, match=r"of another processor.*--any-device"):
        run_sweep(spec, options)
    assert run_sweep(spec, replace(options, any_device=True)).summary["failed"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("joins", EPOCHS)
def test_nodes_of_another_kind_take_no_part(joins, sanity, tmp_path):
    from ray.cluster_utils import Cluster

    options = [*OPTIONS, "--epochs", EPOCHS[joins], "--patience", EPOCHS[joins]]
    out = tmp_path / "undisturbed"
    undisturbed(command(sanity, out, *options), out)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1)
        other = {"num_cpus": 1, "env_vars": {"ATEN_CPU_CAPABILITY": "default"}}
        out = tmp_path / "mixed"
        run_dir = out / "run"
        if joins == "before the features":
            cluster.add_node(**other)
            # So that most are of the kind that the undisturbed run has.
            cluster.add_node(num_cpus=1)
        out.mkdir()
        driver = subprocess.Popen(
            [*command(sanity, out, *options), "--address", cluster.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=out,
        )
        if joins == "during the trials":
            while not list(RunDir(run_dir).path.rglob("inflight/**/*.safetensors")):
                assert driver.poll() is None
                time.sleep(0.1)
            cluster.add_node(**other)
        said, _ = driver.communicate(timeout=300)
    finally:
        cluster.shutdown()
    assert driver.returncode == 0, said
    assert "takes no part" in said
    chaos = Chaos()
    compare(run_dir, tmp_path / "undisturbed" / "run", chaos)
    assert (chaos.different, chaos.twice) == ([], 0)
