"""How far a run directory is, from its files alone: neither Ray nor torch nor the dataset."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.lock import HolderWatch, is_alive, name_of, read_lock
from lorasweep.sweep.request.grid import Grid
from lorasweep.sweep.store.class_labels import read_labels
from lorasweep.sweep.store.plan import Known, count_other_records, failed_trials, read_records
from lorasweep.sweep.store.sweep_file import SweepFile, read_sweep_file
from lorasweep.trainables.classifiers.catalogue import step_names
from lorasweep.trainables.data.split_sizes import sizes_in_words, small_split_warnings
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.standing import Standing, best_of
from lorasweep.trainables.store.trial_key import TrialKey

from .activity import Activity, ActivityReader
from .counts import group_heading, pair_counts, summary_lines
from .terminal import format_seconds

_COLUMNS = ("finished", "running", "failed", "to do")


@dataclass(frozen=True)
class BestTrial:
    """The finished trial that stands best; see `Standing`."""

    key: TrialKey
    val_acc: float
    test_acc: float


@dataclass(frozen=True)
class Status:
    """What is done, what is being done, and how long the rest will take.

    Attributes:
        at: when this was found out, seconds since the epoch.
        grid: what the last run asked for.
        done: trials with a valid record.
        failed: trials that failed after their retries.
        todo: all others, those that are running among them.
        outside: records outside the grid.
        latest: summary.json of the latest invocation, if one has ended.
        driver: what driver.lock says, if there is one.
        alive: whether that driver lives.
        activity: what the events tell. Nothing is running if the driver is dead.
        best: None before a trial has finished.
        run_bytes: size of the run directory.
        cache_bytes: size of the feature cache it uses; None if that is not here.
        split: sizes of the split in words; "" where labels.json is not there.
        warnings: ways in which the split is too small.
    """

    run_dir: Path
    at: float
    grid: Grid
    done: list[TrialKey]
    failed: list[TrialKey]
    todo: list[TrialKey]
    outside: int
    latest: dict[str, Any] | None
    driver: dict[str, Any] | None
    alive: bool
    activity: Activity
    best: BestTrial | None
    run_bytes: int
    cache_bytes: int | None
    split: str
    warnings: list[str]

    @property
    def trials_per_second(self) -> float | None:
        """Rate of the last ten minutes; None if nothing runs or too little is known."""
        return self.activity.rate(self.at) if self.alive else None

    @property
    def seconds_left(self) -> float | None:
        """Until the last trial; None if nothing runs or no trial has finished yet."""
        return self.activity.seconds_left(self.todo, self.at) if self.alive else None

    @property
    def dashboard(self) -> str | None:
        """Address of the Ray dashboard, on the driver's host; None if none runs."""
        return self.activity.dashboard if self.alive else None

    def counts(self) -> dict[tuple[str, str], dict[str, int]]:
        """(config, method) -> how many of its trials are finished, running, …."""
        running = {trial.key for trial in self.activity.running}
        waiting = [key for key in self.todo if key not in running]
        groups = (self.done, [key for key in self.todo if key in running], self.failed, waiting)
        tallies = [Counter(key.cell for key in keys) for keys in groups]
        return {
            cell: {name: tally[cell] for name, tally in zip(_COLUMNS, tallies)}
            for cell in dict.fromkeys(key.cell for key in self.grid.keys)
        }

    def lines(self) -> list[str]:
        """For people."""
        trials, running = len(self.grid.keys), len(self.activity.running)
        lines = [
            str(self.run_dir),
            *([f"split: {self.split}"] if self.split else []),
            *(f"warning: {line}" for line in self.warnings),
            *summary_lines(self.grid, self.done),
            f"trials: {len(self.done)} of {trials} finished ({len(self.done) / trials:.1%}), "
            f"{running} running, {len(self.failed)} failed, {len(self.todo) - running} to do",
            f"driver: {self._driver_line()}",
        ]
        if self.dashboard:
            lines.append(f"dashboard: {self.dashboard} (log in with `ray get-auth-token`)")
        if self.alive and self.activity.features:
            done, total = self.activity.features
            lines.append(f"features: {done} of {total} adapters ({done / total:.1%})")
        if self.alive and self.todo:
            lines.append(f"speed: {self._speed_line()}")
        if self.best:
            lines.append(
                f"best so far: {self.best.key}, validation {self.best.val_acc:.1%}, "
                f"test {self.best.test_acc:.1%}"
            )
        features = f", {format_bytes(self.cache_bytes)} of features" if self.cache_bytes else ""
        lines.append(f"disk: {format_bytes(self.run_bytes)}{features}")
        lines += ["", *self._table()]
        if self.activity.running:
            lines += ["", "running now:", *map(self._running_line, self.activity.running)]
        tail = []
        if self.outside:
            tail.append(f"also on disk: {self.outside} records outside this grid")
        tail += [f"failed: {key} (why: {RunDir(self.run_dir).failure(key)})" for key in self.failed]
        if (self.todo or self.failed) and not self.alive:
            tail.append(f"resume: lorasweep restore {self.run_dir}")
        return [*lines, "", *tail] if tail else lines

    def _driver_line(self) -> str:
        stage = self.activity.stage
        if self.driver is None or not self.alive:
            how = {
                "done": "ended",
                "interrupted": "was interrupted",
                "ray died": "ended when Ray died",
                "": "never ran",
            }
            return f"not running; it {how.get(stage, f'died while {stage}')}"
        ago = max(0, round(self.at - self.driver["written"]))
        return f"{stage or 'starting'} ({name_of(self.driver)}, last heard of {ago} s ago)"

    def _speed_line(self) -> str:
        rate, left = self.trials_per_second, self.seconds_left
        parts = [f"{self.activity.workers} workers"] if self.activity.workers else []
        if rate:
            parts.append(f"{60 * rate:.3g} trials a minute")
        parts.append(f"about {format_seconds(left)} left" if left is not None else "no trial yet")
        return ", ".join(parts)

    def _table(self) -> list[str]:
        times = self.activity.trial_seconds(self.grid.keys)
        known = {key.cell for key in self.activity.seconds}
        headings = [group_heading(self.grid, name) for name in self.grid.groups]
        width = max(map(len, (*self.grid.by_method, *headings))) + 2
        lines = []
        counts = self.counts()
        header = "".join(f"{name:>10}" for name in (*_COLUMNS, "s/trial"))
        for heading, configs in zip(headings, self.grid.groups.values()):
            lines.append(f"{heading:{width}}{header}")
            for method in self.grid.by_method:
                cells = [(c, method) for c in configs if method in self.grid.methods_of(c)]
                if not cells:
                    continue
                numbers = "".join(
                    f"{sum(counts[cell][column] for cell in cells):>10}" for column in _COLUMNS
                )
                took = [times[self.grid.keys_of(cell)[0]] for cell in cells if cell in known]
                seconds = f"{fmean(took):10.1f}" if took else ""
                lines.append(f"  {method:{width - 2}}{numbers}{seconds}".rstrip())
        return lines

    def _running_line(self, trial: Any) -> str:
        accuracy = f", validation {trial.val_acc:.1%}" if trial.val_acc is not None else ""
        since = format_seconds(max(0.0, self.at - trial.since))
        step, _ = step_names(trial.key.classifier)
        return f"  {trial.key}: {step} {trial.epoch}{accuracy}, for {since} on {trial.worker}"

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        running = [
            {
                **trial.key.to_json(),
                "epoch": trial.epoch,
                "val_acc": trial.val_acc,
                "seconds": self.at - trial.since,
                "worker": trial.worker,
            }
            for trial in self.activity.running
        ]
        features = self.activity.features if self.alive else None
        return {
            "run_dir": str(self.run_dir),
            "split": self.split,
            "warnings": self.warnings,
            "planned": len(self.grid.keys),
            "finished": len(self.done),
            "failed": [str(key) for key in self.failed],
            "to_do": len(self.todo),
            "pairs": {
                config: {"completed": complete, "total": total}
                for config, (complete, total) in pair_counts(self.grid, self.done).items()
            },
            "trials": [
                {
                    "config": config,
                    "representation": self.grid.by_method[method].representation,
                    "classifier": self.grid.by_method[method].classifier,
                    **counts,
                }
                for (config, method), counts in self.counts().items()
            ],
            "driver": {
                "alive": self.alive,
                "stage": self.activity.stage,
                **{name: (self.driver or {}).get(name) for name in ("host", "pid", "heartbeat")},
            },
            "dashboard": self.dashboard,
            "features": {"done": features[0], "total": features[1]} if features else None,
            "workers": self.activity.workers if self.alive else 0,
            "running": running,
            "trials_per_second": self.trials_per_second,
            "seconds_left": self.seconds_left,
            "best": self.best
            and {
                **self.best.key.to_json(),
                "val_acc": self.best.val_acc,
                "test_acc": self.best.test_acc,
            },
            "run_bytes": self.run_bytes,
            "cache_bytes": self.cache_bytes,
            "outside_grid": self.outside,
            "latest": self.latest,
        }


