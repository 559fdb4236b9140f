"""What a run is doing and how fast, from its event files. Torn and strange lines are skipped."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from lorasweep.trainables.store.events import (
    DashboardUp,
    Done,
    Event,
    ExperimentStarted,
    FeaturesDone,
    FeaturesProgress,
    Interrupted,
    Planned,
    RayDied,
    Started,
    TrialEvent,
    TrialFailed,
    TrialFinished,
    TrialMisplaced,
    TrialOutOfMemory,
    TrialProgress,
    TrialStarted,
    parse_events,
)
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

RATE_SECONDS = 600.0
"""A rate is that of the last ten minutes."""


@dataclass(frozen=True)
class RunningTrial:
    """A trial some worker is training.

    Attributes:
        since: when the worker took it, seconds since the epoch.
        epoch: epochs done at the end of the latest slice; 0 in the first.
        val_acc: validation accuracy then; None in the first slice.
        worker: "host:process".
    """

    key: TrialKey
    since: float
    epoch: int
    val_acc: float | None
    worker: str


@dataclass
class Activity:
    """What the events of a run directory tell.

    Attributes:
        invocation: the latest one; "" if there is none.
        stage: what its driver did last: "starting", "computing features", "training",
            "interrupted", "done", "starting afresh" since Ray had died, or "ray died".
        dashboard: address of the Ray dashboard it started; None if it started none.
        features: (adapters done, adapters in all) while features are being computed.
        workers: trial workers it has, 0 before it has any.
        running: the trials its workers took and did not end.
        finished_at: when trials of this invocation finished, ascending.
        seconds: of every finished trial, of all invocations.
    """

    invocation: str = ""
    stage: str = ""
    dashboard: str | None = None
    features: tuple[int, int] | None = None
    workers: int = 0
    running: list[RunningTrial] = field(default_factory=list)
    finished_at: list[float] = field(default_factory=list)
    seconds: dict[TrialKey, float] = field(default_factory=dict)

    def rate(self, now: float) -> float | None:
        """Trials per second lately; None before two have finished."""
        lately = [at for at in self.finished_at if now - at < RATE_SECONDS]
        if len(lately) < 2 or now <= lately[0]:
            return None
        return (len(lately) - 1) / (now - lately[0])

    def trial_seconds(self, keys: list[TrialKey]) -> dict[TrialKey, float]:
        """How long trials will take: the mean of their cell, else of their representation, else of
        all; empty if nothing is known."""
        if not self.seconds:
            return {}
        by_cell: dict[Any, list[float]] = {}
        for key, seconds in self.seconds.items():
            by_cell.setdefault(key.cell, []).append(seconds)
            by_cell.setdefault(key.method, []).append(seconds)
        means = {of: fmean(seconds) for of, seconds in by_cell.items()}
        everything = fmean(self.seconds.values())
        return {key: means.get(key.cell, means.get(key.method, everything)) for key in keys}

    def seconds_left(self, todo: list[TrialKey], now: float) -> float | None:
        """Until trials have run, shared evenly by the workers; None if nothing is known.

        Arguments:
            todo: trials without a record, those that are running among them.
        """
        times = self.trial_seconds(todo)
        if not todo or not times:
            return 0.0 if not todo else None
        for trial in self.running:
            if trial.key in times:
                times[trial.key] = max(0.0, times[trial.key] - (now - trial.since))
        workers = max(1, min(self.workers, len(todo)))
        return max(sum(times.values()) / workers, max(times.values()))


def read_activity(run_dir: Path) -> Activity:
    """Read the event files of a run directory, once."""
    return ActivityReader(run_dir).read()


class ActivityReader:
    """Reads event files again and again, of each only what was appended since the last time.

    Arguments:
        run_dir: the run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self._folder = RunDir(run_dir).events
        self._files: dict[Path, _EventFile] = {}

    def read(self) -> Activity:
        """What all events tell by now."""
        before, self._files = self._files, {}
        for path in sorted(self._folder.glob("*.jsonl")):
            file = before.get(path) or _EventFile(path)
            try:
                self._files[path] = file.follow()
            except FileNotFoundError:
                continue
        return _combine(list(self._files.values()))


