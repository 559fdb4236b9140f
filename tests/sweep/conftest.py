"""A small sweep over the shipped adapters, for whatever is derived from records."""

from pathlib import Path

import pytest

from sweep import RuntimeOptions, SweepSpec, run_sweep
from trainables.hyperparameters import Hyperparameters

ZOO = Path(__file__).parents[2] / "examples" / "digits-zoo"


@pytest.fixture(scope="session")
def zoo_run(local_ray, tmp_path_factory):
    """Run directory: 3 representations × 2 configs × 4 seeds, briefly trained."""
    root = tmp_path_factory.mktemp("zoo")
    spec = SweepSpec(
        str(ZOO),
        representations=("stats", "matrix_norms", "info_theoretic"),
        num_runs=4,
        hyper=Hyperparameters(hidden_dim=128, dropout=0.2, lr=3e-3, epochs=25, patience=6),
    )
    return run_sweep(spec, RuntimeOptions(root / "results", cache_dir=root / "cache")).run_dir
