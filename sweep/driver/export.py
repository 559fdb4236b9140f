"""`lorasweep export`: models of a run in a folder of their own, with a model card."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import write_text
from lorasweep.sweep.models.card import model_card
from lorasweep.sweep.models.choice import asked_cells, has_model, refusal
from lorasweep.sweep.request.grid import Cell
from lorasweep.sweep.request.spec import RuntimeOptions
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.models.model import ModelFile, read_model
from lorasweep.trainables.store.run_dir import RunDir

from .launch import make_models, opened_run
from .run import open_run


def export_models(
    run_dir: Path,
    out: Path,
    options: RuntimeOptions,
    reporter: Reporter,
    *,
    config: str | None = None,
    representation: str | None = None,
    classifier: str | None = None,
    big: bool = False,
) -> list[ModelFile]:
    """Write the best models by validation of a run, of each layer config or of what is asked for;
    those that are missing are trained, which takes the run's dataset.

    Arguments:
        out: folder to make; it needs neither run nor dataset.
        options: how to train.
        big: also models above 500 MB.

    Raises:
        UserError: there is no such cell, it cannot be kept, or the folder is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: give another folder")
    run = open_run(run_dir)
    cells = asked_cells(run.results, run.sweep.grid, config, representation, classifier)
    missing = [cell for cell in cells if not has_model(run_dir, run.sweep, cell)]
    if missing:
        spec = run.sweep.spec()
        options = replace(options, output_dir=run_dir.parent, name=run_dir.name)
        with opened_run(spec, options, reporter) as invocation:
            make_models(invocation, missing, big=big)
        run = open_run(run_dir)
        for cell in missing:
            if not has_model(run_dir, run.sweep, cell):
                reason = refusal(run_dir, run.sweep, cell) or "its records have changed"
                raise UserError(f"no model of {'/'.join(cell)}: {reason}")
    return _write(run_dir, cells, out)


def _write(run_dir: Path, cells: list[Cell], out: Path) -> list[ModelFile]:
    """Copy models and the code they need; the folder appears whole."""
    partial = out.absolute().with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    files = [read_model(RunDir(run_dir).model(*cell)) for cell in cells]
    for file in files:
        target = RunDir(partial).model(*file.cell)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, target)
        for origin in file.origins:
            digest = origin["digest"]
            shutil.copytree(
                RunDir(run_dir).plugins / digest,
                RunDir(partial).plugins / digest,
                ignore=shutil.ignore_patterns("__pycache__"),
                dirs_exist_ok=True,
            )
    write_text(partial / "README.md", model_card(run_dir, files))
    if out.exists():
        out.rmdir()
    os.replace(partial, out)
    return [read_model(RunDir(out).model(*cell)) for cell in cells]
