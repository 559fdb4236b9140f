"""The README's commands do what it says."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorasweep import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that looks like the repository to the README's commands."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def shell(line: str, folder: Path) -> None:
    """Run a line in a shell, as a reader would."""
    command = f'lorasweep() {{ {sys.executable} {ROOT / "cli.py"} "$@"; }}; set -e; {line}'
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def say(line: str) -> str:
    """What a command says; in this process, whose Ray runs already."""
    words, _, file = line.partition(" > ")
    result = CliRunner().invoke(cli.app, shlex.split(words)[1:], catch_exceptions=False)
    assert result.exit_code == 0, f"{line}\n{result.output}"
    if file:
        Path(file).write_text(result.stdout)
    return result.stdout


def test_the_two_commands_are_make_targets():
    commands = [line.split("#")[0].strip() for line in blocks("bash")[0].splitlines()]
    assert commands == ["make demo", "make test"]
    for target in ("demo", "test"):
        plan = subprocess.run(
            ["make", "--dry-run", "--always-make", target],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert "--constraint constraints.txt" in plan


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_the_commands_run_in_order(folder, monkeypatch):
    monkeypatch.chdir(folder)
    lines = [
        line
        for block in blocks("bash")[1:]
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("lorasweep")
    ]
    assert len(lines) >= 6
    said = {line: say(line) for line in lines}
    first = next(line for line in lines if line.startswith("lorasweep run"))
    assert re.search(r"total +2/2 \(100.0%\)", said[first])
    methods = re.search(r"```text\n(representation.*?)```", README, re.DOTALL)
    assert methods
    for line in methods[1].splitlines():
        assert line.split(" ")[0] in said[first]  # the table's rows, whatever their numbers
    again = next(line for line in lines if line.startswith("lorasweep restore"))
    assert "0 run, 0 failed" in said[again]


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_the_python_example_runs(folder, monkeypatch, capsys):
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 10
    monkeypatch.chdir(folder)
    exec(compile(example, "README.md", "exec"), {})
    assert re.search(r"all_layers +spectral +0\.\d+", capsys.readouterr().out)


def test_the_unattended_recipe_is_one_that_works(folder):
    recipe = next(block for block in blocks("bash") if "nohup" in block)
    match = re.search(r"nohup (lorasweep .*?) > (\S+) 2>&1 &", recipe)
    assert match
    assert "--help" not in match[1]
    shutil.rmtree(folder / "ray_results", ignore_errors=True)
    shell(f"mkdir -p logs; {match[1]} --dry-run > {match[2]} 2>&1", folder)
    assert "180 to run" in (folder / match[2]).read_text()
