"""Stage 1 as part of a run, and alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import require_folder
from lorasweep.features.common.lock import LockFile
from lorasweep.features.compute.cache import CacheEntry, exclusive
from lorasweep.features.compute.nodes import Nodes, RequiredPaths
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.datasets.sources import Source
from lorasweep.features.representations import Representation, stored_representations
from lorasweep.sweep.imports.open_dataset import open_dataset
from lorasweep.sweep.process.signals import interruptible
from lorasweep.sweep.request.declared import declared_by
from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
from lorasweep.sweep.watch.stream import Stream
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.store.events import FeaturesDone, FeaturesProgress

if TYPE_CHECKING:
    from lorasweep.features.compute.stage import StagePlan, StageReport


PLUGINS = "plugins"
"""Where in a feature cache the copies of users' own representations are."""


def _plan_features(scan: DatasetScan, wanted: Sequence[Representation], cache: Path) -> StagePlan:
    from lorasweep.features.compute.stage import plan_stage

    require_folder(cache)
    return plan_stage(scan, stored_representations(wanted), cache)


def ensure_features(
    source: Source,
    scan: DatasetScan,
    wanted: Sequence[Representation],
    cache: Path,
    stream: Stream,
    nodes: Nodes,
) -> tuple[StagePlan, StageReport]:
    """Compute what is missing of some representations' features. Ray must be running.

    Of several runs that need the same features at once, one computes and the others wait.
    """

    def on_wait() -> None:
        stream.say("features  another run is computing them: waiting")

    with exclusive(cache, scan.weights, on_wait) as lock:
        plan = _plan_features(scan, wanted, cache)
        return plan, _compute_features(source, scan, plan, cache, stream, nodes, lock)


def _compute_features(
    source: Source,
    scan: DatasetScan,
    plan: StagePlan,
    cache: Path,
    stream: Stream,
    nodes: Nodes,
    lock: LockFile,
) -> StageReport:
    from lorasweep.features.compute.stage import run_stage

    for name, damage in plan.damaged.items():
        stream.warn(f"cached features of {name} are damaged ({damage}): computed again")

    def tell(done: int, total: int) -> None:
        lock.check()
        stream.publish(FeaturesProgress(done, total))

    report = run_stage(source, scan, plan, cache, nodes=nodes, on_progress=tell)
    stream.publish(
        FeaturesDone(
            report.seconds,
            report.waited,
            scan.num_samples,
            [item.name for item in plan.computed],
            [item.name for item in plan.cached],
            list(report.failed),
        )
    )
    for name, trace in report.failed.items():
        stream.warn(f"representation {name} failed: {trace.strip().splitlines()[-1]}")
    return report


def features_only(spec: SweepSpec, options: RuntimeOptions, reporter: Reporter) -> dict[str, Any]:
    """Stage 1 alone: make sure features are cached and say where.

    Returns:
        {"dataset", "fingerprint", "seconds", "waited", "adapters", "computed", "cached",
        "representations": {name: path}}; see `StageReport` for the two times.
    """
    from lorasweep.features.compute.stage import StageReport
    from lorasweep.sweep.cluster.capacity import capacity, require_cpu
    from lorasweep.sweep.cluster.session import ray_session

    spec.validate()
    options.validate()
    cache = options.cache_dir.absolute()
    require_folder(cache)
    source, scan = open_dataset(spec, options, None, reporter)
    wanted = declared_by(spec).copied(cache / PLUGINS).representations
    for item in wanted:
        if item.kernel:
            raise UserError(f"{item.name} is fitted on a split: `lorasweep run` computes it")
    plan = _plan_features(scan, wanted, cache)
    report = StageReport()
    if plan.computed:
        name = f"features of {source.label}"
        stream = Stream(reporter.take)
        nodes = Nodes(stream.say)
        with (
            interruptible() as interruption,
            ray_session(options, cache / "logs", name, interruption, reporter.take),
            capacity(
                options,
                [nodes],
                RequiredPaths([cache], source.files),
                partial(require_cpu, nodes),
                reporter.take,
                interruption,
            ),
        ):
            plan, report = ensure_features(source, scan, wanted, cache, stream, nodes)
    if report.failed:
        name, trace = next(iter(report.failed.items()))
        raise RuntimeError(f"representation {name} failed:\n{trace}")
    return {
        "dataset": spec.dataset,
        "fingerprint": scan.fingerprint,
        "seconds": round(report.seconds, 3),
        "waited": round(report.waited, 3),
        "adapters": scan.num_samples,
        "computed": [item.name for item in plan.computed],
        "cached": [item.name for item in plan.cached],
        "representations": {
            item.name: str(CacheEntry(cache, scan.weights, item).folder)
            for item in (*plan.computed, *plan.cached)
        },
    }
