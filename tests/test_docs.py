"""The tables of docs/ are those of what is declared."""

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from lorasweep import cli
from lorasweep.features.layers.configs import CONFIG_NAMES
from lorasweep.features.representations import REPRESENTATIONS
from lorasweep.trainables.classifiers.catalogue import (
    CLASSIFIERS,
    built_in_settings,
    setting_option,
)

DOCS = Path(__file__).parents[1] / "docs"


def rows(name):
    """First cells of every table row, without their backticks."""
    return re.findall(r"^\| `([^`]+)` \|", (DOCS / name).read_text(), re.MULTILINE)


def test_every_representation_and_config_has_a_row():
    found = rows("representations.md")
    assert found.count("all_layers") == 1
    assert {name.partition(":")[0] for name in found} == {*REPRESENTATIONS, *CONFIG_NAMES}


def test_every_classifier_and_setting_has_a_row():
    found = rows("classifiers.md")
    assert [name for name in found if not name.startswith("--")] == sorted(
        CLASSIFIERS, key=["mlp", "linear", "boosting", "gl_net", "neighbours"].index
    )
    text = (DOCS / "classifiers.md").read_text()
    for classifier, field in built_in_settings():
        option = setting_option(classifier.name, field)
        row = f"| `{option}` | {field.default} | {field.metadata['help']} |"
        assert row in text
    assert len([n for n in found if n.startswith("--")]) == len(built_in_settings())


def test_the_commands_of_the_questions_are_accepted():
    text = (DOCS / "questions.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    runs = [line for line in lines if line.startswith("lorasweep run ")]
    assert len(runs) >= 6
    for line in runs:
        words = [*shlex.split(line)[1:], "--dry-run", "--yaml"]
        result = CliRunner().invoke(cli.app, words, catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.output}"
    for image in re.findall(r"\]\((images/[^)]+)\)", text):
        assert (DOCS / image).exists()


def test_every_document_is_in_the_readme():
    readme = (DOCS.parent / "README.md").read_text()
    for path in DOCS.glob("*.md"):
        assert f"(docs/{path.name})" in readme
