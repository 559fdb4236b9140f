"""Planned contrasts: which rows stand for a kind, and the family they are tested in."""

import numpy as np
import pytest

from lorasweep.sweep.report.analysis import Analysis
from lorasweep.sweep.report.content import run_tables
from lorasweep.sweep.report.contrasts import CONTRASTS
from lorasweep.sweep.report.figure_catalogue import run_figures
from lorasweep.sweep.report.words import findings
from lorasweep.sweep.request.grid import Entry

from .synthetic_run import made_up_run

QUESTIONS = {
    "Reading ΔW instead of its factors": ("update", "nine"),
    "A common basis for the factors": ("canonical", "stored"),
    "Reading ΔW instead of a common basis": ("update", "canonical"),
    "A network that knows the symmetry": ("gl_net", "stored"),
    "Fitted directions instead of random ones": ("pca", "sketch"),
    "A linear classifier instead of an MLP": ("linear", "mlp"),
}
LABELS = {
    "stats": "nine mlp",
    "ensemble@linear": "nine linear",
    "spectral/pca:8": "nine mlp",
    "flat": "stored mlp",
    "flat@linear": "stored linear",
    "flat@gl_net": "gl_net",
    "flat_pca:16": "mlp",
    "canonical": "canonical mlp",
    "canonical@linear": "canonical linear",
    "channel_norms:64": "update mlp",
    "update_spectrum@boosting": "update",
    "update_sketch:128@linear": "update sketch linear",
    "update_pca:256@linear": "update pca linear",
    "mine.py:mine@neighbours": "",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    configs = ("all_layers", "visual_only", "each_block:down_blocks.0")
    return made_up_run(tmp_path_factory.mktemp("run"), tuple(LABELS), configs)


@pytest.fixture(scope="module")
def analysis(run):
    return Analysis(run)


def validation(run, config, label):
    entry = Entry(*label.split("@"))
    return np.mean(
        [
            record["metrics"]["val_acc"]
            for key, record in run.records.items()
            if (key.config, key.representation, key.classifier) == (config, *entry)
        ]
    )


def test_of_either_kind_the_best_by_validation_is_taken(run, analysis):
    assert [contrast.question for contrast in CONTRASTS] == list(QUESTIONS)
    assert list(analysis.contrasts) == ["all_layers", "visual_only"], "of no family's members"
    for config, rows in analysis.contrasts.items():
        assert [contrast.question for contrast, _ in rows] == list(QUESTIONS)
        for contrast, tested in rows:
            for kind, chosen in zip(QUESTIONS[contrast.question], (tested.first, tested.second)):
                of = [label for label in LABELS if kind in LABELS[label].split()]
                best = max(of, key=lambda label: validation(run, config, label))
                assert chosen.cell == (config, best), (contrast.question, kind)
            difference = tested.first.accuracy.value - tested.second.accuracy.value
            assert tested.test.difference == pytest.approx(difference)


def test_a_configs_contrasts_are_one_family_of_holms(analysis):
    for rows in analysis.contrasts.values():
        p = np.array([tested.test.p_adapters for _, tested in rows])
        order = np.argsort(p)
        adjusted = np.empty(len(p))
        steps = (len(p) - np.arange(len(p))) * p[order]
        adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
        assert [tested.holm_adapters for _, tested in rows] == pytest.approx(adjusted)


def test_they_are_in_a_table_a_figure_and_a_sentence(analysis):
    tables = {table.name: table for table in run_tables(analysis)}
    assert len(tables["contrasts_visual_only"].rows) == len(CONTRASTS)
    assert "contrasts" in [figure.name for figure in run_figures(analysis)]
    said = " ".join(findings(analysis))
    for contrast in CONTRASTS:
        assert said.count(contrast.question) == 2


def test_without_rows_of_both_kinds_nothing_is_asked(tmp_path):
    analysis = Analysis(made_up_run(tmp_path, ("stats", "spectral"), ("all_layers",)))
    assert analysis.contrasts == {}
    assert not any(table.name.startswith("contrasts") for table in run_tables(analysis))
    assert "contrasts" not in [figure.name for figure in run_figures(analysis)]
