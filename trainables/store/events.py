"""What happens in a run, as typed events, and the append-only logs they are kept in.

Driver and workers tell the same events. Each process has its own log, one JSON object a line.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from .run_dir import RunDir
from .trial_key import TrialKey

_KINDS: dict[str, type[Event]] = {}


@dataclass(frozen=True)
class Event:
    """Something that happened. A subclass names itself, as its lines in the logs do.

    Attributes:
        kind: that name.
        by_worker: whether the worker concerned writes it to its own log, so that the driver, which
            learns of it through Tune, does not write it once more.
    """

    kind: ClassVar[str]
    by_worker: ClassVar[bool]

    def __init_subclass__(cls, *, kind: str = "", by_worker: bool = False) -> None:
        cls.kind, cls.by_worker = kind, by_worker
        if kind:
            _KINDS[kind] = cls

    def to_json(self) -> dict[str, Any]:
        """The fields; a key as its own fields."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value.to_json() if isinstance(value, TrialKey) else value
            for name, value in values.items()
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Event:
        """Raises TypeError, ValueError or KeyError if a field is missing or strange. What another
        version wrote beside the fields is left out."""
        kind = _KINDS[line["event"]]
        names = {field.name for field in fields(kind)}
        values = {name: value for name, value in line.items() if name in names}
        if "key" in values:
            values["key"] = TrialKey.from_json(values["key"])
        return kind(**values)


# Of a driver


@dataclass(frozen=True)
class Started(Event, kind="started"):
    """A driver begins; `command` is what was typed."""

    command: str = ""


@dataclass(frozen=True)
class Planned(Event, kind="planned"):
    """The grid was compared with the records."""

    done: int = 0
    todo: int = 0


@dataclass(frozen=True)
class Said(Event, kind="said"):
    """A word to the user."""

    message: str


@dataclass(frozen=True)
class Warned(Event, kind="warned"):
    """A warning to the user."""

    message: str


@dataclass(frozen=True)
class DashboardUp(Event, kind="dashboard"):
    """Ray's dashboard answers."""

    url: str


@dataclass(frozen=True)
class RayDied(Event, kind="ray_died"):
    """What a driver cannot do without of Ray died.

    Attributes:
        reason: one line.
        restart: the driver starts afresh, for the first, second, … time; 0: it ends.
    """

    reason: str
    restart: int = 0


@dataclass(frozen=True)
class FeaturesProgress(Event, kind="features_progress"):
    """Adapters that have gone through the feature stage."""

    done: int
    total: int


@dataclass(frozen=True)
class FeaturesDone(Event, kind="features"):
    """The feature stage is over.

    Attributes:
        seconds: from its beginning.
        waited: seconds of them until its workers were up.
        adapters: that it went through.
        computed, cached, failed: names of representations.
    """

    seconds: float = 0.0
    waited: float = 0.0
    adapters: int = 0
    computed: Sequence[str] = ()
    cached: Sequence[str] = ()
    failed: Sequence[str] = ()


@dataclass(frozen=True)
class ExperimentStarted(Event, kind="experiment"):
    """One of Tune's begins: `trials` on `workers`, each with `gpus` of a GPU."""

    workers: int
    trials: int = 0
    gpus: float = 0.0


@dataclass(frozen=True)
class TrialsProgress(Event):
    """Trials of an experiment that ended. For those who watch live: logs tell it trial by trial."""

    done: int
    total: int


@dataclass(frozen=True)
class Interrupted(Event, kind="interrupted"):
    """The driver was told to stop, and stops in order."""


@dataclass(frozen=True)
class Done(Event, kind="done"):
    """The driver is through: the content of summary.json."""

    planned: int = 0
    skipped: int = 0
    ran: int = 0
    failed: int = 0
    not_reached: int = 0
    seconds: float = 0.0
    feature_seconds: float = 0.0
    train_seconds: float = 0.0


# Of a trial


@dataclass(frozen=True)
class TrialEvent(Event):
    """Something about one trial."""

    key: TrialKey


@dataclass(frozen=True)
class TrialStarted(TrialEvent, kind="trial_started", by_worker=True):
    """A worker took it."""


@dataclass(frozen=True)
class TrialResumed(TrialEvent, kind="trial_resumed", by_worker=True):
    """It goes on from its state."""


@dataclass(frozen=True)
class StateDamaged(TrialEvent, kind="state_damaged", by_worker=True):
    """Its state cannot be used: it starts over."""

    reason: str


@dataclass(frozen=True)
class TrialProgress(TrialEvent, kind="trial_progress", by_worker=True):
    """A slice of it is done.

    Attributes:
        epoch: epochs done by now.
        val_acc: validation accuracy after the latest, 0 to 1; None if the classifier tells none.
        slice_seconds: how long the slice took.
    """

    epoch: int
    val_acc: float | None
    slice_seconds: float = 0.0


@dataclass(frozen=True)
class TrialWaiting(TrialEvent):
    """Its worker died; it waits for another. Told by Tune to the driver, which keeps no log of it:
    the next worker's start is the news."""


@dataclass(frozen=True)
class TrialFinished(TrialEvent, kind="trial_finished", by_worker=True):
    """It has a record. Of one whose worker died while telling, only that is known.

    Attributes:
        seconds: the trial in all.
        slice_seconds: its last slice.
        epoch: epochs done.
        val_acc, test_acc: 0 to 1.
    """

    seconds: float = 0.0
    slice_seconds: float = 0.0
    epoch: int = 0
    val_acc: float | None = None
    test_acc: float | None = None


@dataclass(frozen=True)
class TrialFailed(TrialEvent, kind="trial_failed"):
    """It failed for good; `reason` is one line, "" where the cause of several was told before."""

    reason: str = ""


@dataclass(frozen=True)
class TrialOutOfMemory(TrialEvent, kind="trial_out_of_memory", by_worker=True):
    """It found too little GPU memory and is planned again with more."""

    reason: str = ""


@dataclass(frozen=True)
class TrialMisplaced(TrialEvent, kind="trial_misplaced", by_worker=True):
    """It found itself on a node of another kind than the run's, or on one that does not see its
    files, and is planned again elsewhere.

    Attributes:
        node, device, instructions, unseen: see `lorasweep.features.compute.nodes.misplacement`.
    """

    node: str
    device: str
    instructions: str
    unseen: str = ""


# Kept


class EventLog:
    """Appends events to this process's own file, so that no two writers share one.

    Arguments:
        run_dir: the run directory.
        invocation: what the driver calls this invocation.
    """

    def __init__(self, run_dir: Path, invocation: str) -> None:
        name = f"{invocation}-{socket.gethostname()}-{os.getpid()}.jsonl"
        self.path = RunDir(run_dir).events / name

    def write(self, event: Event) -> None:
        """Append one line {"event", "time", …}."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = {"event": event.kind, "time": time.time(), **event.to_json()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def parse_events(lines: bytes) -> Iterator[tuple[float, Event]]:
    """(seconds since the epoch, event) of every line that is whole and known; a line being written
    now, torn by a crash or written by another version may be neither."""
    for line in lines.splitlines():
        try:
            value = json.loads(line)
            event = Event.from_json(value)
            if isinstance(value["time"], float):
                yield value["time"], event
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
