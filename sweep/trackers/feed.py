"""Telling a tracker of every record once, whatever state the tracker is in."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from lorasweep.features.common.files import digest, file_stamp, write_json
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

from .trial import TrackedTrial, tracked_trial

_PATIENCE_SECONDS = 30.0
_PATIENCE_INTERRUPTED_SECONDS = 5.0
_SHARE_OF_NOTES = 0.05
"""Of the thread's time: a note names every trial told, and is written anew."""


class Tracker(Protocol):
    """Writes finished trials somewhere. Used by one thread."""

    place: str
    """Where, as far as the environment decides it. Another place has to be told everything."""

    def log(self, key: TrialKey, trial: TrackedTrial) -> None:
        """Write one trial, in place of an earlier record of it; whatever goes wrong is raised."""

    def close(self) -> None:
        """Give back what it holds."""


class TrackerFeed:
    """Tells a tracker of every trial that has a record, once, from a thread.

    What has been told stands in trackers/<name>.json, with the records' checksums, so that a later
    run tells what an interrupted one could not. As a context manager it ends by waiting for what is
    still to be told, half a minute at most. The thread starts with the first trial to tell.

    Arguments:
        name: of the tracker, for messages.
        settings: of a classifier by its name.
        warn: called, from the thread, with the first thing that goes wrong.
        held: whether the run directory is still this driver's; if not, nothing more is written.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        run_dir: Path,
        settings: Callable[[str], dict[str, Any]],
        warn: Callable[[str], None],
        held: Callable[[], bool],
    ) -> None:
        self._name, self._tracker, self._run_dir = name, tracker, run_dir
        self._settings, self._warn, self._held = settings, warn, held
        self._path = RunDir(run_dir).trackers / f"{name}.json"
        # Its digest, since the address of a server may hold a password.
        self._place = digest(tracker.place)
        self._told = _read_note(self._path, self._place)
        self._next_note = 0.0
        self._failed = 0
        self._down = self._ending = self._abandoned = False
        self._queue: queue.Queue[TrialKey | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def tell(self, keys: Iterable[TrialKey]) -> None:
        """Have trials told, unless they have been."""
        for key in keys:
            if self._is_noted(key):
                continue
            self._queue.put(key)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name=f"tracker-{self._name}", daemon=True
                )
                self._thread.start()

    def __enter__(self) -> TrackerFeed:
        return self

    def __exit__(self, kind: type[BaseException] | None, *reason: object) -> None:
        if self._thread is None:
            return
        self._ending = True
        self._queue.put(None)
        self._thread.join(_PATIENCE_SECONDS if kind is None else _PATIENCE_INTERRUPTED_SECONDS)
        # The end mark in the queue stands for the trial being told.
        left = self._queue.qsize() if self._thread.is_alive() else 0
        self._abandoned = True
        if (self._failed or left) and self._may_write():
            self._warn(
                f"{self._name}: {self._failed + left} trials could not be logged; "
                "the same command again tries again"
            )

    def _is_noted(self, key: TrialKey) -> bool:
        """Whether the very file that the record is in now has been told; does not read it."""
        told = self._told.get(str(key))
        try:
            return told is not None and told["file"] == self._stamp(key)
        except OSError:
            return False

    def _stamp(self, key: TrialKey) -> list[Any]:
        """Size, modification time and so on; not the path, as a run directory may be moved."""
        return file_stamp(RunDir(self._run_dir).record(key))[1:]

    def _may_write(self) -> bool:
        with contextlib.suppress(OSError):
            return self._held()
        return False

    # In the thread

    def _work(self) -> None:
        while (key := self._queue.get()) is not None and not self._abandoned and self._may_write():
            if self._ending and self._down:
                # Nobody waits for a tracker that is away to refuse every trial in turn.
                self._failed += 1
                continue
            try:
                self._log(key)
                if time.monotonic() > self._next_note:
                    self._write_note()
            except Exception as error:
                # A tracker may raise anything, and none of it may stop a sweep.
                self._failed += 1
                if self._failed == 1:
                    self._warn(f"{self._name}: cannot log {key}: {error!r}")
        with contextlib.suppress(Exception):
            self._write_note()
        with contextlib.suppress(Exception):
            self._tracker.close()

    def _log(self, key: TrialKey) -> None:
        stamp = self._stamp(key)
        record = read_record(self._run_dir, key)
        told = self._told.get(str(key))
        if told is None or told["checksum"] != record["checksum"]:
            written = stamp[1] / 1e9
            self._down = True  # unless it takes this one
            self._tracker.log(
                key, tracked_trial(key, record, self._settings(key.classifier), written)
            )
            self._down = False
        self._told[str(key)] = {"checksum": record["checksum"], "file": stamp}

    def _write_note(self) -> None:
        if not self._told or not self._may_write():
            return  # a place that takes nothing is no reason to forget another
        began = time.monotonic()
        note = {"place": self._place, "told": self._told}
        write_json(self._path, note, indent=None, durable=False)
        now = time.monotonic()
        self._next_note = now + (now - began) / _SHARE_OF_NOTES


def _read_note(path: Path, place: str) -> dict[str, dict[str, Any]]:
    """What a place has been told of; nothing if the note is of another or damaged."""
    try:
        note = json.loads(path.read_bytes())
        if note["place"] != place:
            return {}
        return {
            key: {"checksum": told["checksum"], "file": told["file"]}
            for key, told in note["told"].items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}
