"""Telling the user how far a run is: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import IO, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from lorasweep.sweep.process.supervisor import MOST_RESTARTS
from lorasweep.trainables.classifiers.catalogue import step_names
from lorasweep.trainables.store.events import (
    DashboardUp,
    Event,
    ExperimentStarted,
    FeaturesDone,
    FeaturesProgress,
    RayDied,
    Said,
    TrialFailed,
    TrialFinished,
    TrialsProgress,
    Warned,
)

_PLAIN_SECONDS = 10.0
_RATE_WINDOW = 50
_NEWS = 4
_SHORTEST_SPAN = 0.5
"""Seconds below which a rate means nothing."""


class Reporter:
    """Prints messages and how far things are.

    On a terminal a bar for each thing, and the latest news below, are redrawn under the messages;
    otherwise a line is printed every ten seconds, so that a log file stays readable.

    Arguments:
        file: where everything goes; standard output by default.
    """

    def __init__(self, *, file: IO[str] | None = None) -> None:
        self.console = Console(
            file=file, highlight=False, soft_wrap=True, emoji=False, markup=False
        )
        self._live = self.console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description:10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            console=self.console,
        )
        self._news: deque[str] = deque(maxlen=_NEWS)
        self._view = Live(
            get_renderable=self._render, console=self.console, transient=True, refresh_per_second=4
        )
        self._meters: dict[str, _Meter] = {}

    def _render(self) -> Group:
        news = [Text(f"{'':11}{line}", style="dim") for line in self._news]
        return Group(self._bars.get_renderable(), *news)

    def __enter__(self) -> Reporter:
        if self._live:
            self._view.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._view.stop()

    def take(self, event: Event) -> None:
        """Show an event of a run, if it is worth a line or moves a bar."""
        match event:
            case Said(message):
                self.say(message)
            case Warned(message):
                self.warn(message)
            case DashboardUp(url):
                self.say(f"dashboard {url} (log in with `ray get-auth-token`)")
            case RayDied(reason, restart):
                if not restart:
                    self.warn(f"{reason}: the run ends here, finished work is kept")
                    return
                self._view.stop()  # whoever comes next draws its own
                self.warn(
                    f"{reason}: starting afresh for what remains "
                    f"({restart} of {MOST_RESTARTS} times)"
                )
            case FeaturesProgress(done, total):
                self.progress("features", done, total, "adapters")
            case FeaturesDone():
                self._features_done(event)
            case ExperimentStarted(workers, trials, gpus):
                each = f", {gpus:g} GPU each" if gpus else ""
                self.say(f"trials    {trials} on {workers} workers{each}")
            case TrialsProgress(done, total):
                self.progress("trials", done, total, "trials")
            case TrialFinished(key, test_acc=float(), val_acc=float()):
                step, steps = step_names(key.classifier)
                self.news(
                    f"{key}: test {event.test_acc:.1%}, validation {event.val_acc:.1%}, "
                    f"{event.epoch} {step if event.epoch == 1 else steps}, {event.seconds:.1f} s"
                )
            case TrialFailed(key, reason) if reason:
                self.warn(f"trial {key} failed: {reason}")

    def _features_done(self, stage: FeaturesDone) -> None:
        if stage.computed:
            self.say(
                f"features  {len(stage.computed)} representations of {stage.adapters} adapters "
                f"in {stage.seconds:.1f} s, {stage.waited:.1f} s of it until the workers ran"
                + (f" ({len(stage.cached)} from the cache)" if stage.cached else "")
            )

    def say(self, message: str = "") -> None:
        """Print one message."""
        self.console.print(Text(message))
        if not self._live:
            self.console.file.flush()

    def warn(self, message: str) -> None:
        """Print a warning."""
        self.console.print(Text(f"warning: {message}", style="yellow"))

    def news(self, line: str) -> None:
        """Say what just ended: the latest few stand below the bars; a log file is spared."""
        self._news.append(line)

    def progress(self, what: str, done: int, total: int, unit: str) -> None:
        """Say that `done` of `total` are done, with the rate and the time left."""
        meter = self._meters.get(what)
        if meter is None or done < meter.done or total != meter.total:
            task = meter.task if meter else None
            meter = self._meters[what] = _Meter(total, task)
            if self._live and task is None:
                meter.task = self._bars.add_task(what, total=total, rate="")
        meter.update(done)
        rate = meter.describe(unit)
        if self._live:
            self._bars.update(meter.task, completed=done, total=total, rate=rate)
        elif meter.due():
            self.say(f"{what}: {done}/{total} ({done / total:.1%}), {rate}")


class _Meter:
    """Rate and time left of one thing, from its latest updates."""

    def __init__(self, total: int, task: Any = None) -> None:
        self.total = total
        self.done = 0
        self.task = task
        self._began = self._spoken = time.monotonic()
        self._marks: deque[tuple[float, int]] = deque([(self._began, 0)], _RATE_WINDOW)

    def update(self, done: int) -> None:
        self.done = done
        self._marks.append((time.monotonic(), done))

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._spoken < _PLAIN_SECONDS:
            return False
        self._spoken = now
        return True

    def describe(self, unit: str) -> str:
        (before, then), (now, done) = self._marks[0], self._marks[-1]
        if now - before < _SHORTEST_SPAN or done <= then:
            return ""
        if done >= self.total:
            return f"in {format_seconds(now - self._began)}"
        rate = (done - then) / (now - before)
        left = (self.total - done) / rate
        shown = f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"
        return f"{shown} {unit}/s, {format_seconds(left)} left"


def format_seconds(seconds: float) -> str:
    """1:02:03 or 2:03."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
