"""What a running sweep tells Prometheus, through the metrics endpoint of Ray's nodes.

Everything is set by the driver, which learns of every start, slice and end of a trial anyway: a
reused worker could go on showing a trial it has ended. Ray drops a gauge that is not set again
within two of its reporting intervals, so a thread sets all of them twice a second; what is over
disappears by itself.

Ray's ports and folders change from run to run. So beside the run directory lies, while it runs, a
file that tells Prometheus where to look.

Metrics are for watching. Whatever goes wrong with them is logged once, and the run goes on.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lorasweep.features.common.files import DamagedFileError, write_json
from lorasweep.features.layers.families import family_of
from lorasweep.sweep.process.supervisor import restarts
from lorasweep.trainables.store.events import (
    Event,
    ExperimentStarted,
    FeaturesDone,
    FeaturesProgress,
    TrialEvent,
    TrialFailed,
    TrialFinished,
    TrialMisplaced,
    TrialOutOfMemory,
    TrialProgress,
    TrialStarted,
    TrialWaiting,
)
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

logger = logging.getLogger("ray.lorasweep")  # to the run's log file, with what Ray says

_REFRESH_SECONDS = 0.5
"""Below Ray's shortest reporting interval, a second."""

_TRIAL_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)

_PAIR = ("run", "config", "representation", "classifier")
_TRIAL = (*_PAIR, "seed", "fold")

_Pair = tuple[str, str, str]
"""Config or family, representation, classifier: of a family there may be hundreds of members."""

State = Literal["finished", "running", "failed", "todo"]
_STATES: tuple[State, ...] = ("finished", "running", "failed", "todo")
_AFTER: dict[type[TrialEvent], State] = {
    TrialStarted: "running",
    TrialProgress: "running",
    TrialWaiting: "todo",
    TrialFinished: "finished",
    TrialFailed: "failed",
    TrialOutOfMemory: "todo",
    TrialMisplaced: "todo",
}
_OUTCOMES: dict[type[TrialEvent], str] = {
    TrialFinished: "finished",
    TrialFailed: "failed",
    TrialOutOfMemory: "out of memory",
}


@dataclass(frozen=True)
class _Slice:
    """How far a running trial is; in its first slice that is not known yet."""

    epoch: int = 0
    val_acc: float | None = None


