"""Use an installed lorasweep in a folder that has its own `features/`, `sweep/`, … and `cli.py`.

    python tests/installed.py FOLDER

FOLDER is made. `.ci/wheel` runs this with the environment of a wheel, outside the checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import files, version
from pathlib import Path

OWN = ("features", "sweep", "trainables", "zoo", "cli.py")

PLUGIN = """
from pathlib import Path
import lorasweep

@lorasweep.representation("row_norms", version=1, values=("mean",))
def row_norms(batch):
    Path({seen!r}).write_text(lorasweep.__file__)  # where this process has lorasweep from
    return batch.matrices.double().norm(dim=2).mean(1, keepdim=True)
"""

IN_PYTHON = """
import sys, time
began = time.perf_counter()
import lorasweep as ls
took = time.perf_counter() - began
assert not {"ray", "torch", "pandas", "sklearn"} & sys.modules.keys()
import features, sweep, trainables, zoo, cli
assert all(module.MINE for module in (features, sweep, trainables, zoo, cli))
spec = ls.SweepSpec("sanity", representations=("stats", "norms.py:row_norms"), num_runs=1)
result = ls.run_sweep(spec, ls.RuntimeOptions(name="python", dashboard=False))
assert result.failed == [], result.failed
assert len(ls.open_run(result.run_dir).trials) == 4
print(f"import lorasweep took {took * 1e3:.1f} ms")
"""

JOINED = """
import subprocess, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
try:
    done = subprocess.run([*sys.argv[1:], "--address", cluster.address])
finally:
    cluster.shutdown()
sys.exit(done.returncode)
"""


def main(folder: Path) -> None:
    """Make the folder and run the command, Python and a joined cluster in it."""
    tops = {file.parts[0] for file in files("lorasweep") or () if file.parts[0] != ".."}
    tops = {top for top in tops if not top.endswith((".dist-info", ".pth"))}
    assert tops in ({"lorasweep"}, set()), tops  # an editable installation has a .pth alone
    folder.mkdir(parents=True)
    for name in OWN:
        path = folder / name if name.endswith(".py") else folder / name / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("MINE = True\n")
    seen = folder / "seen"
    (folder / "norms.py").write_text(PLUGIN.format(seen=str(seen)))

    def call(*command: str) -> str:
        print("$", *command[:5], flush=True)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE)
        output = done.stdout.decode()
        print(output, flush=True)
        assert done.returncode == 0, command
        return output

    program = str(Path(sys.executable).with_name("lorasweep"))
    assert call(program, "--version") == f"lorasweep {version('lorasweep')}\n"
    call(program, "data", "sanity", "sanity", "--samples", "6", "--classes", "3")
    run = [program, "run", "--dataset", "sanity", "--representations", "stats,norms.py:row_norms"]
    run += ["--num-runs", "1", "--no-dashboard"]
    call(*run)
    call(program, "status", "ray_results/sanity")
    call(program, "report", "ray_results/sanity", "--formats", "none")
    assert (folder / "ray_results/sanity/report/report.html").stat().st_size > 0
    call(sys.executable, "-c", IN_PYTHON)

    # Workers of a joined cluster have lorasweep from the driver (`py_modules`).
    seen.unlink()
    call(sys.executable, "-c", JOINED, *run, "--name", "joined", "--cache-dir", "other-cache")
    assert "py_modules" in seen.read_text(), seen.read_text()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
