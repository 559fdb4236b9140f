"""Reports of runs with many labels and configs, without all_layers, and with records that lack
things; all made up, so neither Ray nor a browser is needed."""

import csv
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lorasweep.sweep.report.analysis import Analysis
from lorasweep.sweep.report.build import report_run, subtitle
from lorasweep.sweep.report.content import run_tables
from lorasweep.sweep.report.facts import reproduce_command, run_facts
from lorasweep.sweep.report.figure_catalogue import run_figures
from lorasweep.sweep.report.figures import figure
from lorasweep.sweep.report.page import arrange
from lorasweep.sweep.report.score_figures import ranking  # noqa: F401 - declares its figures
from lorasweep.sweep.report.sections import Section
from lorasweep.sweep.report.style import figure_style, save, style_of
from lorasweep.sweep.report.tables import Table
from lorasweep.sweep.store.adapter_map import AdapterMap, write_maps
from lorasweep.sweep.store.results import format_results

from .synthetic_run import CONFIGS, MANY, made_up_run

FEW = ("stats", "spectral@linear")


def written(run, out, formats=()):
    """What is on the page: section -> names of its figures and tables."""
    page = report_run(run, out, formats=formats).read_text()
    found = {}
    for part in re.findall(r'<section aria-labelledby="(.*?)</section>', page, re.DOTALL):
        title = re.search(r"<h2[^>]*>(.*?)</h2>", part)[1]
        found[title] = re.findall(r'id="(?:figure|table)-([^"-]+)"[ >]', part)
    return found


