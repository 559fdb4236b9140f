"""A run: plan, features, trials, plan again, results."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasweep.features.common.files import require_folder, write_json, write_text
from lorasweep.features.common.plugins import PluginError
from lorasweep.features.compute.nodes import Nodes
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.sweep.engine.invocation import Invocation
from lorasweep.sweep.engine.layer_phase import decide_layers
from lorasweep.sweep.engine.trials import engine, run_trials
from lorasweep.sweep.imports.open_dataset import open_dataset
from lorasweep.sweep.models.choice import chosen_cells, has_model, refusal
from lorasweep.sweep.models.fits import delete_fits
from lorasweep.sweep.process.machine import machine_memory
from lorasweep.sweep.process.memory import largest_trial, require_memory
from lorasweep.sweep.process.signals import interruptible
from lorasweep.sweep.process.supervisor import RayDiedError
from lorasweep.sweep.request.declared import Declared, declared_by
from lorasweep.sweep.request.grid import Cell
from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
from lorasweep.sweep.request.split_columns import split_rule
from lorasweep.sweep.store.class_labels import Labels, write_labels
from lorasweep.sweep.store.driver_lock import driver_lock
from lorasweep.sweep.store.plan import (
    RecordState,
    failed_trials,
    quarantine,
    read_records,
    records_digest,
    remove_leftovers,
)
from lorasweep.sweep.store.results import RESULT_PARTS, current_results, write_results
from lorasweep.sweep.store.sweep_file import make_sweep_file, repair_sweep_file, write_sweep_file
from lorasweep.sweep.trackers import TrackerFeed, make_tracker
from lorasweep.sweep.watch.prometheus import SweepMetrics
from lorasweep.sweep.watch.stream import Stream, recorder
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.store.events import (
    Done,
    Event,
    EventLog,
    Interrupted,
    Started,
    TrialFinished,
)
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

from .messages import tell_end, tell_plan
from .run import open_run

if TYPE_CHECKING:
    import pandas as pd

    from lorasweep.sweep.watch.status import Status


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

    @cached_property
    def trials(self) -> pd.DataFrame:
        """One row per finished trial; see `Run.trials`."""
        return open_run(self.run_dir).trials

    @property
    def status(self) -> Status:
        """How far the run directory is now."""
        return open_run(self.run_dir).status


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
        LockLostError: another driver took the run directory over; nothing more was written.
        RayDiedError: Ray itself died; finished trials are kept. Should the main thread hang in
            Ray's C++ core, the process ends with exit code 1 instead, half a minute later.
        KeyboardInterrupt: it was interrupted; finished trials are kept.
    """
    with opened_run(spec, options or RuntimeOptions(), reporter or Reporter()) as run:
        return _carry_out(run)


@contextmanager
def opened_run(
    spec: SweepSpec, options: RuntimeOptions, reporter: Reporter
) -> Iterator[Invocation]:
    """Find what a run works on, lock its run directory and write down what is asked.

    Raises:
        UserError, LockLostError: see `run_sweep`.
    """
    began = time.perf_counter()
    spec.validate()
    options.validate()
    run_dir = options.run_dir(spec.dataset)
    with interruptible() as interruption:
        source, scan = open_dataset(spec, options, run_dir, reporter)
        declared = _declared(spec, split_rule(spec, source, scan), scan, run_dir)
        make_sweep_file(spec, declared, source, scan, options)  # refused before a folder
        require_folder(run_dir, "--output-dir")
        # What is started over may find its predecessor still ending.
        patience = options.cluster_wait if options.may_follow else 0.0
        with driver_lock(
            run_dir, interruption.wake, on_wait=reporter.say, patience=patience
        ) as lock:
            repair_sweep_file(run_dir, reporter.warn)
            declared = declared.copied(RunDir(run_dir).plugins)
            sweep = make_sweep_file(spec, declared, source, scan, options)
            sweep = write_sweep_file(run_dir, sweep)
            write_labels(run_dir, Labels(scan.kept_labels, declared.split))
            invocation = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
            metrics = SweepMetrics(run_dir)
            log = recorder(EventLog(run_dir, invocation))
            stream = Stream(log, metrics.take, reporter.take)
            stream.publish(Started(sweep.environment["command"]))
            nodes = Nodes(stream.say, any_hardware=options.any_device)
            yield Invocation(
                run_dir,
                spec,
                options,
                source,
                scan,
                replace(declared, decided=sweep.decided),
                sweep,
                reporter,
                began,
                stream,
                invocation,
                interruption,
                metrics,
                lock,
                nodes,
                Nodes(stream.say) if options.any_device else nodes,
            )


def _declared(spec: SweepSpec, split: SplitRule, scan: DatasetScan, run_dir: Path) -> Declared:
    """What a spec names; where a user's own code fails is written to the run's log."""
    try:
        return declared_by(spec, split, scan.tensors)
    except PluginError as error:
        if error.traceback:
            write_text(RunDir(run_dir).logs / "plugins.log", error.traceback)
        raise


