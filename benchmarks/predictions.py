"""Models for the benchmark of `lorasweep predict`."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import lorasweep

PAIRS = (("ensemble", "mlp"), ("update_sketch:128", "linear"), ("update_pca:64", "linear"))
"""The nine of every tensor; of every layer; of whole adapters."""


def train_models(adapters: Path, work: Path) -> Path:
    """A run directory with a model of every pair, of adapters in folders by class."""
    dataset, run_dir = work / "imported", work / "runs" / "predict"
    lorasweep("data", "import", adapters, dataset)
    lorasweep(
        *("run", "--dataset", dataset, "--output-dir", run_dir.parent, "--name", run_dir.name),
        *("--cache-dir", work / "cache", "--configs", "all_layers", "--num-runs", 1),
        *("--pairs", ",".join(map(":".join, PAIRS)), "--epochs", 3, "--save-models", "all"),
        *("--log-to", "none", "--no-dashboard"),
    )
    return run_dir