def rows(out, name):
    with (out / f"tables/{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(MANY[:3], marks=pytest.mark.long),
        pytest.param(MANY, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_many_labels_and_configs(labels, tmp_path):
    run = made_up_run(tmp_path / "run", labels)
    out = tmp_path / "report"
    sections = written(run, out, ["png"])
    others = CONFIGS[1:]
    figures = {
        "Ranking": ["ranking"],
        "What it takes": ["contrasts"],
        "Ablation": [f"ablation_{c}" for c in others],
        "Overfitting": ["splits"],
        "Learning curves": ["learning_curves", "training_loss"],
        "Precision and recall": ["precision_recall"],
        "Calibration": ["calibration"],
        "Confusion": [f"confusion_{c}" for c in CONFIGS],
        "Classes": ["classes", "class_drop"],
        "Width and time": ["cost"],
        "Information retained": ["retained"],
        "Stability": ["stability"],
    }
    for title, names in figures.items():
        assert sections[title][: len(names)] == names
    in_order = [section.value for section in Section if section.value in sections]
    assert [title for title in sections if title in in_order] == in_order
    drawn = [name for names in figures.values() for name in names]
    for name in drawn:
        with Image.open(out / f"figures/{name}.png") as image:
            assert image.width == 1440
    assert len(list((out / "figures").iterdir())) == len(drawn)
    # Figures of rows grow with them.
    with Image.open(out / "figures/ranking.png") as image:
        assert image.height > len(labels) * 40
    assert len(rows(out, "ranking")) == len(labels) * len(CONFIGS)


def test_of_many_labels_the_best_are_compared_and_drawn(tmp_path):
    """One figure of those with panels and one of those with rows stand for the others: drawing
    them all takes a minute."""
    labels = MANY[:28]
    analysis = Analysis(made_up_run(tmp_path / "run", labels, CONFIGS[:2]))
    for table in run_tables(analysis):
        table.write(tmp_path / "tables")
    assert len(rows(tmp_path, "ranking")) == 28 * 2
    for config in CONFIGS[:2]:
        compared = rows(tmp_path, f"comparisons_{config}")
        assert len(compared) == len(labels) - 1
        assert {row["first"] for row in compared} == {analysis.best_by_validation(config)}
    figures = {item.name: item for item in run_figures(analysis)}
    assert "the best 24 are drawn" in figures["calibration"].caption
    panels = figures["calibration"].draw()
    assert sum(axes.get_visible() for axes in panels.axes) == 24
    tall = figures["ranking"].draw()
    assert tall.get_figheight() > len(labels) * 0.2
    with figure_style():
        save(tall, tmp_path, "ranking", ["pdf"])
    assert (tmp_path / "ranking.pdf").stat().st_size > 1000


def test_without_all_layers_there_is_no_ablation(tmp_path):
    run = made_up_run(tmp_path / "run", FEW, configs=CONFIGS[1:])
    sections = written(run, tmp_path / "report")
    assert "Ablation" not in sections
    assert "Information retained" not in sections
    assert sections["Classes"][0] == "classes"
    assert "class_drop" not in sections["Classes"]
    assert "all_layers" not in (tmp_path / "report/report.html").read_text()


@pytest.mark.long
def test_what_records_lack_is_left_out(tmp_path):
    run = made_up_run(tmp_path / "run", FEW, configs=CONFIGS[:2])
    for key, record in run.records.items():
        record["environment"] = {}
        record["metrics"].pop("test_log_loss")
        if key.cell[1] == FEW[1]:
            for name in ("curves", "calibration", "precision_recall"):
                del record[name]
            del record["timing"]["epochs_run"], record["metrics"]["train_acc"]
        else:
            del record["curves"]["train_loss_history"]
    out = tmp_path / "report"
    sections = written(run, out)
    assert sections["Learning curves"] == ["learning_curves"]
    cost = {row["representation"]: row for row in rows(out, "cost")}
    assert cost[FEW[1]]["epochs"] == ""
    assert cost[FEW[0]]["epochs"] != ""
    splits = {row["representation"]: row for row in rows(out, "splits")}
    assert splits[FEW[1]]["train_accuracy"] == splits[FEW[1]]["gap"] == ""
    assert {row["log_loss"] for row in rows(out, "calibration")} == {""}

    for record in run.records.values():
        for name in ("curves", "calibration", "precision_recall", "timing", "environment"):
            record.pop(name, None)
        record["metrics"] = {"test_acc": record["metrics"]["test_acc"]}
    sections = written(run, out)
    assert "Learning curves" not in sections
    assert "Precision and recall" not in sections
    assert rows(out, "ranking")[0]["macro_f1"] == ""


def test_the_command_names_what_this_version_does_not_know(tmp_path):
    run = made_up_run(tmp_path / "run", FEW)
    command = reproduce_command(run.sweep)
    assert "--hidden-dim 16 --epochs 12 --set mlp.temperature=0.5" in command
    assert "--patience" not in command
    for classifier in run.sweep.declared["classifiers"].values():
        classifier["config"] = {}
    assert "--hidden-dim" not in reproduce_command(run.sweep)
    assert ("trained on", "here: cpu, torch 2") in run_facts(run)


def test_styles_of_any_number_of_configs():
    three = style_of(CONFIGS[:3])
    assert {c: (s.colour, s.marker) for c, s in three.items()} == {
        "all_layers": ("#0072b2", "o"),
        "visual_only": ("#d55e00", "s"),
        "text_only": ("#009e73", "^"),
    }
    many = style_of([*CONFIGS, *(f"config-{i}" for i in range(67))])
    assert many["text_only"] == three["text_only"]
    assert len({(s.colour, s.marker) for s in many.values()}) == 72
    first = list(many.values())[:24]
    for a, b in itertools.combinations(first, 2):
        assert (a.colour, a.dashes) != (b.colour, b.dashes)
    assert len(style_of(map(str, range(500)))) == 500


def test_the_subtitle_counts_what_is_crossed(tmp_path):
    few = made_up_run(tmp_path, ("stats", "spectral"), CONFIGS[:2])
    assert subtitle(few) == "300 adapters, 4 classes; 2 representations × 2 layer configs × 3 seeds"
    many = made_up_run(tmp_path, ("stats", "stats@linear"), CONFIGS[:2])
    assert "; 1 representations × 2 classifiers × 2 layer configs × 3 seeds" in subtitle(many)


def test_nothing_is_of_no_section():
    known = Table(Section.COST, "cost", "A table", [], [])
    assert [section.title for section in arrange([], [known])] == ["Width and time"]
    with pytest.raises(KeyError):
        arrange([], [known, Table("Elsewhere", "stray", "A table", [], [])])


def test_two_figures_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two figures"):
        figure("ranking", Section.RANKING, "Again", "")(lambda analysis: None)


def test_results_of_any_configs():
    def entry(config, accuracy):
        return {
            "representation": f"stats_{config}", "feature_dim": 8, "num_layers": 2,
            "test_acc_mean": accuracy, "test_acc_std": 0.0, "per_run_results": [{}],
        }  # fmt: skip

    results = {
        "num_classes": 4, "dataset": "made-up", "num_runs": 3, "failed": [],
        "all_layers_results": [entry("all_layers", 0.8)],
        "other_results": [entry("other", 0.6)],
        "third_results": [entry("third", 0.5), entry("unscored", None)],
        "none_results": [],
    }  # fmt: skip
    text = format_results(results)
    assert "Drop in test accuracy from all_layers to other\n" in text
    assert "Drop in test accuracy from all_layers to third\n" in text
    assert "+20.0" in text
    assert "undefined" in text
    del results["all_layers_results"]
    assert "Drop" not in format_results(results)


@pytest.mark.parametrize("classes", [3, 40])
def test_a_map_of_the_adapters(tmp_path, classes):
    run = made_up_run(
        tmp_path, ("stats",), CONFIGS[:2], samples=4000, classes=[f"c{i}" for i in range(classes)]
    )
    x, y = np.random.default_rng(0).standard_normal((2, 4000)).tolist()
    kept = AdapterMap("update_pca:256", 42, x, y)
    write_maps(tmp_path, {"all_layers": kept, "gone": kept})
    write_maps(tmp_path, {"visual_only": replace(kept, x=x[:-1])})
    analysis = Analysis(run)
    assert list(run.maps) == ["all_layers"], "of this grid and these adapters"
    drawn = next(figure for figure in run_figures(analysis) if figure.name == "map")
    assert "3000 of 4000" in drawn.caption
    assert ("24 commonest" in drawn.caption) == (classes == 40)
    axes = drawn.draw().axes[0]
    assert sum(len(marks.get_offsets()) for marks in axes.collections) == 3000
