"""Small sweeps that many tests only read or copy."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
from lorasweep.cli import app

ZOO = Path(__file__).parents[2] / "examples" / "digits-zoo"


@pytest.fixture(scope="session")
def zoo_run(local_ray, tmp_path_factory):
    """Run directory: 3 representations × 2 configs × 4 seeds, briefly trained."""
    root = tmp_path_factory.mktemp("zoo")
    spec = SweepSpec(
        str(ZOO),
        representations=("stats", "matrix_norms", "info_theoretic"),
        num_runs=4,
        settings={"mlp": dict(hidden_dim=128, dropout=0.2, lr=3e-3, epochs=25, patience=6)},
    )
    return run_sweep(
        spec, RuntimeOptions(root / "results", cache_dir=root / "cache", save_models="none")
    ).run_dir


@pytest.fixture(scope="session")
def zoo_report(zoo_run, tmp_path_factory):
    """The report folder of `zoo_run`, written by the command."""
    out = tmp_path_factory.mktemp("written") / "report"
    result = CliRunner().invoke(
        app, ["report", str(zoo_run), "--out", str(out), "--formats", "png"]
    )
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == str(out / "report.html")
    return out