class StatusCache:
    """Cache between status reads of one run directory.

    Attributes:
        records: those already read.
        events: reads what was appended.
        driver: sees whether its heartbeat changes.
        split: seed, sizes of its split and warnings; None before the labels were read.
    """

    def __init__(self, run_dir: Path) -> None:
        self.records: Known = {}
        self.split: tuple[int, str, list[str]] | None = None
        self.events = ActivityReader(run_dir.absolute())
        self.driver = HolderWatch()


def read_status(run_dir: Path, memory: StatusCache | None = None) -> Status:
    """Look at a run directory.

    Arguments:
        memory: of earlier looks at it; updated.

    Raises:
        UserError: it is none.
    """
    run_dir = run_dir.absolute()
    memory = memory or StatusCache(run_dir)
    sweep = read_sweep_file(run_dir)
    fingerprints = sweep.fingerprints
    state = read_records(run_dir, fingerprints, memory.records)
    failed = failed_trials(run_dir, {key: fingerprints[key] for key in state.todo})
    failing = set(failed)
    driver = read_lock(RunDir(run_dir).lock)
    alive = driver is not None and is_alive(driver, memory.driver)
    activity = memory.events.read()
    if not alive:
        activity.running = []
    standings = {key: Standing.of_records([record]) for key, record in state.records.items()}
    best = None
    if standings:
        metrics = state.records[key := best_of(standings)]["metrics"]
        best = BestTrial(key, metrics["val_acc"], metrics["test_acc"])
    try:
        latest = json.loads(RunDir(run_dir).summary.read_bytes())
    except (OSError, ValueError):
        latest = None
    cache = Path(sweep.environment.get("cache_dir", ""))
    if memory.split is None or memory.split[0] != sweep.grid.seeds[0]:
        memory.split = _split(run_dir, sweep)
    _, split, warnings = memory.split or (0, "", [])
    return Status(
        run_dir=run_dir,
        at=time.time(),
        grid=sweep.grid,
        done=state.done,
        failed=failed,
        todo=[key for key in state.todo if key not in failing],
        outside=count_other_records(run_dir, fingerprints),
        latest=latest,
        driver=driver,
        alive=alive,
        activity=activity,
        best=best,
        run_bytes=_size(run_dir),
        cache_bytes=_size(cache) if cache.is_absolute() and cache.is_dir() else None,
        split=split,
        warnings=warnings,
    )


