"""The command line as a user meets it."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from lorasweep import cli
from lorasweep.zoo.random.sd15 import matrix_column
from tests.conftest import NAMES, random_matrices

ROOT = Path(__file__).parents[1]
SMALL = ["--representations", "stats", "--num-runs", "1", "--epochs", "2", "--hidden-dim", "8"]


def lorasweep(*args, cwd=ROOT, **kwargs):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, ROOT / "cli.py", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        **kwargs,
    )


def invoke(*args):
    """Run the command in this process: what goes wrong before Ray starts needs no other."""
    given = list(map(str, args))
    result = CliRunner().invoke(cli.app, given, prog_name="lorasweep", catch_exceptions=False)
    return subprocess.CompletedProcess(given, result.exit_code, result.stdout, result.stderr)


def check_refused(result, message):
    assert result.returncode == 2, result.stderr + result.stdout
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "command", [["lorasweep"], [sys.executable, "cli.py"], [sys.executable, "-m", "cli"]]
)
def test_three_ways_to_call_it(command):
    if command == ["lorasweep"]:
        script = Path(sys.executable).with_name("lorasweep")
        if not script.exists():
            pytest.skip("the package is not installed in this environment")
        command = [str(script)]
    outputs = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert outputs.returncode == 0
    assert outputs.stdout == lorasweep("--help").stdout
    assert outputs.stdout.startswith("Usage: lorasweep ")


def test_the_version_is_the_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    result = lorasweep("--version")
    assert result.returncode == 0
    assert result.stdout == f"lorasweep {project['version']}\n"


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "restore",
        "status",
        "dashboard",
        "report",
        "features",
        "layers",
        "inspect",
        "data import",
        "data sanity",
        "data synthetic",
        "data zoo",
    ],
)
def test_every_command_has_help_with_an_example(command):
    result = invoke(*command.split(), "--help")
    assert result.returncode == 0
    assert f"Example: lorasweep {command}" in " ".join(result.stdout.split())


@pytest.mark.parametrize("arguments", ["--version", "--help", "status --help"])
def test_help_imports_nothing_heavy(arguments):
    script = (
        f"import sys; sys.argv = ['lorasweep', *{arguments!r}.split()]\n"
        "from lorasweep import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "assert not {'ray', 'torch', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "no/such/path/x"], "'no/such/path/x' is no existing path"),
        (["--num-runs", "0"], "--num-runs must be at least 1"),
        (["--dropout", "1.5"], "--dropout must be at least 0 and below 1, not 1.5"),
        (["--lr", "nan"], "--lr must be a positive number"),
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--representations", "spectrall"], "did you mean 'spectral'?"),
        (["--representations", ""], "no representation given"),
        (["--representations", "stats,stats"], "'stats' is given twice"),
        (["--configs", "visual"], "did you mean 'visual_only'?"),
        (["--config-regex", "to_q"], "--config-regex 'to_q': need NAME=REGEX"),
        (["--config-regex", "x=("], "is no regular expression"),
        (["--config-regex", "x=to_z"], "is found in no layer's canonical name"),
        (["--label-column", "kind"], "no label column 'kind'"),
        (["--gpus-per-trial", "many"], "neither 'auto' nor a number"),
        (["--gpus-per-trial", "1.5"], "must be a whole number"),
        (["--name", "a/b"], "must be a plain folder name"),
        (["--max-concurrent", "0"], "--max-concurrent must be at least 1"),
        (["--cpus-per-trial", "0"], "--cpus-per-trial must be at least 1"),
        (["--dataset-config", "x"], "--dataset-config is for datasets of the hub"),
    ],
)
def test_bad_options_get_one_line_and_exit_code_2(options, message, sanity, tmp_path):
    given = ["--output-dir", tmp_path / "out", "--cache-dir", tmp_path / "cache", *options]
    if "--dataset" not in options:
        given += ["--dataset", sanity]
    check_refused(invoke("run", *given), message)
    assert not (tmp_path / "out").exists()


def test_bad_datasets_get_one_line_and_exit_code_2(make_dataset, tmp_path):
    matrices = random_matrices()[NAMES[0]]
    matrices[4, 0, 0] = np.nan
    bad = make_dataset("bad", **{NAMES[0]: matrix_column(matrices)})
    common = ["--output-dir", tmp_path / "out", "--cache-dir", tmp_path / "cache"]
    check_refused(invoke("run", "--dataset", bad, *common), f"row 4, column {NAMES[0]}")
    single = make_dataset("single", category_label=pa.array(["x"] * 12))
    check_refused(invoke("run", "--dataset", single, *common), "nothing to classify")
    (tmp_path / "empty").mkdir()
    check_refused(invoke("run", "--dataset", tmp_path / "empty", *common), "is no dataset")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("local_ray")
def test_no_gpus_here_means_none_per_trial(make_dataset, tmp_path):
    result = invoke(
        "run", "--dataset", make_dataset(), "--gpus-per-trial", "100", "--no-dashboard",
        "--output-dir", tmp_path / "out", "--cache-dir", tmp_path / "cache", *SMALL,
    )  # fmt: skip
    check_refused(result, "--gpus-per-trial 100: Ray has only")


def test_a_cluster_that_is_not_there_is_told(make_dataset, tmp_path):
    address = "127.0.0.1:1"
    result = lorasweep(
        "run", "--dataset", make_dataset(), "--address", address,
        "--output-dir", tmp_path / "out", "--cache-dir", tmp_path / "cache", *SMALL,
    )  # fmt: skip
    check_refused(result, f"cannot join the Ray cluster at '{address}'")


def test_unwritable_folders_are_named(sanity, tmp_path):
    (tmp_path / "file").write_text("")
    for option in ("--output-dir", "--cache-dir"):
        other = {"--output-dir": "--cache-dir", "--cache-dir": "--output-dir"}[option]
        result = invoke(
            "run", "--dataset", sanity, option, tmp_path / "file/x", other, tmp_path / "ok", *SMALL
        )
        check_refused(result, f"cannot make {tmp_path / 'file/x'}")
        assert f"; {option} chooses another place" in result.stderr


def test_a_refusal_is_the_same_in_a_process_of_its_own(sanity, tmp_path):
    args = ["run", "--dataset", sanity, "--output-dir", tmp_path / "out", "--configs", "visual"]
    result = lorasweep(*args)
    check_refused(result, "did you mean 'visual_only'?")
    assert (result.stdout, result.stderr) == (invoke(*args).stdout, invoke(*args).stderr)


def test_trials_that_were_not_reached_are_no_success(sanity, tmp_path, monkeypatch, capsys):
    """Tune may end without having run everything."""
    monkeypatch.setattr("lorasweep.sweep.driver.launch.run_trials", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    args = ["--dataset", sanity, "--name", "run", "--log-to", "none", *SMALL]
    for command in (["run", *args], ["restore", "ray_results/run", "--log-to", "none"]):
        with pytest.raises(SystemExit) as end:
            cli.app([str(word) for word in command])
        assert end.value.code == 1
        assert capsys.readouterr().err == "2 trials were not reached: give the same command again\n"


@pytest.mark.parametrize("command", ["status", "restore", "dashboard", "report"])
def test_what_is_no_run_directory_is_refused(command, tmp_path):
    check_refused(invoke(command, tmp_path), "is no run directory")
    check_refused(invoke(command, tmp_path / "nowhere"), "is no run directory")


@pytest.mark.usefixtures("local_ray")
def test_features_json_is_all_there_is_on_stdout(sanity, tmp_path):
    args = ["features", "--dataset", sanity, "--representations", "stats", "--cache-dir", tmp_path]
    first = invoke(*args, "--json")
    report = json.loads(first.stdout)
    assert report["computed"] == ["stats"]
    assert report["adapters"] == 18
    assert report["seconds"] > 0
    assert Path(report["representations"]["stats"]).is_dir()
    again = json.loads(lorasweep(*args, "--json").stdout)
    assert again == {**report, "computed": [], "cached": ["stats"], "seconds": 0.0, "waited": 0.0}


@pytest.mark.slow
def test_an_unattended_run_in_a_log_file_comes_back_and_resumes(sanity, tmp_path):
    """nohup lorasweep run … > log 2>&1 &, then status, restore and a moved dataset."""
    moved = tmp_path / "here"
    shutil.copytree(sanity, moved)
    log = tmp_path / "run.log"
    args = ["run", "--dataset", moved, "--no-dashboard", "--output-dir", tmp_path / "out", *SMALL]
    with open(log, "w") as file:
        process = subprocess.Popen(
            ["nohup", sys.executable, ROOT / "cli.py", *map(str, args)],
            stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=tmp_path,
        )  # fmt: skip
        assert process.wait(timeout=240) == 0
    text = log.read_text()
    assert "\x1b" not in text
    assert "\r" not in text
    assert "Traceback" not in text
    assert "2 run, 0 failed" in text
    assert "total        2/2 (100.0%)" in text
    assert max(map(len, text.splitlines())) < 160

    run_dir = tmp_path / "out" / "here"
    status = lorasweep("status", run_dir, "--json", cwd=tmp_path)
    assert json.loads(status.stdout)["finished"] == 2
    shutil.rmtree(run_dir / "checkpoints/all_layers")
    os.rename(moved, tmp_path / "there")
    lost = lorasweep("restore", run_dir, cwd=tmp_path)
    check_refused(lost, "is no existing path")
    found = lorasweep(
        "restore", run_dir, "--dataset", tmp_path / "there", "--no-dashboard", cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    assert "trials: 1 skipped, 1 run, 0 failed" in found.stdout
    other = lorasweep("restore", run_dir, "--dataset", sanity, cwd=tmp_path)
    assert other.returncode == 0
