"""The report as a reader meets it: the command, its files, and the page in a real browser."""

import json
import re
import shutil

import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
from lorasweep.cli import app
from lorasweep.features.common.files import sign
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.sweep.report.build import report_run
from lorasweep.sweep.store.sweep_file import read_sweep_file
from lorasweep.trainables.store.record import write_failure
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey
from tests.conftest import adapter_table

from .synthetic_run import made_up_run

STRANGE = ['<script>alert("x")</script>', "$\\alpha_1$ & 100 %", "plain"]

FIGURES = {
    "ranking", "ablation_visual_only", "splits", "learning_curves",
    "training_loss", "precision_recall", "calibration", "confusion_all_layers",
    "confusion_visual_only", "classes", "class_drop", "cost", "retained", "stability",
    "importance_layers_all_layers", "importance_layers_visual_only",
    "importance_kinds_all_layers", "importance_kinds_visual_only",
}  # fmt: skip
TABLES = {
    "ranking", "ablation_visual_only", "comparisons_all_layers", "comparisons_visual_only",
    "splits", "classes_all_layers", "classes_visual_only", "class_drop_visual_only",
    "cost", "retained", "stability", "calibration", "class_counts", "confusions_all_layers",
    "confusions_visual_only", "importance_layers_all_layers", "importance_layers_visual_only",
    "importance_kinds_all_layers", "importance_kinds_visual_only",
}  # fmt: skip


