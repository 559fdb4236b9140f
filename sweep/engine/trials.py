"""Carrying out what remains: features, then Tune experiments until nothing remains."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lorasweep.features.common.files import DamagedFileError, require_folder
from lorasweep.features.common.hardware import CPU, same_origin
from lorasweep.features.compute.nodes import RequiredPaths
from lorasweep.sweep.models.fits import FinishedFits
from lorasweep.sweep.process.machine import machine_memory
from lorasweep.sweep.process.memory import largest_trial
from lorasweep.sweep.request.grid import Cell
from lorasweep.sweep.request.spec import RuntimeOptions
from lorasweep.trainables.store.events import (
    DashboardUp,
    ExperimentStarted,
    TrialEvent,
    TrialFailed,
    TrialFinished,
    TrialMisplaced,
    TrialOutOfMemory,
    TrialsProgress,
)
from lorasweep.trainables.store.record import await_records, has_record, read_record, write_failure
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

from .feature_stage import ensure_features
from .invocation import Invocation
from .jobs import Stored, cell_matrix, make_job
from .layer_phase import decide_layers
from .nodes import device_bytes, freeze_kinds, require_room
from .projection_stage import ensure_fitted, keep_maps

if TYPE_CHECKING:
    from .packing import TrialResources

Ended = TrialFinished | TrialFailed | TrialOutOfMemory | TrialMisplaced


@contextmanager
def engine(run: Invocation) -> Iterator[Path]:
    """Ray for a run; yields the feature cache, which is removed after the block unless it is to be
    kept."""
    from lorasweep.sweep.cluster.capacity import capacity
    from lorasweep.sweep.cluster.session import ray_session

    cache = run.options.cache_dir.absolute()
    if not run.options.cache_features:
        cache = RunDir(run.run_dir).features
        shutil.rmtree(cache, ignore_errors=True)
    try:
        with (
            ray_session(
                run.options,
                RunDir(run.run_dir).logs,
                run.run_dir.name,
                run.interruption,
                run.stream.publish,
            ) as dashboard,
            run.metrics.exporting(),
        ):
            if dashboard:
                run.stream.publish(DashboardUp(f"http://{dashboard}"))
            freeze_kinds(run)
            require_folder(cache)
            with capacity(
                run.options,
                (run.nodes, run.stage_nodes),
                RequiredPaths([run.run_dir, cache], run.source.files),
                partial(require_room, run),
                run.stream.publish,
                run.interruption,
            ):
                yield cache
    finally:
        if not run.options.cache_features:
            shutil.rmtree(cache, ignore_errors=True)


def run_trials(
    run: Invocation, cache: Path, fingerprints: dict[TrialKey, str], todo: list[TrialKey]
) -> None:
    """Compute the features the remaining trials need, then run them with Tune: first those whose
    layers are known, then those whose layers are decided by the first. The engine is running."""
    now = [key for key in todo if fingerprints[key]]
    later = [key for key in todo if not fingerprints[key]]
    ready = prepare_features(run, cache, fingerprints, now)
    _train(run, cache, {key: fingerprints[key] for key in ready})
    if later and decide_layers(run):
        decided = run.sweep.fingerprints
        _train(run, cache, {key: decided[key] for key in later if decided[key]})


def prepare_features(
    run: Invocation, cache: Path, fingerprints: dict[TrialKey, str], todo: list[TrialKey]
) -> list[TrialKey]:
    """Make sure the trials' features are cached; returns the trials that have theirs."""
    names = list(dict.fromkeys(key.representation for key in todo))
    wanted = [run.declared.inputs[name].representation for name in names]
    _, report = ensure_features(run.source, run.scan, wanted, cache, run.stream, run.stage_nodes)
    run.lock.check()
    run.feature_seconds += report.seconds
    ready = []
    for key in todo:
        parts = run.declared.inputs[key.representation].representation.stored
        broken = [part.name for part in parts if part.name in report.failed]
        if broken:
            reason = f"feature stage: {report.failed[broken[0]]}"
            write_failure(run.run_dir, key, fingerprints[key], reason)
            run.stream.publish(TrialFailed(key))
        else:
            ready.append(key)
    ensure_fitted(run, cache, ready)
    keep_maps(run, cache, ready)
    _tell_mixed_features(run, cache, [name for name in names if name not in report.failed], todo)
    return ready


def _tell_mixed_features(
    run: Invocation, cache: Path, names: list[str], todo: list[TrialKey]
) -> None:
    """Warn where a cell's records were made with features of another device or processor.

    They are the same numbers but for rounding, so that its trials are not equal bit for bit.
    """
    left, stored = set(todo), Stored(cache, run.scan.weights)
    for cell in dict.fromkeys(key.cell for key in todo if key.representation in names):
        for key in run.sweep.grid.keys_of(cell):
            if key in left:
                continue
            try:
                before = read_record(run.run_dir, key)["environment"].get("features") or {}
            except (OSError, DamagedFileError):  # gone meanwhile: the next plan sees it
                break
            now = cell_matrix(run, key, stored).origin
            if any(not same_origin(before.get(name, own), own) for name, own in now.items()):
                run.stream.warn(
                    f"{'/'.join(cell)}: its records were made with features computed on another "
                    "device or processor than those in the cache: they differ in their last bits"
                )
            break