def _split(run_dir: Path, sweep: SweepFile) -> tuple[int, str, list[str]] | None:
    """Return a seed, sizes of its split in words, and warnings; None without labels."""
    try:
        labels = read_labels(run_dir)
    except UserError:
        return None
    seed, classes = sweep.grid.seeds[0], sweep.frozen["classes"]
    return (
        seed,
        sizes_in_words(labels.split, len(labels.classes), seed),
        small_split_warnings(labels.split, labels.classes, classes, seed),
    )


def watch(run_dir: Path, seconds: float) -> None:
    """Show the status again and again until the driver is gone.

    On a terminal it is redrawn in place; elsewhere each look is printed below the last.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    memory = StatusCache(run_dir)
    console = Console(highlight=False, soft_wrap=False)
    status = read_status(run_dir, memory)
    if not console.is_terminal:
        print("\n".join(status.lines()), flush=True)
        while status.alive:
            time.sleep(seconds)
            status = read_status(run_dir, memory)
            print("\n" + "\n".join(status.lines()), flush=True)
        return
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(Text("\n".join(status.lines())), refresh=True)
            if not status.alive:
                return
            time.sleep(seconds)
            status = read_status(run_dir, memory)


def _size(folder: Path) -> int:
    """Bytes of all files in a folder. Files may come and go meanwhile."""
    total = 0
    todo = [str(folder)]
    while todo:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


def format_bytes(size: float) -> str:
    """1.2 MB, in powers of ten."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
