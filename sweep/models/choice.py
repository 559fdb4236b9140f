"""Which cells have a model to keep, and which still lack theirs; without Ray or torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import DamagedFileError, read_signed_json, sign, write_json
from lorasweep.features.common.names import nearest
from lorasweep.sweep.request.grid import Cell, Grid
from lorasweep.sweep.request.spec import ALL, NONE
from lorasweep.sweep.store.sweep_file import SweepFile
from lorasweep.trainables.models.model import read_model
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.standing import Standing, best_of


def chosen_cells(results: Mapping[str, Any], grid: Grid, mode: str) -> list[Cell]:
    """The cells that a mode keeps, of those that are complete."""
    if mode == NONE:
        return []
    complete = _standings(results, grid)
    if mode == ALL:
        return list(complete)
    return best_cells(complete, grid.ordinary_configs)


def asked_cells(
    results: Mapping[str, Any],
    grid: Grid,
    config: str | None,
    representation: str | None,
    classifier: str | None,
) -> list[Cell]:
    """The best by validation of a config, or of each, among the cells that are asked for.

    Raises:
        UserError: there is none that is complete.
    """
    for name, given, known in (
        ("config", config, grid.configs),
        ("representation", representation, grid.representations),
        ("classifier", classifier, grid.classifiers),
    ):
        if given is not None and given not in known:
            raise UserError(f"--{name} {given!r} is not in the grid{nearest(given, known)}")
    found = {
        cell: standing
        for cell, standing in _standings(results, grid).items()
        if representation in (None, grid.by_method[cell[1]].representation)
        and classifier in (None, grid.by_method[cell[1]].classifier)
    }
    configs = [config] if config else grid.ordinary_configs or list(grid.configs)
    cells = best_cells(found, configs)
    if not cells:
        raise UserError("no pair that is asked for has all its records yet: run the sweep first")
    return cells


def best_cells(standings: Mapping[Cell, Standing], configs: Iterable[str]) -> list[Cell]:
    """Return the best cell of each config."""
    best = []
    for config in configs:
        own = {cell: standing for cell, standing in standings.items() if cell[0] == config}
        if own:
            best.append(best_of(own))
    return best


def _standings(results: Mapping[str, Any], grid: Grid) -> dict[Cell, Standing]:
    """Complete cell -> its standing, in the order of the grid."""
    return {
        (config, entry["representation"].removesuffix(f"_{config}")): Standing.of_entry(entry)
        for config in grid.configs
        for entry in results[f"{config}_results"]
    }


# What is there


def has_model(run_dir: Path, sweep: SweepFile, cell: Cell) -> bool:
    """Whether a cell has the model of its trials as they are."""
    try:
        found = read_model(RunDir(run_dir).model(*cell))
    except UserError:
        return False
    return found.note["trials"] == sweep.cell_digest(cell)


def write_refusal(run_dir: Path, sweep: SweepFile, cell: Cell, reason: str) -> None:
    """Remember why a cell has no model, so that it is not tried again with every run."""
    note = {"trials": sweep.cell_digest(cell), "reason": reason}
    write_json(RunDir(run_dir).no_model(*cell), sign(note))


def refusal(run_dir: Path, sweep: SweepFile, cell: Cell) -> str | None:
    """Why a cell has no model though one was wanted; None if none was refused."""
    try:
        note = read_signed_json(RunDir(run_dir).no_model(*cell))
    except (OSError, DamagedFileError):
        return None
    return note["reason"] if note["trials"] == sweep.cell_digest(cell) else None
