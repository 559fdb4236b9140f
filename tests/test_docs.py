"""The tables of docs/ are those of what is declared."""

import re
from pathlib import Path

from features.layer_configs import CONFIG_NAMES
from features.representations import REPRESENTATIONS
from trainables.classifiers.catalogue import CLASSIFIERS, built_in_settings, setting_option

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
        CLASSIFIERS, key=["mlp", "linear", "boosting", "neighbours"].index
    )
    text = (DOCS / "classifiers.md").read_text()
    for classifier, field in built_in_settings():
        option = setting_option(classifier.name, field)
        row = f"| `{option}` | {field.default} | {field.metadata['help']} |"
        assert row in text
    assert len([n for n in found if n.startswith("--")]) == len(built_in_settings())


def test_every_document_is_in_the_readme():
    readme = (DOCS.parent / "README.md").read_text()
    for path in DOCS.glob("*.md"):
        assert f"(docs/{path.name})" in readme
