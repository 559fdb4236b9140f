"""Layer configs of a run: fitted to the dataset, or made from a regular expression and frozen."""

import json

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from lorasweep import cli
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.sweep.report.facts import reproduce_command
from lorasweep.sweep.store.sweep_file import read_sweep_file
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.zoo.random.sd15 import matrix_column
from tests.conftest import NAMES

SMALL = ["--representations", "stats", "--num-runs", "1", "--epochs", "2", "--hidden-dim", "8"]
SMALL += ["--save-models", "none"]
QUIET = ["--log-to", "none", "--no-dashboard"]


def invoke(*args):
    given = list(map(str, args))
    result = CliRunner().invoke(cli.app, given, prog_name="lorasweep", catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def run(local_ray, tmp_path):
    """Run a small sweep of a dataset; returns what it said."""

    def run(dataset, *options):
        return invoke(
            "run", "--dataset", dataset, "--name", "run", "--output-dir", tmp_path,
            "--cache-dir", tmp_path / "cache", *SMALL, *QUIET, *options,
        )  # fmt: skip

    return run


def grid_of(run_dir):
    return list(read_sweep_file(run_dir).grid.configs)


@pytest.mark.long
def test_a_regular_expression_is_frozen_and_another_is_another_config(run, make_dataset, tmp_path):
    run_dir = tmp_path / "run"
    regex = ["--config-regex", r"first=attn1\.to_q$"]
    assert "3 run, 0 failed" in run(make_dataset(), *regex)
    assert grid_of(run_dir) == ["all_layers", "visual_only", "first"]
    frozen = json.loads(RunDir(run_dir).sweep.read_text())["declared"]["configs"]["first"]
    assert frozen["regex"] == r"attn1\.to_q$"
    assert frozen["tensors"] == sorted(n for n in NAMES if ".attn1." in n)
    assert r"--config-regex 'first=attn1\.to_q$'" in reproduce_command(read_sweep_file(run_dir))
    before = read_sweep_file(run_dir).fingerprints

    # Restored without being typed again.
    (lost,) = (path for path in RunDir(run_dir).records() if path.parts[-3] == "first")
    lost.unlink()
    assert "2 skipped, 1 run, 0 failed" in invoke("restore", run_dir, *QUIET)
    assert read_sweep_file(run_dir).fingerprints == before
    assert not RunDir(run_dir).models.exists()  # as the run was asked

    # Another expression under the same name: its trial is made anew, and no other.
    said = run(make_dataset(), "--config-regex", "first=attn2")
    assert "2 skipped, 1 run, 0 failed" in said
    changed = read_sweep_file(run_dir).fingerprints
    assert {key.config for key in before if before[key] != changed[key]} == {"first"}


def test_only_a_regular_expression(run, make_dataset, tmp_path):
    asked = "--config-regex", "queries=to_q", "--configs", "queries", "--dry-run"
    said = run(make_dataset(), *asked)
    assert "trials: 0 done, 1 to run\n  queries/stats: seeds 42" in said


def test_a_language_model_has_no_visual_only(run, tmp_path):
    rng = np.random.default_rng(0)
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {f"{layer}.lora_A.weight": (2, 6), f"{layer}.lora_B.weight": (4, 2)}
    columns = {
        name: matrix_column(rng.standard_normal((12, *shape)).astype(np.float32))
        for name, shape in tensors.items()
    }
    labels = pa.array(np.arange(12) % 3)
    write_dataset(tmp_path / "llm", pa.table({**columns, "category_label": labels}))
    said = run(tmp_path / "llm", "--dry-run")
    assert "trials: 0 done, 1 to run\n  all_layers/stats: seeds 42" in said
    assert "warning: 2 of 2" not in said
    asked = CliRunner().invoke(
        cli.app,
        ["run", "--dataset", str(tmp_path / "llm"), "--configs", "visual_only", "--name", "other",
         "--output-dir", str(tmp_path), "--cache-dir", str(tmp_path / "cache"), *SMALL],
    )  # fmt: skip
    assert asked.exit_code == 2
    assert "'visual_only' selects none of the 2 layer tensors" in asked.stderr
