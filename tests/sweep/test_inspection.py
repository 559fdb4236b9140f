"""`lorasweep inspect`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli

from .test_imports import BLOCK, WEIGHTS, adapter, classes, damaged

ROOT = Path(__file__).parents[2]


def inspect(*arguments):
    result = CliRunner().invoke(cli.app, ["inspect", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_an_adapter_file(tmp_path):
    adapter(tmp_path / WEIGHTS, bad=f"{BLOCK}.attn1.to_q", header={"ss_tag": "cat"})
    for path in (tmp_path, tmp_path / WEIGHTS):
        found = inspect(path)
        assert found["kind"] == "adapter"
        assert (found["format"], found["base"], found["layers"]) == ("diffusers", "sd-1", 2)
        assert found["components"] == {"unet": 2}
        assert found["ranks"] == {"2": 2}
        assert found["alphas"] == {"3": 2}
        assert found["scales"] == {"1.5": 2}
        assert found["bad_numbers"] == [f"{BLOCK}.attn1.to_q"]
        assert found["header"] == {"ss_tag": "cat"}
        assert found["shapes"][f"{BLOCK}.attn2.to_k"] == [8, 768, 2]


def test_a_folder_of_adapters(tmp_path):
    classes(tmp_path)
    names = damaged(tmp_path)
    found = inspect(tmp_path)
    assert (found["kind"], found["adapters"], found["bases"]) == ("adapters", 5, {"sd-1": 5})
    assert found["folders"] == {"dogs": 3, "cats": 2}
    assert len(found["bad"]) == len(names)


def test_a_dataset_and_one_without_labels(make_dataset):
    found = inspect(make_dataset())
    assert (found["kind"], found["adapters"], found["layers"]) == ("dataset", 12, 2)
    assert found["labels"] == {"0": 4, "1": 4, "2": 4}
    assert found["ranks"] == {"2": 2}
    assert found["bad_rows"] == []
    assert inspect(make_dataset("b"), "--label-column", "x")["label_column"] is None


def test_a_run_directory(tmp_path):
    shutil.copytree(ROOT / "tests" / "data" / "run-0.1", tmp_path / "run")
    assert inspect(tmp_path / "run")["kind"] == "run"


def test_text_is_for_people(tmp_path):
    adapter(tmp_path / WEIGHTS)
    result = CliRunner().invoke(cli.app, ["inspect", str(tmp_path)])
    assert "base         sd-1" in result.stdout.splitlines()


@pytest.mark.parametrize("content", [b"", b"no adapter"])
def test_what_is_nothing_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    (tmp_path / "empty").mkdir()
    for given in (path, tmp_path / "empty", tmp_path / "nowhere"):
        result = CliRunner().invoke(cli.app, ["inspect", str(given)])
        assert result.exit_code == 2, result.output
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_file_is_looked_at_without_torch_or_ray(tmp_path):
    adapter(tmp_path / WEIGHTS)
    script = (
        "import sys; from sweep.inspection import inspect_path; from pathlib import Path\n"
        "inspect_path(sys.argv[1], 'x', None, Path('x'))\n"
        "assert not {'torch', 'ray', 'datasets', 'pandas', 'scipy'} & sys.modules.keys()\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
