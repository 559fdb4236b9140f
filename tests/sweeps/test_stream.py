"""The events of a run: written, read again, and passed on."""

import json
from dataclasses import fields

import pytest

from lorasweep.sweep.watch.stream import Stream, recorder
from lorasweep.trainables.store.events import (
    Done,
    Event,
    EventLog,
    FeaturesProgress,
    Said,
    Started,
    TrialFailed,
    TrialFinished,
    TrialProgress,
    TrialsProgress,
    TrialWaiting,
    Warned,
    parse_events,
)
from lorasweep.trainables.store.trial_key import TrialKey

KEY = TrialKey("all_layers", "stats", 42, "linear")
VALUES = {"int": 3, "float": 0.5, "str": "text", "TrialKey": KEY, "Sequence[str]": ["a", "b"]}


def written() -> list[type[Event]]:
    """Every kind of event that has a name in the logs."""
    found, left = [], list(Event.__subclasses__())
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        found += [kind] if kind.kind else []
    return found


def example(kind: type[Event]) -> Event:
    return kind(**{f.name: VALUES[str(f.type).split(" | ")[0]] for f in fields(kind)})


@pytest.mark.parametrize("kind", written(), ids=lambda kind: kind.kind)
def test_what_is_written_is_read(kind, tmp_path):
    log = EventLog(tmp_path, "20260101-000000-1")
    event = example(kind)
    log.write(event)
    ((at, found),) = parse_events(log.path.read_bytes())
    assert found == event
    assert at > 0


def test_other_versions_and_torn_lines_are_left_out(tmp_path):
    log = EventLog(tmp_path, "20260101-000000-1")
    log.write(Started("lorasweep run"))
    later = {"event": "started", "time": 2.0, "command": "x", "field_of_tomorrow": 1}
    lines = log.path.read_bytes() + b"\n".join(
        json.dumps(line).encode()
        for line in (
            {"event": "kind_of_tomorrow", "time": 1.0},
            {"event": "trial_started", "time": 1.0, "key": 3},
            {"event": "dashboard", "time": 1.0},
            {"event": "interrupted", "time": "now"},
            ["no", "event"],
            later,
        )
    )
    events = [event for _, event in parse_events(lines + b'\n{"event": "done", "ti')]
    assert events == [Started("lorasweep run"), Started("x")]


def test_a_driver_keeps_what_its_workers_do_not(tmp_path):
    log = EventLog(tmp_path, "20260101-000000-1")
    stream = Stream(recorder(log))
    for event in (
        *(FeaturesProgress(done, 100) for done in range(1, 101)),
        TrialProgress(KEY, 1, 0.5),
        TrialWaiting(KEY),
        TrialFinished(KEY, 1.0),
        TrialsProgress(1, 2),
        TrialFailed(KEY, "no reason"),
        Done(ran=1),
    ):
        stream.publish(event)
    kept = [event for _, event in parse_events(log.path.read_bytes())]
    assert kept == [
        FeaturesProgress(1, 100),
        FeaturesProgress(100, 100),
        TrialFailed(KEY, "no reason"),
        Done(ran=1),
    ]


def test_subscribers_hear_everything_in_order():
    first, second, heard = [], [], []
    stream = Stream(first.append, second.append)
    with stream.also(heard.append):
        stream.say("hello")
    stream.warn("careful")
    assert first == second == [Said("hello"), Warned("careful")]
    assert heard == [Said("hello")]