class SweepMetrics:
    """How far a run is, as metrics tagged with the run directory's name.

    Nothing is exported outside `exporting`; what is told before counts all the same.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._lock = threading.Lock()
        self._state: dict[TrialKey, State] = {}
        self._counts: Counter[tuple[_Pair, State]] = Counter()
        self._running: dict[TrialKey, _Slice] = {}
        self._best: dict[_Pair, float] = {}
        self._adapters: tuple[int, int] | None = None
        self._first_adapters = 0, 0.0
        self._adapters_per_second: float | None = None
        self._workers = 0
        self._instruments: _Instruments | None = None

    # Told by the driver

    def begin_with(
        self, records: dict[TrialKey, dict[str, Any]], todo: list[TrialKey], failed: list[TrialKey]
    ) -> None:
        """The grid as it is on disk.

        Arguments:
            todo: trials without a record.
            failed: those of them whose failure is recorded.
        """
        with self._lock:
            for key in (*records, *todo):
                self._move(key, "finished" if key in records else "todo")
            for key in failed:
                self._move(key, "failed")
            for key, record in records.items():
                self._score(key, record["metrics"]["val_acc"])

    def take(self, event: Event) -> None:
        """Take an event of the run in."""
        with self._lock:
            match event:
                case FeaturesProgress(done, total):
                    self._computed(done, total)
                case FeaturesDone(adapters=adapters):
                    seconds = event.seconds - event.waited
                    self._adapters_per_second = adapters / seconds if seconds > 0 else None
                case ExperimentStarted(workers):
                    self._workers = workers
                case TrialEvent():
                    self._heard(event)

    def _computed(self, done: int, total: int) -> None:
        now = time.monotonic()
        before = self._adapters[0] if self._adapters else 0
        self._adapters = done, total
        if not before:
            # Until the first arrive, workers start: the rate is that of the time since.
            self._first_adapters = done, now
        elif now > self._first_adapters[1]:
            first, began = self._first_adapters
            self._adapters_per_second = (done - first) / (now - began)
        if done > before:
            self._try(lambda to: to.adapters_computed.inc(done - before))

    def _heard(self, event: TrialEvent) -> None:
        key, state = event.key, _AFTER.get(type(event))
        if state is None:
            return
        self._move(key, state)
        if state == "running":
            now = event if isinstance(event, TrialProgress) else None
            self._running[key] = _Slice(now.epoch, now.val_acc) if now else _Slice()
            return
        last = self._running.pop(key, None)
        if last is not None:
            self._try(lambda to: to.clear(key, last))
        outcome = _OUTCOMES.get(type(event))
        if outcome is None:
            return
        seconds = 0.0
        if isinstance(event, TrialFinished):
            seconds = event.seconds
            self._score(key, self._val_acc(event))
        self._try(lambda to: to.end(key, outcome, seconds))

    def counts(self) -> dict[_Pair, dict[State, int]]:
        """(config or family, representation, classifier) -> how many of its trials are in each
        state."""
        with self._lock:
            pairs = dict.fromkeys(pair for pair, _ in self._counts)
            return {pair: {state: self._counts[pair, state] for state in _STATES} for pair in pairs}

    # Exported

    @contextmanager
    def exporting(self) -> Iterator[None]:
        """Export during the block, and say where beside the run directory. Ray must be running."""
        over = threading.Event()

        def refresh() -> None:
            while not over.wait(_REFRESH_SECONDS):
                self._refresh()

        path = RunDir(self._run_dir).metrics_targets
        try:
            self._instruments = _Instruments(self._run_dir.name)
            write_json(path, [{"targets": _node_endpoints()}], durable=False)
        except Exception:
            self._instruments = None
            logger.exception("metrics are not exported")
        if self._instruments is None:
            yield
            return
        self._refresh()
        thread = threading.Thread(target=refresh, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._refresh()
            self._instruments = None
            with suppress(OSError):
                path.unlink()

    def _refresh(self) -> None:
        with self._lock:
            self._try(self._set_gauges)

    def _set_gauges(self, to: _Instruments) -> None:
        for (pair, state), count in self._counts.items():
            to.trials.set(count, {**_tags(pair), "state": state})
        for key, now in self._running.items():
            to.show(key, now)
        for pair, accuracy in self._best.items():
            to.best_val_accuracy.set(accuracy, _tags(pair))
        to.workers.set(self._workers)
        to.ray_restarts.set(restarts())
        if self._adapters:
            done, total = self._adapters
            to.adapters.set(done, {"state": "done"})
            to.adapters.set(total - done, {"state": "todo"})
        if self._adapters_per_second is not None:
            to.adapters_per_second.set(self._adapters_per_second)

    def _try(self, what: Callable[[_Instruments], None]) -> None:
        """Set something; after the first failure, nothing any more."""
        if self._instruments is None:
            return
        try:
            what(self._instruments)
        except Exception:
            self._instruments = None
            logger.exception("metrics are no longer exported")

    # Kept

    def _move(self, key: TrialKey, state: State) -> None:
        before = self._state.get(key)
        if before is None:
            # Every state of a pair is there from the beginning, as 0.
            self._counts.update({(_pair(key), name): 0 for name in _STATES})
        else:
            self._counts[_pair(key), before] -= 1
        self._state[key] = state
        self._counts[_pair(key), state] += 1

    def _score(self, key: TrialKey, val_acc: float | None) -> None:
        if val_acc is not None:
            self._best[_pair(key)] = max(val_acc, self._best.get(_pair(key), 0.0))

    def _val_acc(self, trial: TrialFinished) -> float | None:
        """A finished trial's validation accuracy; from its record, if its worker died telling."""
        if trial.val_acc is not None:
            return trial.val_acc
        try:
            return float(read_record(self._run_dir, trial.key)["metrics"]["val_acc"])
        except (OSError, DamagedFileError):
            return None