def _combine(files: list[_EventFile]) -> Activity:
    """What the files tell together."""
    activity = Activity()
    driver = max((f for f in files if f.started is not None), key=_started, default=None)
    if driver is not None:
        activity.invocation = driver.invocation
        activity.stage, activity.dashboard = driver.stage, driver.dashboard
        activity.features, activity.workers = driver.features, driver.workers
    taken: dict[TrialKey, RunningTrial] = {}
    ended: dict[TrialKey, float] = {}
    for file in files:
        activity.seconds |= file.seconds
        for key, at in file.ended.items():
            ended[key] = max(ended.get(key, 0.0), at)
        if file.invocation != activity.invocation:
            continue
        activity.finished_at += file.finished_at
        trial = file.running
        # Of a trial whose worker died, the worker that took it next counts.
        if trial and (trial.key not in taken or taken[trial.key].since < trial.since):
            taken[trial.key] = trial
    activity.running = sorted(
        (trial for trial in taken.values() if ended.get(trial.key, 0.0) < trial.since),
        key=lambda trial: trial.since,
    )
    activity.finished_at.sort()
    return activity


def _started(file: _EventFile) -> float:
    return file.started or 0.0


class _EventFile:
    """One process's events so far: how much of the file was read, and what that came to.

    Attributes:
        invocation: what the names of its files begin with: <day>-<time>-<process>.
        started: when the process started an invocation, if it is a driver.
        stage, dashboard, features, workers: see `Activity`; a driver's.
        running: the trial it took and did not end.
        ended: trial -> when it ended last.
        finished_at: when trials finished.
        seconds: of every finished trial.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._worker = ":".join(path.stem.split("-", 3)[-1].rsplit("-", 1))
        self.invocation = "-".join(path.stem.split("-")[:3])
        self._forget()

    def _forget(self) -> None:
        self._read = 0
        self.started: float | None = None
        self.stage = ""
        self.dashboard: str | None = None
        self.features: tuple[int, int] | None = None
        self.workers = 0
        self.running: RunningTrial | None = None
        self.ended: dict[TrialKey, float] = {}
        self.finished_at: list[float] = []
        self.seconds: dict[TrialKey, float] = {}

    def follow(self) -> _EventFile:
        """Take in the whole lines that were appended; a line without its end is left for later."""
        with open(self._path, "rb") as file:
            if os.fstat(file.fileno()).st_size < self._read:
                self._forget()
            file.seek(self._read)
            lines = file.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read += len(lines)
        for at, event in parse_events(lines):
            self._take(at, event)
        return self

    def _take(self, at: float, event: Event) -> None:
        match event:
            case TrialEvent():
                self._take_trial(at, event)
            case Started():
                self.stage, self.started = "starting", max(self.started or 0.0, at)
            case Planned():
                self.stage = "starting"
            case DashboardUp(url):
                self.dashboard = url
            case RayDied():
                self.stage = "starting afresh" if event.restart else "ray died"
            case FeaturesProgress(done, total):
                self.stage, self.features = "computing features", (done, total)
            case FeaturesDone():
                self.features = None
            case ExperimentStarted(workers):
                self.stage, self.workers = "training", workers
            case Interrupted() | Done():
                self.stage = event.kind

    def _take_trial(self, at: float, event: TrialEvent) -> None:
        match event:
            case TrialStarted(key):
                self.running = RunningTrial(key, at, 0, None, self._worker)
            case TrialProgress(key, epoch, accuracy):
                if self.running is not None:
                    since = self.running.since
                    self.running = RunningTrial(key, since, epoch, accuracy, self._worker)
            case TrialMisplaced():
                self.running = None
            case TrialFinished(key) | TrialFailed(key) | TrialOutOfMemory(key):
                self.running = None
                self.ended[key] = max(self.ended.get(key, 0.0), at)
                if isinstance(event, TrialFinished):
                    self.seconds[key] = event.seconds
                    self.finished_at.append(at)
