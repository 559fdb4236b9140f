"""What a sweep leaves behind in a Python caller's process: nothing."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorasweep.sweep.cluster import session
from lorasweep.sweep.cluster.process_state import bare_loggers, environment

ROOT = Path(__file__).parents[2]

CALLER = """
import json, logging, os, sys, threading
from pathlib import Path
import ray, ray.data, ray.tune

# ray.init() leaves these to every caller.
RAYS_OWN = ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE", "PYTHONBREAKPOINT")

def now():
    ray_loggers = sorted(n for n in logging.root.manager.loggerDict if n.split(".")[0] == "ray")
    return {
        "environment": {n: v for n, v in os.environ.items() if n not in RAYS_OWN},
        "root": [repr(handler) for handler in logging.root.handlers],
        "loggers": {
            name: [repr(logging.getLogger(name).handlers), logging.getLogger(name).propagate]
            for name in ray_loggers
        },
        "bars": ray.data.DataContext.get_current().enable_progress_bars,
    }

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
logging.root.addHandler(logging.NullHandler())
os.environ["MALLOC_ARENA_MAX"] = "3"
before = now()
spec = SweepSpec(sys.argv[1], representations=("stats",), configs=("all_layers",), num_runs=1,
                 settings={"mlp": dict(hidden_dim=8, epochs=2)})
options = RuntimeOptions(Path(sys.argv[2]), cache_dir=Path(sys.argv[2]) / "cache", log_to="none",
                         dashboard=False)
result = run_sweep(spec, options)
assert result.summary["ran"] == 1
after = now()
after["loggers"] = {name: after["loggers"][name] for name in before["loggers"]}
print("COMPARE" + json.dumps([before, after]))
"""


@pytest.mark.long
def test_a_caller_finds_its_process_as_it_was_and_is_told_of_open_ports(sanity, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CALLER, sanity, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    before, after = json.loads(done.stdout.partition("COMPARE")[2])
    for part in before:
        assert set_of(before[part]) ^ set_of(after[part]) == set()
    told = [line for line in done.stdout.splitlines() if "open to other machines" in line]
    assert len(told) == 1
    assert told[0].startswith("warning: Ray was imported before this run")


def test_variables_are_there_during_the_block_only(monkeypatch):
    monkeypatch.setenv("LORASWEEP_A", "mine")
    monkeypatch.setenv("LORASWEEP_B", "mine")
    monkeypatch.delenv("LORASWEEP_C", raising=False)
    before = dict(os.environ)

    def during():
        with environment({"LORASWEEP_A": "1"}, unless_set={"LORASWEEP_B": "2", "LORASWEEP_C": "3"}):
            assert [os.environ[f"LORASWEEP_{name}"] for name in "ABC"] == ["1", "mine", "3"]
            raise KeyError

    with pytest.raises(KeyError):
        during()
    assert dict(os.environ) == before


def test_loggers_get_their_handlers_back():
    parent, child = logging.getLogger("borrowed"), logging.getLogger("borrowed.child")
    handler = logging.NullHandler()
    child.addHandler(handler)
    child.propagate = False
    with bare_loggers("borrowed"):
        assert (child.handlers, child.propagate) == ([], True)
    assert (child.handlers, child.propagate) == ([handler], False)
    assert (parent.handlers, parent.propagate) == ([], True)


def test_ray_still_reads_the_switch_where_it_is_looked_for():
    """Another Ray may do it otherwise."""
    for value, everywhere in (("0", False), ("1", True)):
        script = f"from {session.__name__} import _listens_everywhere; print(_listens_everywhere())"
        found = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**os.environ, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": value},
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout.strip() == str(everywhere)


def set_of(value):
    """Small parts of a value, so that a difference is readable."""
    items = value.items() if isinstance(value, dict) else [value]
    return set(map(repr, items))
