"""Which finished fits are kept until models are made; without Ray or torch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorasweep.features.common.files import DamagedFileError
from lorasweep.sweep.request.grid import Cell, Grid
from lorasweep.sweep.request.spec import ALL, BEST
from lorasweep.trainables.store.events import TrialFinished
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.standing import Standing
from lorasweep.trainables.store.trial_key import TrialKey
from lorasweep.trainables.trial.finished_fits import delete_fit

from .choice import best_cells

KEEP_AFTER_SECONDS = 10.0
"""A trial that trained for less is trained again as quickly as its data are read."""


def configs_to_keep(grid: Grid, mode: str) -> list[str]:
    """The layer configs of whose cells models may be made."""
    return {ALL: list(grid.configs), BEST: grid.ordinary_configs}.get(mode, [])


class FinishedFits:
    """Keep the fits of the best complete cell of each config, or of all cells.

    Arguments:
        mode: which models are made.
    """

    def __init__(self, run_dir: Path, grid: Grid, mode: str) -> None:
        self._run_dir, self._grid, self._mode = run_dir, grid, mode
        self._records: dict[TrialKey, dict[str, Any]] = {}

    def finished(self, event: TrialFinished) -> None:
        """Remove those that are not needed any more, now that a trial is finished."""
        if self._mode == BEST and RunDir(self._run_dir).fit(event.key).exists():
            standings = self._complete(event.key.config)
            for cell in standings.keys() - set(best_cells(standings, [event.key.config])):
                for key in self._grid.keys_of(cell):
                    delete_fit(self._run_dir, key)

    def _complete(self, config: str) -> dict[Cell, Standing]:
        """Complete cell of a config -> its standing, in the order of the grid."""
        standings = {}
        for method in self._grid.methods_of(config):
            found = [self._record(key) for key in self._grid.keys_of((config, method))]
            records = [record for record in found if record is not None]
            if len(records) == len(found):
                standings[config, method] = Standing.of_records(records)
        return standings

    def _record(self, key: TrialKey) -> dict[str, Any] | None:
        """Return what a standing needs of a trial's record; None where there is none yet."""
        if key not in self._records:
            try:
                record = read_record(self._run_dir, key)
            except (OSError, DamagedFileError):
                return None
            self._records[key] = {name: record[name] for name in ("metrics", "feature_dim")}
        return self._records[key]


def delete_fits(run_dir: Path, except_of: Iterable[TrialKey] = ()) -> None:
    """Forget those of all trials but some."""
    stay = {RunDir(run_dir).fit(key) for key in except_of}
    for folder, _, files in os.walk(RunDir(run_dir).fits, topdown=False):
        for path in (Path(folder) / name for name in files):
            if path not in stay:
                path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            os.rmdir(folder)
