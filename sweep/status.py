"""How far a run directory is, from its files alone: neither Ray nor torch nor the dataset."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.record import TrialKey

from .plan import count_other_records, failed_trials, read_records
from .run_dir import Grid, read_sweep_file
from .summary import pair_counts, summary_lines


@dataclass(frozen=True)
class Status:
    """What is done, failed and to do.

    Attributes:
        grid: what the last run asked for.
        done: trials with a valid record.
        failed: trials that failed after their retries.
        todo: all others.
        outside: records outside the grid.
        latest: summary.json of the latest invocation, if one has ended.
    """

    run_dir: Path
    grid: Grid
    done: list[TrialKey]
    failed: list[TrialKey]
    todo: list[TrialKey]
    outside: int
    latest: dict[str, Any] | None

    def lines(self) -> list[str]:
        """For people."""
        trials = len(self.grid.keys)
        lines = [
            str(self.run_dir),
            *summary_lines(self.grid, self.done),
            f"trials: {len(self.done)} of {trials} finished ({len(self.done) / trials:.1%}), "
            f"{len(self.failed)} failed, {len(self.todo)} to do",
        ]
        if self.outside:
            lines.append(f"also on disk: {self.outside} records outside this grid")
        lines += [f"failed: {key} (why: {self.run_dir / 'failures'})" for key in self.failed]
        if self.todo or self.failed:
            lines.append(f"resume: lorasweep restore {self.run_dir}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "run_dir": str(self.run_dir),
            "planned": len(self.grid.keys),
            "finished": len(self.done),
            "failed": [str(key) for key in self.failed],
            "to_do": len(self.todo),
            "pairs": {
                config: {"completed": complete, "total": total}
                for config, (complete, total) in pair_counts(self.grid, self.done).items()
            },
            "outside_grid": self.outside,
            "latest": self.latest,
        }


def read_status(run_dir: Path) -> Status:
    """Look at a run directory.

    Raises:
        UserError: it is none.
    """
    run_dir = run_dir.absolute()
    sweep = read_sweep_file(run_dir)
    state = read_records(run_dir, sweep.fingerprints)
    failed = failed_trials(run_dir, state.todo)
    try:
        latest = json.loads((run_dir / "summary.json").read_bytes())
    except (OSError, ValueError):
        latest = None
    return Status(
        run_dir=run_dir,
        grid=sweep.grid,
        done=state.done,
        failed=failed,
        todo=[key for key in state.todo if key not in failed],
        outside=count_other_records(run_dir, sweep.fingerprints),
        latest=latest,
    )
