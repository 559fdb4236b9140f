"""Carrying out what remains: features, then Tune experiments until nothing remains."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.layers import select_layers
from features.representations import get_representations
from trainables.record import TrialKey, has_record, write_failure

from ..dataset import make_folder
from ..invocation import Invocation
from ..spec import RuntimeOptions
from .features import ensure_features

if TYPE_CHECKING:
    from .listener import News, Outcome
    from .packing import TrialResources

_FEATURE_EVENT_SECONDS = 2.0

Tell = Callable[[list[TrialKey]], None]
"""Called with trials that have a record."""


def run_trials(
    run: Invocation, fingerprints: dict[TrialKey, str], todo: list[TrialKey], tell: Tell
) -> None:
    """Compute the features the remaining trials need, then run them with Tune."""
    from .packing import available_resources, trial_resources
    from .session import check_shared, ray_session

    cache = run.options.cache_dir.absolute()
    if not run.options.cache_features:
        cache = run.run_dir / "features.tmp"
        shutil.rmtree(cache, ignore_errors=True)
    try:
        with (
            ray_session(
                run.options,
                run.run_dir / "logs",
                run.run_dir.name,
                run.install_handlers,
                run.reporter.warn,
            ) as dashboard,
            run.metrics.exporting(),
        ):
            if dashboard:
                url = f"http://{dashboard}"
                run.events.write("dashboard", url=url)
                run.reporter.say(f"dashboard {url} (log in with `ray get-auth-token`)")
            trial_resources(run.options, available_resources())  # refused now, not after stage 1
            make_folder(cache)
            check_shared([run.run_dir, cache], list(run.source.files))
            todo = _prepare_features(run, cache, fingerprints, todo)
            _train(run, cache, {key: fingerprints[key] for key in todo}, tell)
    finally:
        if not run.options.cache_features:
            shutil.rmtree(cache, ignore_errors=True)


def _prepare_features(
    run: Invocation, cache: Path, fingerprints: dict[TrialKey, str], todo: list[TrialKey]
) -> list[TrialKey]:
    """Make sure the trials' features are cached; returns the trials that have theirs."""
    names = list(dict.fromkeys(key.representation for key in todo))
    told = 0.0

    def on_progress(done: int, total: int) -> None:
        nonlocal told
        run.metrics.computed(done, total)
        if time.monotonic() - told >= _FEATURE_EVENT_SECONDS or done == total:
            told = time.monotonic()
            run.events.write("features_progress", done=done, total=total)

    _, report = ensure_features(
        run.source, run.scan, names, cache, run.reporter, on_progress=on_progress
    )
    run.lock.check()
    run.feature_seconds = report.seconds
    run.metrics.computed_all(run.scan.num_samples, report.seconds - report.waited)
    run.events.write("features", seconds=report.seconds, failed=list(report.failed))
    ready = []
    for key in todo:
        parts = get_representations([key.representation])[0].stored
        broken = [part.name for part in parts if part.name in report.failed]
        if broken:
            reason = f"feature stage: {report.failed[broken[0]]}"
            write_failure(run.run_dir, key, fingerprints[key], reason)
            run.events.write("trial_failed", key=key.to_json())
            run.metrics.heard(key, "failed")
        else:
            ready.append(key)
    return ready


def _train(run: Invocation, cache: Path, points: dict[TrialKey, str], tell: Tell) -> None:
    """Run Tune experiments until every trial has a record or has failed for good."""
    from .packing import available_resources

    options = run.options
    while points:
        run.lock.check()
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


def _trial_resources(
    run: Invocation, keys: list[TrialKey], options: RuntimeOptions
) -> TrialResources:
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


def _give_up(run: Invocation, points: dict[TrialKey, str], gpus: float) -> set[TrialKey]:
    """Record that trials cannot be run here: not even all there is of a GPU is enough."""
    for key, fingerprint in points.items():
        reason = f"out of GPU memory with {gpus:g} GPU, and there is no more to ask for"
        write_failure(run.run_dir, key, fingerprint, reason)
        run.reporter.warn(f"trial {key} failed: {reason}")
        run.events.write("trial_failed", key=key.to_json())
        run.metrics.heard(key, "failed")
    return set(points)


def _fit(
    run: Invocation,
    cache: Path,
    points: dict[TrialKey, str],
    resources: TrialResources,
    tell: Tell,
) -> dict[TrialKey, Outcome]:
    """Run one Tune experiment; returns what became of the trials that ended."""
    from trainables.trial import TrialJob

    from .experiment import run_experiment

    run.reporter.say(
        f"trials    {len(points)} on {resources.slots} workers"
        + (f", {resources.gpus:g} GPU each" if resources.gpus else "")
    )
    job = TrialJob(
        run_dir=run.run_dir,
        invocation=run.name,
        cache=cache,
        weights=run.scan.weights,
        layers={c: select_layers(c, run.scan.layers) for c in run.spec.configs},
        labels=run.scan.kept_labels,
        n_classes=len(run.scan.classes),
        hyper=run.spec.hyper,
        workers=min(resources.slots, len(points)),
    )
    ended: dict[TrialKey, Outcome] = {}

    def on_trial(key: TrialKey, news: News, result: dict[str, Any]) -> None:
        if run.lock.lost.is_set():  # the main thread is interrupted; another is stopped here
            raise run.lock.error()
        run.metrics.heard(key, news, result)
        if news == "running" or news == "waiting":
            return
        ended[key] = news
        if "test_acc" in result:
            run.reporter.news(
                f"{key}: test {result['test_acc']:.1%}, validation {result['val_acc']:.1%}, "
                f"{result['epoch']} epochs, {result['seconds']:.1f} s"
            )
        if news == "finished":
            tell([key])
        if news == "failed":
            run.reporter.warn(f"trial {key} failed")
            run.events.write("trial_failed", key=key.to_json())
        run.reporter.progress("trials", len(ended.keys() & points.keys()), len(points), "trials")

    run.events.write("experiment", trials=len(points), workers=job.workers, gpus=resources.gpus)
    run.metrics.training(job.workers)
    began = time.perf_counter()
    run.reporter.progress("trials", 0, len(points), "trials")
    run_experiment(job, points, resources, run.options, on_trial)
    run.train_seconds += time.perf_counter() - began
    return ended
