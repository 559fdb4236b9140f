"""What a run is doing and how fast, from its event files. Torn and strange lines are skipped."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from trainables.record import TrialKey
from trainables.run_dir import RunDir

RATE_SECONDS = 600.0
"""A rate is that of the last ten minutes."""

_OF_TRIALS = (
    "trial_started", "trial_progress", "trial_finished", "trial_failed", "trial_out_of_memory",
)  # fmt: skip


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
            "interrupted" or "done".
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
        """How long trials will take: the mean of their pair, else of their representation, else of
        all; empty if nothing is known."""
        if not self.seconds:
            return {}
        by_pair: dict[Any, list[float]] = {}
        for key, seconds in self.seconds.items():
            by_pair.setdefault(key.pair, []).append(seconds)
            by_pair.setdefault(key.label, []).append(seconds)
        everything = list(self.seconds.values())
        return {
            key: fmean(by_pair.get(key.pair) or by_pair.get(key.label) or everything)
            for key in keys
        }

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
    """Read the event files of a run directory."""
    activity = Activity()
    files = {path: read_events(path) for path in sorted(RunDir(run_dir).events.glob("*.jsonl"))}
    starts = {
        path: max(event["time"] for event in events if event["event"] == "started")
        for path, events in files.items()
        if any(event["event"] == "started" for event in events)
    }
    latest = max(starts, key=starts.__getitem__, default=None)
    if latest is not None:
        activity.invocation = _invocation(latest)
        _follow_driver(activity, files[latest])
    taken: dict[TrialKey, RunningTrial] = {}
    ended: dict[TrialKey, float] = {}
    for path, events in files.items():
        mine = _invocation(path) == activity.invocation
        worker = ":".join(path.stem.split("-", 3)[-1].rsplit("-", 1))
        for trial in _follow_worker(activity, events, worker, ended, mine):
            # Of a trial whose worker died, the worker that took it next counts.
            if trial.key not in taken or taken[trial.key].since < trial.since:
                taken[trial.key] = trial
    activity.running = sorted(
        (trial for trial in taken.values() if ended.get(trial.key, 0.0) < trial.since),
        key=lambda trial: trial.since,
    )
    activity.finished_at.sort()
    return activity


def _invocation(path: Path) -> str:
    """What the names of an invocation's event files begin with: <day>-<time>-<process>."""
    return "-".join(path.stem.split("-")[:3])


def _follow_driver(activity: Activity, events: list[dict[str, Any]]) -> None:
    for event in events:
        kind = event["event"]
        if kind in ("started", "planned"):
            activity.stage = "starting"
        elif kind == "dashboard":
            activity.dashboard = event["url"]
        elif kind == "features_progress":
            activity.stage = "computing features"
            activity.features = event["done"], event["total"]
        elif kind == "features":
            activity.features = None
        elif kind == "experiment":
            activity.stage, activity.workers = "training", event["workers"]
        elif kind in ("interrupted", "done"):
            activity.stage = kind


def _follow_worker(
    activity: Activity,
    events: list[dict[str, Any]],
    worker: str,
    ended: dict[TrialKey, float],
    mine: bool,
) -> list[RunningTrial]:
    """Take in one process's events; returns the trial it did not end, if any.

    Arguments:
        ended: trial -> when it ended last, updated.
        mine: whether the process belongs to the latest invocation.
    """
    running: RunningTrial | None = None
    for event in events:
        kind = event["event"]
        if kind not in _OF_TRIALS:
            continue
        key = TrialKey.from_json(event["key"])
        if kind == "trial_started":
            running = RunningTrial(key, event["time"], 0, None, worker)
        elif kind == "trial_progress":
            if running is not None:
                running = RunningTrial(key, running.since, event["epoch"], event["val_acc"], worker)
        else:
            running = None
            ended[key] = max(ended.get(key, 0.0), event["time"])
            if kind == "trial_finished":
                activity.seconds[key] = event["seconds"]
                if mine:
                    activity.finished_at.append(event["time"])
    return [running] if mine and running is not None else []


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of one file; a line being written now, or torn by a crash, is left out."""
    events = []
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
            if isinstance(event["event"], str) and isinstance(event["time"], float):
                events.append(event)
        except (ValueError, TypeError, KeyError):
            continue
    return events
