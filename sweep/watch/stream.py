"""The one stream of a run's events, and who listens: terminal, log, metrics, trackers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lorasweep.trainables.store.events import Event, EventLog, FeaturesProgress, Said, Warned

Subscriber = Callable[[Event], None]

_FEATURE_SECONDS = 2.0


class Stream:
    """Passes every event on to its subscribers, in their order, in the thread that publishes it."""

    def __init__(self, *subscribers: Subscriber) -> None:
        self._subscribers = list(subscribers)

    def publish(self, event: Event) -> None:
        """Tell an event."""
        for subscriber in tuple(self._subscribers):
            subscriber(event)

    def say(self, message: str) -> None:
        """Tell the user something."""
        self.publish(Said(message))

    def warn(self, message: str) -> None:
        """Warn the user."""
        self.publish(Warned(message))

    @contextmanager
    def also(self, subscriber: Subscriber) -> Iterator[None]:
        """Pass events on to one more during the block."""
        self._subscribers.append(subscriber)
        try:
            yield
        finally:
            self._subscribers.remove(subscriber)


def recorder(log: EventLog) -> Subscriber:
    """Writes a driver's events to its log; of the feature stage's progress, a line every two
    seconds. What a worker writes itself is left to it."""
    told = 0.0

    def record(event: Event) -> None:
        nonlocal told
        if event.by_worker or not event.kind:
            return
        if isinstance(event, FeaturesProgress) and event.done < event.total:
            if time.monotonic() - told < _FEATURE_SECONDS:
                return
            told = time.monotonic()
        log.write(event)

    return record