def read_targets(run_dir: Path) -> list[str]:
    """HOST:PORT of every metrics endpoint of a running sweep, the driver's node's among them."""
    try:
        return list(json.loads(RunDir(run_dir).metrics_targets.read_bytes())[0]["targets"])
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _node_endpoints() -> list[str]:
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in nodes]


class _Instruments:
    """The metrics themselves; Ray puts `ray_` before their names and `_total` after counters'."""

    def __init__(self, run: str) -> None:
        from ray.util import metrics

        def gauge(name: str, what: str, *tags: str) -> metrics.Gauge:
            made = metrics.Gauge(f"lorasweep_{name}", what, ("run", *tags))
            made.set_default_tags({"run": run})
            return made

        def counter(name: str, what: str, *tags: str) -> metrics.Counter:
            made = metrics.Counter(f"lorasweep_{name}", what, ("run", *tags))
            made.set_default_tags({"run": run})
            return made

        pair, trial = _PAIR[1:], _TRIAL[1:]  # every gauge has the run's name by itself
        self.trials = gauge(
            "trials", "Trials of the grid: finished, running, failed, todo.", *pair, "state"
        )
        self.workers = gauge("workers", "Trial workers side by side.")
        self.ray_restarts = gauge("ray_restarts", "How often the run began afresh: Ray had died.")
        self.best_val_accuracy = gauge(
            "best_val_accuracy", "Best validation accuracy of a finished trial, 0 to 1.", *pair
        )
        self.trial_running = gauge("trial_running", "1 while the trial runs.", *trial)
        self.trial_epoch = gauge("trial_epoch", "Epochs a running trial has done.", *trial)
        self.trial_val_accuracy = gauge(
            "trial_val_accuracy", "Validation accuracy of a running trial, 0 to 1.", *trial
        )
        self.adapters = gauge("adapters", "Adapters of the feature stage: done, todo.", "state")
        self.adapters_per_second = gauge(
            "adapters_per_second",
            "Rate of the feature stage since its workers are up.",
        )
        self.adapters_computed = counter(
            "adapters_computed", "Adapters that have gone through the feature stage."
        )
        self.trials_ended = counter(
            "trials_ended", "Trials this invocation ended, by outcome.", *pair, "outcome"
        )
        self.training_seconds = counter(
            "training_seconds", "Seconds that finished trials took, summed.", *pair
        )
        self.trial_seconds = metrics.Histogram(
            "lorasweep_trial_seconds",
            "Seconds a finished trial took.",
            boundaries=list(_TRIAL_SECONDS),
            tag_keys=_PAIR,
        )
        self.trial_seconds.set_default_tags({"run": run})

    def show(self, key: TrialKey, now: _Slice, running: bool = True) -> None:
        """How far a running trial is."""
        own = {"config": key.config, "seed": str(key.seed), "fold": key.fold}
        tags = {**_tags(_pair(key)), **own}
        self.trial_running.set(int(running), tags)
        self.trial_epoch.set(now.epoch, tags)
        self.trial_val_accuracy.set(now.val_acc, tags)

    def clear(self, key: TrialKey, last: _Slice) -> None:
        """A trial runs no longer: what it showed last would stand for two reporting intervals."""
        self.show(key, _Slice(0, None if last.val_acc is None else 0.0), running=False)

    def end(self, key: TrialKey, outcome: str, seconds: float) -> None:
        """Count a trial that ended; `seconds` are 0 where its worker did not say."""
        tags = _tags(_pair(key))
        self.trials_ended.inc(1, {**tags, "outcome": outcome})
        if outcome == "finished" and seconds > 0:
            self.trial_seconds.observe(seconds, tags)
            self.training_seconds.inc(seconds, tags)


def _pair(key: TrialKey) -> _Pair:
    return family_of(key.config) or key.config, key.representation, key.classifier


def _tags(pair: _Pair) -> dict[str, str]:
    config, representation, classifier = pair
    return {"config": config, "representation": representation, "classifier": classifier}
