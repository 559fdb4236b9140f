"""Making a report: analysis, figures, tables and the page, written to one folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import write_text
from lorasweep.features.common.progress import Progress
from lorasweep.trainables.store.run_dir import RunDir

from .analysis import Analysis
from .compare_runs import RunComparison
from .content import run_tables
from .facts import run_facts
from .figure_catalogue import run_figures
from .figures import ReportFigure
from .page import GENERATOR, Page, PageFigure, arrange, render
from .runs import RunData, load_run
from .style import FORMATS, figure_style, inline_svg, save, settle
from .tables import Table
from .words import findings


def make_report(
    run_dirs: Sequence[Path],
    out: Path | None = None,
    on_progress: Progress = lambda done, total: None,
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Write a report; returns the path of its report.html.

    Arguments:
        run_dirs: one run directory, or several to be compared by the size of their datasets.
        out: folder to write; by default RUN_DIR/report, of several runs report-A-B-C beside them.
        on_progress: called with how many figures of how many are drawn.
        formats: files that are written of each figure.

    Raises:
        UserError: a run directory cannot be reported on, or `out` holds other things.
    """
    run_dirs = [run_dir.resolve() for run_dir in run_dirs]
    if len(set(run_dirs)) < len(run_dirs):
        raise UserError("a run cannot be compared with itself: name every run directory once")
    runs = [load_run(run_dir) for run_dir in run_dirs]
    if len(runs) == 1:
        return report_run(runs[0], out or RunDir(run_dirs[0]).report, on_progress, formats)
    names = [run_dir.name for run_dir in run_dirs]
    if len(set(names)) < len(names):
        names = [str(run_dir) for run_dir in run_dirs]
    short = "-".join(run_dir.name for run_dir in run_dirs)
    out = out or run_dirs[0].parent / f"report-{short}"
    return _report_several(names, runs, out, on_progress, formats)


def report_run(
    run: RunData,
    out: Path,
    on_progress: Progress = lambda done, total: None,
    formats: Sequence[str] = FORMATS,
) -> Path:
    """Write the report of a run that is read already; otherwise as `make_report`."""
    analysis = Analysis(run)
    return _write(
        out,
        on_progress,
        formats,
        run_figures(analysis),
        run_tables(analysis),
        title=f"lorasweep: {run.run_dir.name}",
        subtitle=subtitle(run),
        notices=[*_notices(run), *filter(None, [analysis.groups_notice])],
        findings=findings(analysis),
        facts={"": run_facts(run)},
    )


def _report_several(
    names: list[str],
    runs: list[RunData],
    out: Path,
    on_progress: Progress,
    formats: Sequence[str],
) -> Path:
    compared = RunComparison([(name, Analysis(run)) for name, run in zip(names, runs)])
    if not compared.cells:
        raise UserError("runs are compared by configs that are of no family, and none is complete")
    return _write(
        out,
        on_progress,
        formats,
        compared.figures(),
        compared.tables(),
        title=f"lorasweep: {', '.join(compared.names)}",
        subtitle=f"{len(runs)} runs compared by the size of their datasets",
        notices=compared.notices(),
        findings=compared.findings(),
        facts={name: run_facts(a.run) for name, a in zip(compared.names, compared.analyses)},
    )


def _write(
    out: Path,
    on_progress: Progress,
    formats: Sequence[str],
    figures: Iterable[ReportFigure],
    tables: list[Table],
    **page: Any,
) -> Path:
    """Write figures, tables and the page."""
    _prepare(out)
    for table in tables:
        table.write(out / "tables")
    sections = arrange(_draw(list(figures), out / "figures", formats, on_progress), tables)
    write_text(out / "report.html", render(Page(sections=sections, **page)))
    return out / "report.html"


def subtitle(run: RunData) -> str:
    """How large a run is."""
    grid, frozen = run.sweep.grid, run.sweep.frozen
    classifiers = len(grid.classifiers)
    return (
        f"{frozen['num_samples']} adapters, {run.n_classes} classes; {len(grid.representations)} "
        f"representations × {f'{classifiers} classifiers × ' if classifiers > 1 else ''}"
        f"{len(grid.configs)} layer configs × {len(grid.seeds)} seeds"
    )


def _notices(run: RunData) -> list[str]:
    """What a reader must know first."""
    notices = []
    missing = len(run.sweep.grid.keys) - len(run.records)
    if missing:
        cells = len(run.sweep.grid.cells)
        notices.append(
            f"This sweep is not complete: {missing} of {len(run.sweep.grid.keys)} trials have no "
            f"result ({len(run.failed)} failed). {cells - len(run.complete)} of {cells} "
            "representation × config pairs are left out; they are listed under Missing."
        )
    if run.splits_coincide:
        notices.append(
            "With so few adapters train, validation and test are the same: the scores mean nothing."
        )
    return notices


def _prepare(out: Path) -> None:
    """Make room for a report where there is none or an earlier one.

    Raises:
        UserError: the folder holds something else.
    """
    page = out / "report.html"
    if out.exists():
        ours = page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace")
        if not out.is_dir() or (any(out.iterdir()) and not ours):
            raise UserError(f"{out} is not a report: choose another --out")
        # An earlier report's figures and tables may be of other cells.
        for name in ("figures", "tables"):
            shutil.rmtree(out / name, ignore_errors=True)
    for name in ("figures", "tables"):
        (out / name).mkdir(parents=True)
    # Whoever is interrupted leaves a folder that is known for a report.
    write_text(page, f"<!DOCTYPE html>{GENERATOR}<p>This report was not finished.</p>")


def _draw(
    figures: list[ReportFigure], folder: Path, formats: Sequence[str], on_progress: Progress
) -> list[PageFigure]:
    """Draw figures, write their files, and return them for the page."""
    drawn: list[PageFigure] = []
    with figure_style():
        for item in figures:
            on_progress(len(drawn), len(figures))
            figure = item.draw()
            settle(figure)
            save(figure, folder, item.name, formats)
            svg = inline_svg(figure, item.name, item.title)
            drawn.append(PageFigure(item.name, item.section, item.title, item.caption, svg))
    on_progress(len(drawn), len(figures))
    return drawn
