"""What a batch system gives of a machine."""

import os
import subprocess
import sys

import pytest

from lorasweep.sweep.process.machine import machine_memory, usable_cores


def test_cores_are_those_the_process_may_run_on():
    assert usable_cores() == len(os.sched_getaffinity(0))
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from lorasweep.sweep.process.machine import usable_cores; print(usable_cores())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "1\n"


@pytest.mark.parametrize(
    ("own", "limits", "lowest"),
    [
        ("0::/slurm/job_7/step_0\n", {"memory.max": "max", "slurm/job_7/memory.max": "4096"}, 4096),
        ("0::/slurm/job_7/step_0\n", {"slurm/memory.max": "8192", "memory.max": "5000"}, 5000),
        ("0::/slurm/job_7\n", {"slurm/job_7/memory.max": "max"}, None),
        (
            "5:cpu:/\n4:memory:/slurm/job_7\n",
            {"memory/slurm/job_7/memory.limit_in_bytes": "4096"},
            4096,
        ),
        ("0::/not/mounted/here\n", {"memory.max": "6000"}, 6000),
        ("", {"memory/memory.limit_in_bytes": "7000"}, 7000),
    ],
)
def test_the_lowest_limit_of_all_control_groups_counts(tmp_path, own, limits, lowest):
    (tmp_path / "own").write_text(own)
    for name, value in limits.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")
    found = machine_memory(tmp_path / "cgroup", tmp_path / "own")
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found == (lowest or whole)


@pytest.mark.long
def test_ray_is_given_no_more_cores_than_the_process(tmp_path):
    """In a process of its own, since Ray may run in this one."""
    code = f"""
import os
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
from pathlib import Path
from lorasweep import RuntimeOptions
from lorasweep.sweep.cluster.session import ray_session
from lorasweep.sweep.process.signals import interruptible
options, logs = RuntimeOptions(dashboard=False), Path({str(tmp_path)!r})
with interruptible() as interruption, ray_session(options, logs, "name", interruption, print):
    import ray
    print(int(ray.cluster_resources()["CPU"]))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "1"
