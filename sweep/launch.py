"""A run: plan, features, trials, plan again, results."""

from __future__ import annotations

import _thread
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.files import write_json
from features.layers import select_layers, uncovered
from features.representations import get_representations
from features.scan import DatasetScan
from features.sources import Source
from trainables.events import EventLog
from trainables.record import TrialKey, has_record, write_failure
from trainables.splits import SMALLEST_SPLIT

from .dataset import make_folder, open_dataset
from .interrupt import interruptible
from .lock import driver_lock
from .plan import (
    RecordState,
    count_other_records,
    failed_trials,
    read_records,
    records_digest,
    remove_leftovers,
    set_aside,
)
from .precompute import ensure_features
from .progress import Reporter, format_seconds
from .results import current_results, write_results
from .run_dir import (
    SweepFile,
    make_sweep_file,
    repair_sweep_file,
    write_labels,
    write_sweep_file,
)
from .spec import RuntimeOptions, SweepSpec
from .summary import summary_lines
from .trackers import TrackerFeed, make_tracker

if TYPE_CHECKING:
    from .listener import Outcome
    from .packing import TrialResources


_FEATURE_EVENT_SECONDS = 2.0

Tell = Callable[[list[TrialKey]], None]


@dataclass(frozen=True)
class SweepResult:
    """What a run came to.

    Attributes:
        run_dir: where everything lies.
        results: the content of results.json.
        failed: trials that failed after their retries.
        summary: the content of summary.json.
    """

    run_dir: Path
    results: dict[str, Any]
    failed: list[TrialKey]
    summary: dict[str, Any]


@dataclass
class _Run:
    """One invocation: what it works on and what it has done so far."""

    run_dir: Path
    spec: SweepSpec
    options: RuntimeOptions
    source: Source
    scan: DatasetScan
    sweep: SweepFile
    reporter: Reporter
    began: float
    events: EventLog
    invocation: str
    install_handlers: Callable[[], None]
    feature_seconds: float = 0.0
    train_seconds: float = 0.0


def run_sweep(
    spec: SweepSpec, options: RuntimeOptions | None = None, reporter: Reporter | None = None
) -> SweepResult:
    """Run what remains of a sweep; the same call again resumes it.

    Arguments:
        spec: the experiment.
        options: how to run it.
        reporter: where progress is told; standard output by default.

    Raises:
        UserError: the spec, the dataset or the run directory cannot be used.
        KeyboardInterrupt: it was interrupted; finished trials are kept.
    """
    began = time.perf_counter()
    options = options or RuntimeOptions()
    reporter = reporter or Reporter()
    spec.validate()
    options.validate()
    run_dir = options.run_dir(spec.dataset)
    with interruptible() as install_handlers:
        source, scan = open_dataset(spec, options, run_dir, reporter)
        sweep = make_sweep_file(spec, source, scan, options.cache_dir)
        make_folder(run_dir)
        with driver_lock(run_dir, on_lost=_thread.interrupt_main):
            repair_sweep_file(run_dir, reporter.warn)
            write_sweep_file(run_dir, sweep)
            write_labels(run_dir, scan.kept_labels)
            invocation = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            events = EventLog(run_dir, invocation)
            events.write("started", command=sweep.environment["command"])
            return _carry_out(
                _Run(
                    run_dir,
                    spec,
                    options,
                    source,
                    scan,
                    sweep,
                    reporter,
                    began,
                    events,
                    invocation,
                    install_handlers,
                )
            )


def _carry_out(run: _Run) -> SweepResult:
    """Plan, do what remains, conclude. The run directory is locked."""
    fingerprints = run.sweep.fingerprints
    results = current_results(run.run_dir, records_digest(run.run_dir, fingerprints))
    if results is not None:
        everything = list(fingerprints)
        _tell_plan(run, everything, [])
        return _end(run, everything, everything, [], results)
    state = read_records(run.run_dir, fingerprints)
    for line in set_aside(run.run_dir, state):
        run.reporter.warn(line)
    _tell_plan(run, state.done, state.todo)
    if state.todo:
        remove_leftovers(run.run_dir, state.done)
        try:
            with _tracking(run) as tell:
                tell(state.done)
                _run_trials(run, fingerprints, state.todo, tell)
        except KeyboardInterrupt:
            run.events.write("interrupted")
            _conclude(run, state.done, read_records(run.run_dir, fingerprints))
            raise
    return _conclude(run, state.done, read_records(run.run_dir, fingerprints))


# Telling


