"""Reports of families of layer configs, made of made-up runs."""

import csv
import re

import pytest
from PIL import Image

from lorasweep.features.common.errors import UserError
from lorasweep.sweep.report.analysis import Analysis
from lorasweep.sweep.report.build import make_report, report_run
from lorasweep.sweep.report.content import run_tables
from lorasweep.sweep.report.facts import run_facts
from lorasweep.sweep.report.figure_catalogue import run_figures
from lorasweep.sweep.report.words import findings

from .synthetic_run import made_up_run, unet_layers

LABELS = ("stats", "spectral", "stats@linear")
EACH_LAYER = tuple(f"each_layer:{layer}" for layer in unet_layers())
EACH_BLOCK = tuple(f"each_block:unet.up_blocks.{i}" for i in range(3))
SIDES = ("each_side:down", "each_side:up")


def rows(out, name):
    with (out / f"tables/{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    configs = ("all_layers", "visual_only", *EACH_LAYER, *EACH_BLOCK, *SIDES)
    return made_up_run(tmp_path_factory.mktemp("made") / "run", LABELS, configs)


@pytest.fixture(scope="module")
def out(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("written") / "report"
    report_run(run, out, formats=["png"])
    return out


def test_members_are_in_no_table_or_figure_of_configs(run, out):
    drawn = sorted(path.stem for path in (out / "figures").glob("*.png"))
    assert [name for name in drawn if "each" in name] == [
        "each_block_rows",
        "each_layer_map",
        "each_side_rows",
    ]
    assert sum(name.startswith("confusion_") for name in drawn) == 2
    for table in (out / "tables").glob("*.csv"):
        if not table.stem.startswith("each_"):
            assert "each_" not in table.read_text()
    assert len(rows(out, "ranking")) == 2 * len(LABELS)
    assert dict(run_facts(run))["layer configs"] == (
        "all_layers (8 tensors), visual_only (8 tensors), each_layer (56 configs), "
        "each_block (3 configs), each_side (2 configs)"
    )
    page = (out / "report.html").read_text()
    assert page.index("Where it lives") < page.index("Overfitting")


def test_a_table_has_every_member_s_parts_accuracy_interval_and_rank(run, out):
    table = rows(out, "each_layer")
    assert len(table) == len(LABELS) * len(EACH_LAYER)
    for label in LABELS:
        of = [row for row in table if row["representation"] == label]
        assert [row["layer"] for row in of] == unet_layers()
        assert sorted(int(row["rank"]) for row in of) == list(range(1, len(of) + 1))
        by_rank = sorted(of, key=lambda row: int(row["rank"]))
        accuracies = [round(float(row["val_accuracy"]), 12) for row in by_rank]
        assert accuracies == sorted(accuracies, reverse=True)
        for row in of:
            low, high = float(row["test_accuracy_low"]), float(row["test_accuracy_high"])
            assert low <= float(row["test_accuracy"]) <= high
    assert (table[2]["block"], table[2]["kind"], table[2]["projection"]) == (
        "down_blocks.0", "cross_attention", "q"
    )  # fmt: skip
    assert [row["side"] for row in rows(out, "each_side")[:2]] == ["down", "up"]


def test_the_map_has_places_and_roles_of_every_label(run, out):
    analysis = Analysis(run)
    found = analysis.families["each_layer"]
    assert found.places[:3] == ["down_blocks.0 · 0", "down_blocks.0 · 1", "down_blocks.1 · 0"]
    assert found.roles == ["attn1.q", "attn1.k", "attn2.q", "attn2.k"]
    best = max(found.results, key=lambda n: max(r.val_acc for r in found.results[n].values()))
    assert next(iter(found.results)) == best
    figure = next(item for item in run_figures(analysis) if item.name == "each_layer_map")
    assert "the line in the colour bar is chance (25.0 %)" in figure.caption
    *maps, _bar = figure.draw().axes
    assert [axes.get_title(loc="left") for axes in maps] == list(found.results)
    assert len(maps[0].texts) == len(EACH_LAYER)
    with Image.open(out / "figures/each_layer_map.png") as image:
        assert image.width == 1440


def test_findings_name_the_best_by_validation(run):
    text = next(text for text in findings(Analysis(run)) if text.startswith("each_layer"))
    found = Analysis(run).families["each_layer"]
    label, of = next(iter(found.results.items()))
    best = max(of.values(), key=lambda result: result.val_acc)
    assert f"by validation {label} on {best.config.partition(':')[2]} alone is the best" in text
    assert re.search(r"\d+ of 56 layers alone are above chance\.$", text)


def test_a_family_alone_is_a_report(tmp_path):
    run = made_up_run(tmp_path / "run", LABELS[:1], EACH_LAYER[:6])
    report_run(run, tmp_path / "report", formats=["png"])
    assert sorted(p.stem for p in (tmp_path / "report/figures").glob("*.png")) == [
        "each_layer_map", "each_layer_rows"
    ]  # fmt: skip
    assert "The dashed line" not in (tmp_path / "report/report.html").read_text()


def test_what_is_missing_of_a_family_is_one_row_of_a_label(tmp_path):
    run = made_up_run(tmp_path / "run", LABELS[:2], ("all_layers", *EACH_LAYER))
    for key in [k for k in run.records if k.config in EACH_LAYER[:5] and k.seed > 42]:
        del run.records[key]
    (tables,) = [t for t in run_tables(Analysis(run)) if t.name == "missing"]
    assert tables.rows == [
        ["each_layer (5 of 56 configs)", label, 5, 10, 0] for label in LABELS[:2]
    ]
    assert len(Analysis(run).families["each_layer"].members) == 51


def test_experts_are_told_apart_and_components_named(tmp_path):
    layers = [
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        *(f"model.layers.{i}.block_sparse_moe.experts.{j}.w1" for i in (0, 1) for j in (0, 1)),
    ]
    run = made_up_run(tmp_path / "run", LABELS[:1], [f"each_layer:{layer}" for layer in layers])
    found = Analysis(run).families["each_layer"]
    assert found.places == [
        "text_encoder layers.0",
        "language_model layers.0",
        "language_model layers.1",
    ]
    assert found.roles == [
        "mlp.up",
        "block_sparse_moe.experts.0.w1",
        "block_sparse_moe.experts.1.w1",
    ]


def test_a_large_network_has_dots_instead_of_numbers(tmp_path):
    layers = [f"model.layers.{i}.self_attn.{p}_proj" for i in range(60) for p in "qv"]
    run = made_up_run(tmp_path / "run", LABELS[:1], [f"each_layer:{x}" for x in layers], (42,))
    analysis = Analysis(run)
    figure = next(item for item in run_figures(analysis) if item.name == "each_layer_map")
    axes = figure.draw().axes[0]
    assert {text.get_text() for text in axes.texts} == {"•"}
    assert len(axes.get_xticklabels()) == 30


def test_what_remains_is_a_curve_from_all_layers_on(tmp_path):
    configs = ("all_layers", *EACH_LAYER[:8], *(f"without_top:{k}" for k in (1, 2, 4)))
    run = made_up_run(tmp_path / "run", LABELS, configs)
    out = tmp_path / "report"
    report_run(run, out, formats=["png"])
    table = rows(out, "without_top")
    assert [row["left_out"] for row in table] == ["1", "2", "4"] * len(LABELS)
    ranking = {row["representation"]: float(row["test_accuracy"]) for row in rows(out, "ranking")}
    for row in table:
        drop = ranking[row["representation"]] - float(row["test_accuracy"])
        assert float(row["drop"]) == pytest.approx(drop)
        assert float(row["drop_low"]) <= drop <= float(row["drop_high"])
    analysis = Analysis(run)
    figure = next(item for item in run_figures(analysis) if item.name == "without_top")
    assert "At 0 is all_layers" in figure.caption
    axes = figure.draw().axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2", "4"]
    assert any("without its 4 best layers" in text for text in findings(analysis))
    drawn = {path.stem for path in (out / "figures").glob("*.png")}
    assert not {name for name in drawn if "without_top:" in name}


def test_runs_with_nothing_but_families_are_not_compared(tmp_path, monkeypatch):
    runs = {n: made_up_run(tmp_path / n, LABELS[:1], EACH_LAYER[:3]) for n in ("a", "b")}
    monkeypatch.setattr("lorasweep.sweep.report.build.load_run", lambda run_dir: runs[run_dir.name])
    with pytest.raises(UserError, match="compared by configs that are of no family"):
        make_report([tmp_path / "a", tmp_path / "b"])


@pytest.mark.chromium
def test_long_names_do_not_widen_the_page_of_a_phone(out, browser):
    with browser.open(out / "report.html", width=360) as tab:
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 360
        assert tab.errors == []