def report(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_every_figure_and_table_is_written(zoo_report):
    figures = {path.name for path in (zoo_report / "figures").iterdir()}
    assert figures == {f"{name}.png" for name in FIGURES}
    tables = {path.name for path in (zoo_report / "tables").iterdir()}
    assert tables == {f"{name}.{kind}" for name in TABLES for kind in ("txt", "csv", "tex")}
    for name in FIGURES:
        with Image.open(zoo_report / f"figures/{name}.png") as image:
            assert image.width == 1440
            assert len(image.convert("L").getcolors()) > 3


def test_latex_tables_hold_what_the_text_tables_do(zoo_report):
    for name in TABLES:
        tex = (zoo_report / f"tables/{name}.tex").read_text()
        body = re.search(r"\\midrule\n(.*)\\bottomrule", tex, re.DOTALL)[1]
        rows = [line.removesuffix(r" \\").split(" & ") for line in body.splitlines()]
        columns = re.search(r"\\begin{tabular}{([lr]+)}", tex)[1]
        assert {len(row) for row in rows} == {len(columns)}
        text = (zoo_report / f"tables/{name}.txt").read_text().split("\n\n")[1]
        assert len(text.splitlines()) == len(rows) + 2
        assert not re.search(r"(?<!\\)[_%#]", re.sub(r"(?m)^% needs.*$|\\label{.*", "", tex))


def test_the_page_in_a_browser(zoo_report, browser):
    page = zoo_report / "report.html"
    backgrounds, inks = set(), set()
    for dark in (False, True):
        with browser.open(page, dark=dark) as tab:
            assert tab.errors == []
            assert tab.requests == [page.as_uri()]
            shown = tab.page.locator("figure svg")
            names = {figure.get_attribute("aria-labelledby") for figure in shown.all()}
            assert names == {f"{name}-title" for name in FIGURES}
            for figure in shown.all():
                box = figure.bounding_box()
                assert box["width"] > 500
                assert box["height"] > 100
            style = "getComputedStyle(document.body).backgroundColor"
            backgrounds.add(tab.page.evaluate(style))
            inks.add(
                tab.page.evaluate(
                    "getComputedStyle(document.querySelector('figure svg text')).fill"
                )
            )
            ids = tab.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
            assert len(ids) == len(set(ids))
            # Whatever refers to another element refers to one that is there.
            dangling = tab.page.evaluate(
                """[...document.querySelectorAll('[href^="#"], [aria-labelledby]')]
                .map(e => e.getAttribute('aria-labelledby') ?? e.getAttribute('href').slice(1))
                .filter(id => !document.getElementById(id))"""
            )
            assert dangling == []
    assert len(backgrounds) == len(inks) == 2
    with browser.open(page, width=360, height=740) as tab:
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 360
        tab.page.get_by_role("button", name="Other theme").click()
        dark = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark in backgrounds
        assert tab.errors == []


def test_the_page_by_keyboard_and_by_click(zoo_report, browser):
    with browser.open(zoo_report / "report.html") as tab:
        page = tab.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"

        table = page.locator("#table-ranking table")
        heading = table.get_by_role("button", name="test acc")

        def column():
            cells = table.locator("tbody tr td:nth-child(5)").all_inner_texts()
            return [float(cell) for cell in cells]

        before = column()
        heading.click()
        assert column() == sorted(before) != before
        heading.press("Enter")
        assert column() == sorted(before, reverse=True)
        assert table.locator("th[aria-sort='descending']").inner_text().startswith("test acc")
        assert page.locator("[role=status]").inner_text() == "Sorted by test acc, descending"
        # By text; the other heading is no longer marked.
        table.get_by_role("button", name="representation").click()
        names = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
        assert names == sorted(names)
        assert table.locator("th[aria-sort]").count() == 1

        details = page.locator("#table-comparisons_all_layers")
        assert not details.locator("table").is_visible()
        details.locator("summary").press("Enter")
        assert details.locator("table").is_visible()
        link = page.locator("#table-ranking a[download='ranking.csv']")
        csv = page.evaluate(
            "url => fetch(url).then(answer => answer.text())", link.get_attribute("href")
        )
        assert csv == (zoo_report / "tables/ranking.csv").read_bytes().decode()


def test_the_page_says_what_was_found_and_what_ran(zoo_report, browser, zoo_run):
    with browser.open(zoo_report / "report.html") as tab:
        text = tab.text()
    assert "all_layers: matrix_norms is the best by validation; its test accuracy is" in text
    assert "info_theoretic is not above chance (guessing gives 10.0 %" in text
    assert "All seeds share one split with 61 test adapters" in text
    frozen = json.loads((zoo_run / "sweep.json").read_text())["frozen"]
    assert frozen["decides"]["dataset"] in text
    assert "24 of 24 finished, 0 failed" in text
    assert "train 210, val 29, test 61" in text
    assert "in 1 invocation(s) that ended after running trials; 1 were started" in text
    command = re.search(r"^lorasweep run --dataset .*$", text, re.MULTILINE)[0]
    assert "--representations stats,matrix_norms,info_theoretic --num-runs 4" in command
    assert "--hidden-dim 128 --dropout 0.2 --lr 0.003 --epochs 25 --patience 6" in command


def test_a_partial_sweep_says_what_is_missing(zoo_run, tmp_path, browser, monkeypatch):
    run_dir = tmp_path / "partial"
    shutil.copytree(zoo_run, run_dir)
    for seed in (43, 44):
        RunDir(run_dir).record(TrialKey("all_layers", "stats", seed)).unlink()
    fingerprints = read_sweep_file(run_dir).fingerprints
    for seed, reason in ((43, ""), (44, "Traceback\nValueError: why")):
        key = TrialKey("all_layers", "stats", seed)
        write_failure(run_dir, key, fingerprints[key], reason)
    torn = RunDir(run_dir).record(TrialKey("visual_only", "matrix_norms", 45))
    torn.write_bytes(torn.read_bytes()[:-30])
    result = report(run_dir, "--formats", "png")
    assert result.exit_code == 0, result.output
    with browser.open(run_dir / "report/report.html") as tab:
        assert tab.errors == []
        text = tab.text()
    assert "3 of 24 trials have no result (2 failed). 2 of 6 representation × config pairs" in text
    assert "ValueError: why" in text
    rows = (run_dir / "report/tables/missing.csv").read_text().splitlines()
    assert rows[1:] == ["all_layers,stats,2,0,2", "visual_only,matrix_norms,3,1,0"]
    ranking = (run_dir / "report/tables/ranking.csv").read_text()
    assert "all_layers,1,matrix_norms" in ranking
    assert ranking.count("\n") == 1 + 4
    # With everything there again, the same command leaves nothing of the old report.
    for name in ("stats", "matrix_norms"):
        for path in zoo_run.glob(f"checkpoints/*/{name}/*.json"):
            shutil.copy(path, run_dir / path.relative_to(zoo_run))
    monkeypatch.setattr(
        "lorasweep.sweep.report.build.run_figures", lambda analysis: []
    )  # drawn above
    assert report(run_dir).exit_code == 0
    assert not (run_dir / "report/tables/missing.csv").exists()
    assert list((run_dir / "report/figures").iterdir()) == []


def test_an_interrupted_report_is_written_again(zoo_run, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    shutil.copytree(zoo_run, run_dir)
    with monkeypatch.context() as patch:
        patch.setattr("lorasweep.sweep.report.build.render", lambda page: 1 / 0)
        patch.setattr("lorasweep.sweep.report.build.run_figures", lambda analysis: [])
        assert isinstance(report(run_dir).exception, ZeroDivisionError)
        assert "not finished" in (run_dir / "report/report.html").read_text()
    monkeypatch.setattr("lorasweep.sweep.report.build.run_figures", lambda analysis: [])
    assert report(run_dir).exit_code == 0
    assert "Findings" in (run_dir / "report/report.html").read_text()


def test_no_pair_is_complete(zoo_run, tmp_path):
    run_dir = tmp_path / "begun"
    shutil.copytree(zoo_run, run_dir)
    for path in run_dir.glob("checkpoints/*/*/seed-43.json"):
        path.unlink()
    assert report(run_dir).exit_code == 0
    assert "6 of 6 representation × config pairs" in (run_dir / "report/report.html").read_text()
    assert list((run_dir / "report/figures").iterdir()) == []


def test_many_classes_with_long_names(tmp_path, browser):
    names = [f"class number {i} [with a very long name]\n" for i in range(40)]
    configs = ("all_layers", "visual_only", "text_only")
    run = made_up_run(tmp_path, ["stats"], configs, seeds=(42, 43), samples=120, classes=names)
    out = tmp_path / "report"
    with browser.open(report_run(run, out, formats=())) as tab:
        assert tab.errors == []
        assert tab.page.locator("#figure-ablation_text_only svg").is_visible()
        shown = tab.page.locator("#figure-classes svg text").all_text_contents()
    # Every second class is named, beside the first of three panels.
    assert shown.count("class number 0 …") == 1
    assert sum(text.startswith("class number") for text in shown) == 20
    text = (out / "tables/class_counts.txt").read_text()
    assert len(text.splitlines()) == 4 + 40
    ablation = (out / "tables/ablation_text_only.csv").read_text()
    assert ablation.splitlines()[0].startswith("representation,all_layers,text_only,difference")
    tex = (out / "tables/class_counts.tex").read_text()
    assert "{[}with a very long name{]}" in tex


@pytest.fixture(scope="module")
def strange_run(local_ray, tmp_path_factory):
    """Run directory of one seed and one config, of classes with strange names."""
    root = tmp_path_factory.mktemp("strange")
    labels = pa.array([STRANGE[i % 3] for i in range(24)])
    write_dataset(root / "strange", adapter_table(24, category_label=labels))
    spec = SweepSpec(
        str(root / "strange"),
        representations=("stats", "spectral"),
        configs=("visual_only",),
        num_runs=1,
        settings={"mlp": dict(hidden_dim=16, epochs=3)},
    )
    return run_sweep(
        spec, RuntimeOptions(root / "results", cache_dir=root / "cache", save_models="none")
    ).run_dir


@pytest.mark.long
def test_strange_class_names_one_seed_and_one_config(strange_run, tmp_path, browser):
    out = tmp_path / "report"
    result = report(strange_run, "--out", out, "--formats", "png")
    assert result.exit_code == 0, result.output
    with browser.open(out / "report.html") as tab:
        assert tab.errors == []
        counts = tab.page.locator("#table-class_counts td:first-child").all_text_contents()
        assert sorted(counts) == sorted(STRANGE)
        text = tab.text()
    assert "There is one seed and one split" in text
    assert "resample seeds" not in text
    assert ",True\n" not in (out / "tables/comparisons_visual_only.csv").read_text()
    tex = (out / "tables/class_counts.tex").read_text()
    assert r"\$\textbackslash{}alpha\_1\$ \& 100 \%" in tex
    assert not (out / "figures/stability.png").exists()


@pytest.mark.long
def test_several_runs_by_size(strange_run, sanity_run, zoo_run, zoo_report, tmp_path, browser):
    small = shutil.copytree(sanity_run.run_dir, tmp_path / "small")
    result = report(small, zoo_run, strange_run, "--formats", "none")
    assert result.exit_code == 0, result.output
    out = tmp_path / f"report-small-{zoo_run.name}-strange"
    rows = (out / "tables/runs.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [
        ["small", "18"], ["strange", "24"], [zoo_run.name, "300"],
    ]  # fmt: skip
    growth = (out / "tables/growth.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:4] for row in growth] == [
        [config, name, "small", zoo_run.name]
        for config in ("all_layers", "visual_only")
        for name in ("stats", "matrix_norms")
    ]
    size = (out / "tables/size.csv").read_text()
    ranking = (zoo_report / "tables/ranking.csv").read_text().splitlines()
    alone = next(row for row in ranking if "visual_only" in row and "stats" in row)
    # The same estimate and interval as in the run's own report.
    assert ",".join(alone.split(",")[4:7]) in size
    with browser.open(out / "report.html") as tab:
        assert tab.errors == []
        assert tab.page.locator("figure svg").count() == 1
        text = tab.text()
    assert "The runs have different classes" in text
    assert "The runs have different hyperparameters" in text


def test_files_of_figures_are_those_asked_for(sanity_run, tmp_path):
    for asked, kinds in (("pdf", {".pdf"}), ("none", set())):
        out = tmp_path / asked
        assert report(sanity_run.run_dir, "--out", out, "--formats", asked).exit_code == 0
        assert {path.suffix for path in (out / "figures").iterdir()} == kinds
        assert "<svg" in (out / "report.html").read_text()
    for path in (tmp_path / "pdf" / "figures").iterdir():
        pdf = path.read_bytes()
        assert pdf.startswith(b"%PDF")
        assert b"/FontFile2" in pdf  # text is text, in a font that can be edited
    result = report(sanity_run.run_dir, "--out", tmp_path / "more", "--formats", "png,gif")
    assert result.exit_code == 2
    assert result.output == "error: --formats are png, pdf or none, not 'gif'\n"
    assert not (tmp_path / "more").exists()


def test_what_cannot_be_reported_is_said_in_one_line(zoo_run, tmp_path):
    def refusal(*arguments):
        result = report(*arguments)
        assert result.exit_code == 2
        (line,) = result.output.splitlines()
        return line

    assert "no run directory" in refusal(tmp_path)
    assert "named" not in refusal(tmp_path / "nothing")
    assert "with itself" in refusal(zoo_run, zoo_run)
    assert "with itself" in refusal(zoo_run, zoo_run / ".." / zoo_run.name)
    other = tmp_path / "other"
    (other / "figures").mkdir(parents=True)
    (other / "thesis.tex").write_text("mine")
    (other / "report.html").write_text("<p>mine, too</p>")
    assert "is not a report: choose another --out" in refusal(zoo_run, "--out", other)
    assert {path.name for path in other.iterdir()} == {"figures", "thesis.tex", "report.html"}
    empty = tmp_path / "empty"
    shutil.copytree(zoo_run, empty)
    shutil.rmtree(empty / "checkpoints")
    assert "no finished trial" in refusal(empty)
    assert not (empty / "report").exists()
    strange = tmp_path / "strange"
    shutil.copytree(zoo_run, strange)
    labels = strange / "labels.json"
    value = json.loads(labels.read_text())
    value["labels"] = value["labels"][::-1]
    labels.write_text(json.dumps(sign(value)))
    assert "labels.json does not belong" in refusal(strange)
