"""A sweep from a YAML file, and what is typed beside it."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasweep import RuntimeOptions, SweepSpec, cli
from lorasweep.features.common.errors import UserError
from lorasweep.sweep.request.options import flag_of, options_of
from lorasweep.sweep.request.spec import QUICK_ANSWER, assigned, merged
from lorasweep.sweep.request.yaml_file import read_yaml, write_yaml
from tests.test_cli import check_refused, invoke

NAMES = st.lists(st.sampled_from(["a", "b", "c:32", "d/pca:4"]), min_size=1, unique=True).map(tuple)


@st.composite
def sweeps(draw):
    both = st.tuples(st.sampled_from(["a", "b:32"]), st.sampled_from(["mlp", "linear"]))
    spec = {
        "dataset": draw(st.text("abc/_-1", min_size=1)),
        "lora_rank": draw(st.none() | st.integers(1, 9)),
        "skip_bad_samples": draw(st.booleans()),
        "num_runs": draw(st.integers(1, 99)),
        "configs": draw(NAMES),
        "settings": draw(st.dictionaries(st.sampled_from(["mlp"]), st.just({"dropout": 0.25}))),
    }
    if draw(st.booleans()):
        spec["pairs"] = draw(st.lists(both, min_size=1).map(tuple))
    else:
        spec |= {"representations": draw(NAMES), "classifiers": draw(NAMES)}
    options = {
        "gpus_per_trial": draw(st.none() | st.sampled_from([0.0, 0.25, 2.0])),
        "cache_dir": draw(st.sampled_from([Path("x"), Path("/y z")])),
        "dashboard": draw(st.booleans()),
        "max_concurrent": draw(st.none() | st.integers(1, 4)),
    }
    return SweepSpec(**spec), RuntimeOptions(**options)


@given(sweeps())
@settings(max_examples=50, deadline=None)
def test_what_is_written_asks_for_the_same(tmp_path_factory, sweep):
    spec, options = sweep
    path = tmp_path_factory.mktemp("yaml") / "sweep.yaml"
    path.write_text(write_yaml(spec, options))
    found = read_yaml(path)
    own = {field.name for field in fields(SweepSpec)}
    assert SweepSpec(**{k: v for k, v in found.items() if k in own}) == spec
    assert RuntimeOptions(**{k: v for k, v in found.items() if k not in own}) == options


def test_every_field_has_an_option_or_a_reason():
    for kind in (SweepSpec, RuntimeOptions):
        assert {f.name for f in fields(kind)} - options_of(kind).keys() <= {"settings"}
    said = invoke("run", "--help").stdout
    for name in {**options_of(SweepSpec), **options_of(RuntimeOptions)}:
        assert flag_of(name) in said


def printed(*words) -> dict:
    result = invoke("run", *words, "--dry-run", "--yaml")
    assert result.returncode == 0, result.stderr
    return yaml.safe_load(result.stdout)


def test_what_is_typed_comes_before_the_file(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "dataset: some/where\nnum-runs: 3\nconfigs: [all_layers]\n"
        "settings: {mlp: {dropout: 0.25, lr: 0.01}}\ngpus_per_trial: 0.5\n"
    )
    assert printed(path)["num_runs"] == 3
    both = printed(path, "--num-runs", "10", "--set", "mlp.lr=0.5", "--gpus-per-trial", "auto")
    assert both["num_runs"] == 10  # the default, but typed
    assert both["configs"] == ["all_layers"]
    assert both["settings"] == {"mlp": {"dropout": 0.25, "lr": 0.5}}
    assert "gpus_per_trial" not in both
    assert printed(path, "--dropout", "0.5")["settings"]["mlp"]["dropout"] == 0.5
    assert printed(path, "--quick", "--dataset", "elsewhere")["dataset"] == "elsewhere"


def test_the_quick_answer_is_its_pairs_with_three_seeds():
    asked = printed("--dataset", "x", "--quick-answer")
    assert asked["pairs"] == [":".join(pair) for pair in QUICK_ANSWER]
    assert asked["num_runs"] == 3
    result = invoke("run", "--dataset", "x", "--quick-answer", "--classifiers", "mlp")
    check_refused(result, "--quick-answer chooses the pairs")


def test_typed_names_come_before_the_files_pairs(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("dataset: x\npairs: stats:linear,spectral/pca:8:mlp\n")
    assert printed(path)["pairs"] == ["stats:linear", "spectral/pca:8:mlp"]
    typed = printed(path, "--representations", "stats")
    assert (typed["representations"], "pairs" in typed) == (["stats"], False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("dataset: x\nnum_run: 3\n", "unknown field 'num_run': did you mean 'num_runs'?"),
        ("dataset: x\nnum_runs: many\n", "num_runs: 'many': need a whole number"),
        ("dataset: x\nskip_bad_samples: maybe\n", "need true or false"),
        ("dataset: x\nconfigs: 3\n", "need names"),
        ("dataset: x\npairs: [stats]\n", "need REPRESENTATION:CLASSIFIER"),
        ("dataset: x\nsettings: {mlp: 3}\n", "need CLASSIFIER, and below it SETTING: VALUE"),
        ("dataset: x\nnum_runs: 0\n", "--num-runs must be at least 1"),
        ("num_runs: 1\n", "no dataset given"),
        ("just a text\n", "need fields like"),
        ("a: [\n", "is no YAML"),
    ],
)
def test_bad_files_get_one_line_and_exit_code_2(content, message, tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(content)
    check_refused(invoke("run", path, "--dry-run", "--yaml"), message)


def test_a_file_that_is_not_there_is_named(tmp_path):
    check_refused(invoke("run", tmp_path / "none.yaml"), "cannot read")
    check_refused(invoke("run", "--dataset", "x", "--yaml"), "--yaml goes with --dry-run")


def test_settings_are_spelled_one_way():
    assert assigned(["mlp.lr=0.5", "mine.word=abc"]) == {
        "mlp": {"lr": 0.5},
        "mine": {"word": "abc"},
    }
    assert merged({"a": {"x": 1, "y": 2}}, {"a": {"x": 3}}) == {"a": {"x": 3, "y": 2}}
    for bad in ("lr=1", "mlp.lr", ".=1"):
        with pytest.raises(UserError, match=r"CLASSIFIER\.SETTING=VALUE"):
            assigned([bad])


def test_the_shell_completes_the_last_name():
    complete = cli._completion(lambda: ["stats", "spectral", "simple_stats"])
    assert complete is not None
    assert complete("s") == ["stats", "spectral", "simple_stats"]
    assert complete("stats,sp") == ["stats,spectral"]
    assert cli._completion(None) is None
