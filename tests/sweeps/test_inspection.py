"""`lorasweep inspect`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorasweep import cli

from .test_imports import BLOCK, WEIGHTS, adapter, classes, damaged, run

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


def test_what_lies_beside_an_adapter_file(tmp_path):
    adapter(tmp_path / "cats" / "a" / WEIGHTS, leaf_id=3)
    for path in (tmp_path / "cats" / "a", tmp_path / "cats" / "a" / WEIGHTS):
        found = inspect(path)
        assert (found["folder"], found["metadata"]) == ("cats", {"leaf_id": 3})
    adapter(tmp_path / "cats" / "a" / "checkpoint-1" / WEIGHTS)
    found = inspect(tmp_path / "cats" / "a")
    assert found["adapters"] == 1
    assert "checkpoint-1" in next(iter(found["passed_over"]))


def test_a_folder_of_adapters(tmp_path):
    classes(tmp_path)
    names = damaged(tmp_path)
    (tmp_path / "cats" / "optimizer.pt").touch()
    found = inspect(tmp_path)
    assert (found["alphas"], found["scales"]) == ({"3": 10}, {"1.5": 10})
    assert list(found["passed_over"]) == [str(tmp_path / "cats" / "optimizer.pt")]
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


@pytest.mark.usefixtures("local_ray")
def test_a_dataset_of_adapter_files(tmp_path):
    classes(tmp_path / "in")
    run(tmp_path / "in", out=tmp_path / "out")
    found = inspect(tmp_path / "out")
    assert (found["bases"], found["formats"]) == ({"sd-1": 6}, {"diffusers": 6})
    assert (found["algorithms"], found["scales"]) == ({"lora": 6}, {"1.5": 12})


def test_a_run_directory(tmp_path):
    shutil.copytree(ROOT / "tests" / "data" / "runs-0.1" / "finished", tmp_path / "run")
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
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.safetensors").write_bytes(content)
    nowhere = tmp_path / "nowhere.safetensors"
    for given in (path, tmp_path / "empty", tmp_path / "bad", tmp_path / "nowhere", nowhere):
        result = CliRunner().invoke(cli.app, ["inspect", str(given)])
        assert result.exit_code == 2, result.output
        (line,) = result.stderr.strip().splitlines()
    assert "does not exist" in line


def test_a_file_is_looked_at_without_torch_or_ray(tmp_path):
    adapter(tmp_path / WEIGHTS)
    script = (
        "import sys; from pathlib import Path\n"
        "from lorasweep.sweep.look.inspection import inspect_path\n"
        "inspect_path(sys.argv[1], 'x', None, Path('x'))\n"
        "assert not {'torch', 'ray', 'datasets', 'pandas', 'scipy'} & sys.modules.keys()\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