def _carry_out(run: Invocation) -> SweepResult:
    """Plan, do what remains, conclude. The run directory is locked."""
    fingerprints = run.sweep.fingerprints
    results = current_results(run.run_dir, records_digest(run.run_dir, fingerprints))
    if results is not None:
        everything = list(fingerprints)
        tell_plan(run, everything, [])
        with _tracking(run, everything):
            _keep_models(run, (everything, [], results))
        return _end(run, everything, everything, [], results)
    state = _records(run)
    run.lock.check()
    for line in quarantine(run.run_dir, state):
        run.stream.warn(line)
    if decide_layers(run):
        fingerprints = run.sweep.fingerprints
        state = _records(run)
        for line in quarantine(run.run_dir, state):
            run.stream.warn(line)
    tell_plan(run, state.done, state.todo)
    try:
        with _tracking(run, state.done):
            if state.todo:
                remove_leftovers(run.run_dir, state.done)
                todo = {key: fingerprints[key] for key in state.todo}
                if not run.options.cluster:
                    largest = largest_trial(run.declared, run.scan, state.todo)
                    require_memory(largest, machine_memory())
                run.metrics.begin_with(state.records, state.todo, failed_trials(run.run_dir, todo))
                with engine(run) as cache:
                    run_trials(run, cache, fingerprints, state.todo)
                    _keep_models(run, _results(run), cache)
            else:
                _keep_models(run, _results(run))
    except (KeyboardInterrupt, RayDiedError) as error:
        run.lock.check()
        if isinstance(error, KeyboardInterrupt):
            run.stream.publish(Interrupted())
        _end(run, state.done, *_results(run))
        raise
    return _end(run, state.done, *_results(run))


# Doing


def _records(run: Invocation) -> RecordState:
    """What is done, with what the results need of it."""
    return read_records(run.run_dir, run.sweep.fingerprints, parts=RESULT_PARTS)


@contextmanager
def _tracking(run: Invocation, done: list[TrialKey]) -> Iterator[None]:
    """Tell the experiment tracker of trials that have a record, and of those that get one during
    the block."""
    tracker = make_tracker(run.options.log_to, run.run_dir)
    if tracker is None:
        yield
        return

    def take(event: Event) -> None:
        if isinstance(event, TrialFinished):
            feed.tell([event.key])

    name, settings = run.options.log_to, run.sweep.settings
    warn, held = run.stream.warn, run.lock.held
    with TrackerFeed(name, tracker, run.run_dir, settings, warn, held) as feed:
        feed.tell(done)
        with run.stream.also(take):
            yield


def _keep_models(run: Invocation, came: Outcome, cache: Path | None = None) -> None:
    """Make the models that are asked for and not there, if every trial has been reached.

    Arguments:
        cache: of features, where the engine is running.
    """
    done, failed, results = came
    if len(done) + len(failed) < len(run.sweep.grid.keys):
        return
    chosen = chosen_cells(results, run.sweep.grid, run.options.save_models)

    def lacking() -> list[Cell]:
        return [cell for cell in chosen if not has_model(run.run_dir, run.sweep, cell)]

    cells = [cell for cell in lacking() if refusal(run.run_dir, run.sweep, cell) is None]
    make_models(run, cells, cache)
    run.lock.check()
    if RunDir(run.run_dir).fits.exists():
        # `export` may still make what was too large.
        still = (key for cell in lacking() for key in run.sweep.grid.keys_of(cell))
        delete_fits(run.run_dir, still)


def make_models(
    run: Invocation, cells: list[Cell], cache: Path | None = None, *, big: bool = False
) -> None:
    """Make some models; the engine is started for them unless it runs. See `engine.models`."""
    if not cells:
        return
    with nullcontext(cache) if cache is not None else engine(run) as cache:
        from lorasweep.sweep.engine import (
            model_stage as models,  # imports Ray, which the engine has to do first
        )

        models.make_models(run, cache, cells, big=big)


# Concluding


Outcome = tuple[list[TrialKey], list[TrialKey], dict[str, Any]]
"""(trials that have a record, trials that failed, results)."""


def _results(run: Invocation) -> Outcome:
    """Derive the results from the records as they are, unless that is done."""
    fingerprints = run.sweep.fingerprints
    stamp = records_digest(run.run_dir, fingerprints)
    results = current_results(run.run_dir, stamp)
    if results is not None and not results["failed"]:
        return list(fingerprints), [], results
    state = _records(run)
    failed = failed_trials(run.run_dir, {key: fingerprints[key] for key in state.todo})
    run.lock.check()
    results = write_results(run.run_dir, run.sweep, state.records, failed, stamp)
    return state.done, failed, results


def _end(
    run: Invocation,
    before: list[TrialKey],
    done: list[TrialKey],
    failed: list[TrialKey],
    results: dict[str, Any],
) -> SweepResult:
    """Write the summary and tell."""
    run_dir, grid = run.run_dir, run.sweep.grid
    seconds = time.perf_counter() - run.began
    ended = Done(
        planned=len(grid.keys),
        skipped=len(before),
        ran=len(done) - len(before),
        failed=len(failed),
        not_reached=len(grid.keys) - len(done) - len(failed),
        seconds=seconds,
        feature_seconds=run.feature_seconds,
        train_seconds=run.train_seconds,
    )
    summary = ended.to_json()
    run.lock.check()
    write_json(RunDir(run_dir).summary, summary)
    run.stream.publish(ended)
    tell_end(run, done, failed, summary)
    return SweepResult(run_dir, results, failed, summary)
