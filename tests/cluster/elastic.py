"""Nodes join and leave a real sweep's cluster at random; compare it with an undisturbed one.

    python -m tests.cluster.elastic --changes 50 --seed 0 --out DIR

The cluster is Ray's own of several nodes on one machine. It begins with a head that has no CPU, so
that the run has to wait. A node that leaves is killed, whatever it does.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.chaos import ROOT, Chaos, command, compare, phase, undisturbed

_MOST_NODES = 3
_SECONDS = 200.0
"""How long something that must come may take."""


OPTIONS = ["--representations", "stats", "--configs", "all_layers", "--num-runs", "6"]
OPTIONS += ["--epochs", "80", "--patience", "80"]


def change_nodes(
    sweep: list[str], out: Path, rng: random.Random, most: int, mean: float
) -> Counter[str]:
    """Run a sweep on a cluster whose nodes come and go; returns how often what was done when."""
    from ray.cluster_utils import Cluster

    out.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    changes: Counter[str] = Counter()
    nodes: list[Any] = []
    began = time.time()
    with open(out / "log", "w") as log:
        driver = subprocess.Popen(
            [*sweep, "--address", cluster.address], stdout=log, stderr=subprocess.STDOUT, cwd=out
        )
    try:
        wait_for(lambda: "waiting " in (out / "log").read_text(), driver)
        while driver.poll() is None and sum(changes.values()) < most:
            add = len(nodes) < 1 or (len(nodes) < _MOST_NODES and rng.random() < 0.5)
            what = "joins" if add else "leaves"
            changes[f"{what}, {phase(out / 'run', began)}"] += 1
            if add:
                nodes.append(cluster.add_node(num_cpus=1))
            else:
                victim = nodes.pop(rng.randrange(len(nodes)))
                cluster.remove_node(victim, allow_graceful=False)
            try:
                driver.wait(timeout=rng.expovariate(1 / mean))
            except subprocess.TimeoutExpired:
                continue
        if not nodes:
            cluster.add_node(num_cpus=1)
        code = driver.wait(timeout=_SECONDS)
    finally:
        driver.kill()
        driver.wait()
        cluster.shutdown()
    if code:
        raise RuntimeError(f"exit code {code}: {(out / 'log').read_text()}")
    return changes


def wait_for(
    condition: Callable[[], bool], driver: subprocess.Popen, seconds: float = _SECONDS
) -> None:
    """Wait for a condition; raises if the driver ends before, or the time is up."""
    deadline = time.monotonic() + seconds
    while not condition():
        if driver.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the driver ended, or took too long")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--mean", type=float, default=8.0, help="mean seconds between changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    dataset = ROOT / "examples/digits-zoo"
    reference = given.out / "undisturbed"
    undisturbed(command(dataset, reference, *OPTIONS), reference)
    total, chaos, number = Counter[str](), Chaos(), 0
    while sum(total.values()) < given.changes:
        out = given.out / f"round-{number}"
        rng = random.Random(f"{given.seed}-{number}")
        left = given.changes - sum(total.values())
        total += change_nodes(command(dataset, out, *OPTIONS), out, rng, left, given.mean)
        compare(out / "run", reference / "run", chaos)
        number += 1
        print(f"round {number}: {sum(total.values())} changes by now", flush=True)
    for what, count in total.most_common():
        print(f"{count:5}  {what}")
    print(f"{chaos.twice} trials finished twice, {len(chaos.different)} differences")
    sys.exit(bool(chaos.twice or chaos.different))


if __name__ == "__main__":
    main()