def _tell_plan(run: _Run, done: list[TrialKey], todo: list[TrialKey]) -> None:
    say, scan, spec = run.reporter.say, run.scan, run.spec
    say(f"dataset   {spec.dataset}: {scan.num_samples} adapters, {len(scan.classes)} classes")
    layers = {config: select_layers(config, scan.layers) for config in spec.configs}
    say("layers    " + ", ".join(f"{config} {len(names)}" for config, names in layers.items()))
    neither = uncovered(scan.layers)
    if neither:
        run.reporter.warn(
            f"{len(neither)} of {len(scan.layers)} layer tensors are neither .attn1. nor .attn2. "
            f"(e.g. {neither[0]}): only all_layers has them"
        )
    if scan.num_samples <= SMALLEST_SPLIT:
        run.reporter.warn(
            f"with {scan.num_samples} adapters, train, val and test are the same: "
            "the scores mean nothing"
        )
    say(f"results   {run.run_dir}")
    for line in summary_lines(run.sweep.grid, done):
        say(f"  {line}")
    say(f"trials    {len(done)} done, {len(todo)} to run")
    run.events.write("planned", done=len(done), todo=len(todo))


# Doing


@contextmanager
def _tracking(run: _Run) -> Iterator[Tell]:
    """The experiment tracker, for the duration of the block; yields what tells it of trials."""
    tracker = make_tracker(run.options.log_to, run.run_dir)
    if tracker is None:
        yield lambda keys: None
        return
    name, hyper = run.options.log_to, run.spec.hyper.to_json()
    with TrackerFeed(name, tracker, run.run_dir, hyper, run.reporter.warn) as feed:
        yield feed.tell


def _run_trials(
    run: _Run, fingerprints: dict[TrialKey, str], todo: list[TrialKey], tell: Tell
) -> None:
    """Compute the features the remaining trials need, then run them with Tune."""
    from .cluster import check_shared, ray_session
    from .packing import available_resources, trial_resources

    cache = run.options.cache_dir.absolute()
    if not run.options.cache_features:
        cache = run.run_dir / "features.tmp"
        shutil.rmtree(cache, ignore_errors=True)
    try:
        with ray_session(run.options, run.run_dir / "logs", run.install_handlers) as dashboard:
            if dashboard:
                run.reporter.say(f"dashboard http://{dashboard} (log in with `ray get-auth-token`)")
            trial_resources(run.options, available_resources())  # refused now, not after stage 1
            make_folder(cache)
            check_shared([run.run_dir, cache], list(run.source.files))
            todo = _prepare_features(run, cache, fingerprints, todo)
            _train(run, cache, {key: fingerprints[key] for key in todo}, tell)
    finally:
        if not run.options.cache_features:
            shutil.rmtree(cache, ignore_errors=True)


def _prepare_features(
    run: _Run, cache: Path, fingerprints: dict[TrialKey, str], todo: list[TrialKey]
) -> list[TrialKey]:
    """Make sure the trials' features are cached; returns the trials that have theirs."""
    names = list(dict.fromkeys(key.representation for key in todo))
    told = 0.0

    def on_progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _FEATURE_EVENT_SECONDS or done == total:
            told = time.monotonic()
            run.events.write("features_progress", done=done, total=total)

    _, report = ensure_features(
        run.source, run.scan, names, cache, run.reporter, on_progress=on_progress
    )
    run.feature_seconds = report.seconds
    run.events.write("features", seconds=report.seconds, failed=list(report.failed))
    ready = []
    for key in todo:
        parts = get_representations([key.representation])[0].stored
        broken = [part.name for part in parts if part.name in report.failed]
        if broken:
            reason = f"feature stage: {report.failed[broken[0]]}"
            write_failure(run.run_dir, key, fingerprints[key], reason)
            run.events.write("trial_failed", key=key.to_json())
        else:
            ready.append(key)
    return ready


def _train(run: _Run, cache: Path, points: dict[TrialKey, str], tell: Tell) -> None:
    """Run Tune experiments until every trial has a record or has failed for good."""
    from .packing import available_resources

    options = run.options
    while points:
        resources = _trial_resources(run, list(points), options)
        outcomes = _fit(run, cache, points, resources, tell)
        failed = {key for key, outcome in outcomes.items() if outcome == "failed"}
        starved = {key for key, outcome in outcomes.items() if outcome == "out of memory"}
        if starved:
            share = min(2 * resources.gpus, 1.0)
            if resources.gpus >= share or share > available_resources().get("GPU", 0.0):
                failed |= _give_up(run, {key: points[key] for key in starved}, resources.gpus)
            else:
                run.reporter.warn(
                    f"{len(starved)} trials ran out of GPU memory with {resources.gpus:g} of a "
                    f"GPU: again with {share:g}"
                )
                options = replace(options, gpus_per_trial=share)
        left = {
            key: fingerprint
            for key, fingerprint in points.items()
            if key not in failed and not has_record(run.run_dir, key, fingerprint)
        }
        if len(left) == len(points) and not starved - failed:
            break
        points = left