def _train(run: Invocation, cache: Path, points: dict[TrialKey, str]) -> None:
    """Run what uses a GPU, then what does not, so that neither keeps the other's share waiting."""
    groups = [set(points)]
    if run.nodes.resources().get("GPU"):
        on_gpu = {cell for cell, key in _one_of_each(points).items() if _gpu_bytes(run, key)}
        _say_what_stays(run, points)
        groups = [{key for key in points if (key.cell in on_gpu) is it} for it in (True, False)]
    for group in groups:
        _train_alike(run, cache, {k: f for k, f in points.items() if k in group})


def _one_of_each(keys: Iterable[TrialKey]) -> dict[Cell, TrialKey]:
    """Cell -> one of its trials: the others need the same."""
    return {key.cell: key for key in keys}


def _say_what_stays(run: Invocation, points: Iterable[TrialKey]) -> None:
    """Tell which trials could use a GPU and do not, since those before them did not."""
    could = {key.classifier: device_bytes(run, key) for key in points}
    stay = sorted(name for name in could if could[name] and run.devices.get(name) == CPU)
    if stay:
        run.stream.say(
            f"trials of {', '.join(stay)} stay on the processor, where they began; with "
            "--any-device the rest would use the GPU"
        )


def _train_alike(run: Invocation, cache: Path, points: dict[TrialKey, str]) -> None:
    """Run Tune experiments until every trial has a record or has failed for good."""
    options = run.options
    while points:
        run.lock.check()
        if run.nodes.wait:
            run.nodes.wait()
        resources = resources_of(run, list(points), options)
        ended = _fit(run, cache, points, resources)
        failed = {key for key, event in ended.items() if isinstance(event, TrialFailed)}
        starved = {key for key, event in ended.items() if isinstance(event, TrialOutOfMemory)}
        misplaced = {event for event in ended.values() if isinstance(event, TrialMisplaced)}
        for event in misplaced:
            run.nodes.misplaced(event.node, event.device, event.instructions, event.unseen)
        if starved:
            share = min(2 * resources.gpus, 1.0)
            if resources.gpus >= share or share > run.nodes.resources().get("GPU", 0.0):
                run.lock.check()
                failed |= _give_up(run, {key: points[key] for key in starved}, resources.gpus)
            else:
                run.stream.warn(
                    f"{len(starved)} trials ran out of GPU memory with {resources.gpus:g} of a "
                    f"GPU: again with {share:g}"
                )
                options = replace(options, gpus_per_trial=share)
        finished = [key for key, event in ended.items() if isinstance(event, TrialFinished)]
        await_records(run.run_dir, finished)
        left = {
            key: fingerprint
            for key, fingerprint in points.items()
            if key not in failed and not has_record(run.run_dir, key, fingerprint)
        }
        if len(left) == len(points) and not misplaced and not starved - failed:
            break
        points = left


def resources_of(
    run: Invocation, keys: list[TrialKey], options: RuntimeOptions | None = None
) -> TrialResources:
    """What each of some trials asks for: enough for the largest of them."""
    from .packing import trial_resources

    options = options or run.options
    need, memory = 0, None
    if run.nodes.resources().get("GPU"):
        run.nodes.look()
    if run.nodes.resources().get("GPU") and options.gpus_per_trial is None:
        memory = run.nodes.gpu_bytes()
        need = max(_gpu_bytes(run, key) for key in _one_of_each(keys).values())
        if not need:  # none of them uses a GPU
            options = replace(options, gpus_per_trial=0.0)
    most = None
    largest = None if options.cluster else largest_trial(run.declared, run.scan, keys)
    if largest:
        most = machine_memory() // largest.trial_bytes
    return trial_resources(options, run.nodes.each(), need, memory, most)


def _gpu_bytes(run: Invocation, key: TrialKey) -> int:
    """GPU memory that a trial takes at most; none where its like is done on the processor."""
    return 0 if run.devices.get(key.classifier) == CPU else device_bytes(run, key)


def _give_up(run: Invocation, points: dict[TrialKey, str], gpus: float) -> set[TrialKey]:
    """Record that trials cannot be run here: not even all there is of a GPU is enough."""
    for key, fingerprint in points.items():
        reason = f"out of GPU memory with {gpus:g} GPU, and there is no more to ask for"
        write_failure(run.run_dir, key, fingerprint, reason)
        run.stream.publish(TrialFailed(key, reason))
    return set(points)


def _fit(
    run: Invocation,
    cache: Path,
    points: dict[TrialKey, str],
    resources: TrialResources,
) -> dict[TrialKey, Ended]:
    """Run one Tune experiment; returns what became of the trials that ended."""
    from .experiment import run_experiment

    job = make_job(run, cache, points, min(resources.slots, len(points)), resources.gpus)
    ended: dict[TrialKey, Ended] = {}
    fits = FinishedFits(run.run_dir, run.sweep.grid, run.options.save_models)

    def on_trial(event: TrialEvent) -> None:
        if isinstance(event, TrialFailed):
            run.lock.check()  # its failure will be written
        if run.lock.lost.is_set():  # the main thread is interrupted; another is stopped here
            raise run.lock.error()
        run.stream.publish(event)
        if isinstance(event, TrialFinished):
            fits.finished(event)
        if isinstance(event, Ended):
            ended[event.key] = event
            run.stream.publish(TrialsProgress(len(ended.keys() & points.keys()), len(points)))

    run.stream.publish(ExperimentStarted(job.workers, len(points), resources.gpus))
    run.stream.publish(TrialsProgress(0, len(points)))
    began = time.perf_counter()
    run_experiment(
        job,
        points,
        resources,
        run.nodes.selector(),
        run.options,
        on_trial,
        run.interruption,
        run.stream.say,
    )
    run.train_seconds += time.perf_counter() - began
    return ended
