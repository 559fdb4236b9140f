"""Fitted representations as part of a run: after the features, before the trials."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from lorasweep.features.common.lock import LockFile
from lorasweep.features.compute.cache import CacheEntry, FeatureMatrix, exclusive
from lorasweep.features.layers.families import family_of
from lorasweep.features.projections import ProjectionPlan, missing
from lorasweep.sweep.store.adapter_map import AdapterMap, write_maps
from lorasweep.trainables.store.events import FeaturesProgress
from lorasweep.trainables.store.trial_key import TrialKey

from .invocation import Invocation


def ensure_fitted(run: Invocation, cache: Path, keys: Iterable[TrialKey]) -> None:
    """Compute what is missing of the fitted representations of some trials. Ray must be running."""
    wanted = run.declared.projections(keys, run.scan)
    if not wanted:
        return

    def on_wait() -> None:
        run.stream.say("features  another run is computing them: waiting")

    with exclusive(cache, run.scan.weights, on_wait) as lock:
        todo = missing(run.scan, wanted, cache)
        if todo:
            _compute(run, cache, todo, lock)


def keep_maps(run: Invocation, cache: Path, keys: Iterable[TrialKey]) -> None:
    """Keep the first two components of ΔW for the report, of every layer config that some trials
    have them of."""
    maps: dict[str, AdapterMap] = {}
    for key in keys:
        one = None if key.config in maps else run.declared.projection(key, run.scan)
        if one is None or one.item.kernel != "update" or family_of(key.config):
            continue
        x, y = projection_matrix(cache, run.scan.weights, one).load()[:, :2].T.tolist()
        maps[key.config] = AdapterMap(key.representation, key.seed, x, y, key.fold)
    if maps:
        write_maps(run.run_dir, maps)


def _compute(run: Invocation, cache: Path, todo: list[ProjectionPlan], lock: LockFile) -> None:
    from lorasweep.features.projections.stage import run_projections

    run.stream.say(f"fitting   {describe(todo)}")
    began = time.perf_counter()

    def tell(done: int, total: int) -> None:
        lock.check()
        run.stream.publish(FeaturesProgress(done, total))

    run_projections(
        run.source,
        run.scan,
        todo,
        cache,
        nodes=run.stage_nodes,
        on_progress=tell,
    )
    seconds = time.perf_counter() - began
    run.feature_seconds += seconds
    run.stream.say(f"fitted    {len(todo)} representations of layer configs in {seconds:.1f} s")


def describe(todo: list[ProjectionPlan]) -> str:
    """What is to be fitted and what its inner products cost."""
    names = ", ".join(dict.fromkeys(one.item.name for one in todo))
    passes = {(one.compared_with.digest, one.item.kernel): one.compared_with for one in todo}
    count = max(len(one.landmarks.samples) for one in todo)
    cost = sum(landmarks.cost for landmarks in passes.values())
    return f"{names} on up to {count} landmarks, {cost:.2g} floating-point operations"


def projection_matrix(cache: Path, weights: str, one: ProjectionPlan) -> FeatureMatrix:
    """Where a fitted representation is read from."""
    return FeatureMatrix((CacheEntry(cache, weights, one.stored).folder,), ("adapter",))