def _trial_resources(run: _Run, keys: list[TrialKey], options: RuntimeOptions) -> TrialResources:
    """What each of some trials asks for: enough for the largest of them."""
    from trainables.footprint import device_bytes

    from .packing import available_resources, gpu_memory, trial_resources

    available = available_resources()
    need, memory = 0, None
    if available.get("GPU") and options.gpus_per_trial is None:
        memory = gpu_memory()
        widths = [
            len(select_layers(config, run.scan.layers)) * get_representations([name])[0].width
            for config, name in {key.pair for key in keys}
        ]
        samples, classes = run.scan.num_samples, len(run.scan.classes)
        need = device_bytes(samples, max(widths), classes, run.spec.hyper)
    return trial_resources(options, available, need, memory)


def _give_up(run: _Run, points: dict[TrialKey, str], gpus: float) -> set[TrialKey]:
    """Record that trials cannot be run here: not even all there is of a GPU is enough."""
    for key, fingerprint in points.items():
        reason = f"out of GPU memory with {gpus:g} GPU, and there is no more to ask for"
        write_failure(run.run_dir, key, fingerprint, reason)
        run.reporter.warn(f"trial {key} failed: {reason}")
        run.events.write("trial_failed", key=key.to_json())
    return set(points)


def _fit(
    run: _Run,
    cache: Path,
    points: dict[TrialKey, str],
    resources: TrialResources,
    tell: Tell,
) -> dict[TrialKey, Outcome]:
    """Run one Tune experiment; returns what became of the trials that ended."""
    from trainables.trial import TrialJob

    from .engine import run_experiment

    run.reporter.say(
        f"trials    {len(points)} on {resources.slots} workers"
        + (f", {resources.gpus:g} GPU each" if resources.gpus else "")
    )
    job = TrialJob(
        run_dir=run.run_dir,
        invocation=run.invocation,
        cache=cache,
        weights=run.scan.weights,
        layers={c: select_layers(c, run.scan.layers) for c in run.spec.configs},
        labels=run.scan.kept_labels,
        n_classes=len(run.scan.classes),
        hyper=run.spec.hyper,
        workers=min(resources.slots, len(points)),
    )
    ended: dict[TrialKey, Outcome] = {}

    def on_trial(key: TrialKey, outcome: Outcome, result: dict[str, Any]) -> None:
        ended[key] = outcome
        if "test_acc" in result:
            run.reporter.news(
                f"{key}: test {result['test_acc']:.1%}, validation {result['val_acc']:.1%}, "
                f"{result['epoch']} epochs, {result['seconds']:.1f} s"
            )
        if outcome == "finished":
            tell([key])
        if outcome == "failed":
            run.reporter.warn(f"trial {key} failed")
            run.events.write("trial_failed", key=key.to_json())
        run.reporter.progress("trials", len(ended.keys() & points.keys()), len(points), "trials")

    run.events.write("experiment", trials=len(points), workers=job.workers, gpus=resources.gpus)
    began = time.perf_counter()
    run.reporter.progress("trials", 0, len(points), "trials")
    run_experiment(job, points, resources, run.options, on_trial)
    run.train_seconds += time.perf_counter() - began
    return ended


# Concluding


def _conclude(run: _Run, before: list[TrialKey], state: RecordState) -> SweepResult:
    """Derive the results from the records and end."""
    failed = failed_trials(run.run_dir, state.todo)
    stamp = records_digest(run.run_dir, run.sweep.fingerprints)
    results = write_results(run.run_dir, run.sweep, state.records, failed, stamp)
    return _end(run, before, state.done, failed, results)


def _end(
    run: _Run,
    before: list[TrialKey],
    done: list[TrialKey],
    failed: list[TrialKey],
    results: dict[str, Any],
) -> SweepResult:
    """Write the summary and tell."""
    run_dir, grid = run.run_dir, run.sweep.grid
    seconds = time.perf_counter() - run.began
    summary = {
        "planned": len(grid.keys),
        "skipped": len(before),
        "ran": len(done) - len(before),
        "failed": len(failed),
        "not_reached": len(grid.keys) - len(done) - len(failed),
        "seconds": seconds,
        "feature_seconds": run.feature_seconds,
        "train_seconds": run.train_seconds,
    }
    write_json(run_dir / "summary.json", summary)
    run.events.write("done", **summary)
    _tell_end(run, done, failed, summary)
    return SweepResult(run_dir, results, failed, summary)


def _tell_end(
    run: _Run, done: list[TrialKey], failed: list[TrialKey], summary: dict[str, Any]
) -> None:
    say = run.reporter.say
    if summary["ran"] or failed:
        say()
        say((run.run_dir / "results.txt").read_text())
        for line in summary_lines(run.sweep.grid, done):
            say(line)
    outside = count_other_records(run.run_dir, run.sweep.fingerprints)
    say(
        f"trials: {summary['skipped']} skipped, {summary['ran']} run, {len(failed)} failed, "
        f"{summary['not_reached']} not reached, in {format_seconds(summary['seconds'])}"
        + (f"; also on disk: {outside} records outside this grid" if outside else "")
    )
    say(f"results: {run.run_dir / 'results.txt'} (and .json, .parquet)")
