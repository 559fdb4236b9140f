"""Tune experiments: the newest is restored where it fits, else one is started for what remains."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasweep.features.common.files import read_signed_json, sign, write_json
from lorasweep.sweep.cluster.process_state import environment
from lorasweep.sweep.process.signals import Interruption
from lorasweep.sweep.request.spec import RuntimeOptions
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

from .packing import TrialResources

if TYPE_CHECKING:
    from lorasweep.trainables.trial.job import TrialJob

    from .listener import OnTrial

logger = logging.getLogger("ray.lorasweep")  # to the run's log file, with what Ray says

_LAST_SLICES_SECONDS = 10.0
"""For which a run that is to stop waits for the slices under way."""

_STOPPING = (
    f"stopping  as soon as the trials under way have kept their states, within "
    f"{_LAST_SLICES_SECONDS:g} s; the same signal again stops at once"
)

_PENDING_ON_CLUSTER = 16
"""Trials that wait for room on a cluster at least: so many workers start at once on a new node."""


_MOST_VALUES = 25
"""Of one grid search among those that make up an experiment's."""


def new_experiment_dir(run_dir: Path) -> Path:
    """tune/<n> with the first n that is free."""
    root = RunDir(run_dir).tune
    taken = [int(path.name) for path in root.glob("*") if path.name.isdigit()]
    folder = root / str(max(taken, default=-1) + 1)
    folder.mkdir(parents=True)
    return folder


def run_experiment(
    job: TrialJob,
    points: dict[TrialKey, str],
    resources: TrialResources,
    selector: dict[str, str],
    options: RuntimeOptions,
    on_trial: OnTrial,
    interruption: Interruption,
    say: Callable[[str], None],
) -> None:
    """Run trials with Ray Tune: restore the newest experiment if it fits, else start a new one.

    Ray must be running. Nothing is unpickled without `tune_restore`. A restored experiment may
    leave trials whose records were deleted since; the caller plans again.

    Arguments:
        points: trials without a record -> fingerprint.
        selector: of the nodes that may take trials, as Ray's label selector.
        interruption: where it is asked for, the slices under way end first.
        say: told that.
    """
    from .listener import NotRestoredError, TrialListener

    def fit(tuner: Any) -> None:
        with (
            TrialListener(job.run_dir).telling(on_trial) as experiment,
            _uncounted_callbacks(),
            _known(),
        ):
            try:
                tuner.fit()
            except KeyboardInterrupt:
                if interruption.asked:
                    experiment.await_slices(_LAST_SLICES_SECONDS, lambda: say(_STOPPING))
                raise

    asked = _asked(resources, selector, options)
    variables = {
        # Let Tune ask for all workers at once; by default it waits for one to come up (see
        # TrialWorker._wait_for_workers for the other half of the cure).
        "TUNE_MAX_PENDING_TRIALS_PG": str(
            max(resources.slots, _PENDING_ON_CLUSTER if options.cluster else 0)
        ),
        # Ctrl-C is the driver's to handle.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
    }
    with environment(variables):
        restored = _restore(job, points, asked) if options.tune_restore else None
        if restored is not None:
            try:
                return fit(restored)
            except NotRestoredError:
                logger.warning("the experiment is not restored: Tune cannot read its own files")
        fit(_start(job, points, asked, verbose=int(options.verbose)))


@contextmanager
def _uncounted_callbacks() -> Iterator[None]:
    """Keep Tune from importing every tracker that is installed, only to see whose callbacks it has.

    That would cost seconds, on the driver's main thread. Another Ray may do without this function.
    """
    try:
        from ray.air._internal import usage

        counting = usage.tag_callbacks
    except (ImportError, AttributeError):
        yield
        return
    usage.tag_callbacks = lambda callbacks: False
    try:
        yield
    finally:
        usage.tag_callbacks = counting


@contextmanager
def _known() -> Iterator[None]:
    """Keep Tune from asking Ray's server for the trainable four times for every trial.

    It is the driver's main thread that asks, while workers wait for their next trial: a tenth of
    what a trial costs. Another Ray may do without this function.
    """
    from ray.tune import registry

    found: dict[tuple[str, str], Any] = {}
    try:
        kind: Any = type(registry._global_registry)
        get, contains = kind.get, kind.contains
    except AttributeError:
        yield
        return

    def get_once(self: Any, category: str, key: str) -> Any:
        if (category, key) not in found:
            found[category, key] = get(self, category, key)
        return found[category, key]

    kind.get = get_once
    kind.contains = lambda self, *of: of in found or contains(self, *of)
    try:
        yield
    finally:
        kind.get, kind.contains = get, contains


def _start(
    job: TrialJob,
    points: dict[TrialKey, str],
    asked: dict[str, Any],
    verbose: int,
) -> Any:
    """A Tuner for a new experiment of exactly these points."""
    from ray import tune

    from .listener import NodeStopper, TrialListener

    folder = new_experiment_dir(job.run_dir)
    _write_job(folder, job)
    grid = _points(points)
    note = {"points": grid, "asked": asked}
    write_json(folder / "points.json", sign(note), indent=None)
    return tune.Tuner(
        _trainable(asked),
        param_space={"point": _nested_grid(grid), "job": str(folder / "job.json")},
        tune_config=tune.TuneConfig(
            reuse_actors=True, max_concurrent_trials=asked["max_concurrent"]
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=verbose,
            failure_config=tune.FailureConfig(max_failures=asked["max_failures"]),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
            callbacks=[TrialListener(job.run_dir)],
            stop=NodeStopper(job.run_dir),
        ),
    )


def _restore(
    job: TrialJob,
    points: dict[TrialKey, str],
    asked: dict[str, Any],
) -> Any | None:
    """A Tuner for the newest experiment, if it is one of ours, whole, and still what is wanted."""
    from ray import tune

    numbers = [int(p.name) for p in RunDir(job.run_dir).tune.glob("*") if p.name.isdigit()]
    if not numbers:
        return None
    folder = RunDir(job.run_dir).tune / str(max(numbers))
    reason = _misfit(folder, points, asked)
    if reason is None:
        _write_job(folder, job)
        try:
            return tune.Tuner.restore(str(folder), trainable=_trainable(asked), resume_errored=True)
        except Exception as error:
            # Tune's own files, pickles among them, can be damaged in any way; none is needed.
            reason = f"Tune cannot read it: {error!r}"
    logger.warning("experiment %s is not restored: %s", folder, reason)
    return None


def _misfit(folder: Path, points: dict[TrialKey, str], asked: dict[str, Any]) -> str | None:
    """Why an experiment must not be restored, or None.

    Tune itself would restore an experiment killed before its first snapshot as a single trial
    with an empty configuration.
    """
    try:
        note = read_signed_json(folder / "points.json")
        snapshot = max(folder.glob("experiment_state-*.json"))  # as Tune chooses it
        trials = [json.loads(trial) for trial, _ in json.loads(snapshot.read_text())["trial_data"]]
        searcher = next(folder.glob("basic-variant-state-*.json"), None)
        own = [json.dumps(point, sort_keys=True) for point in note["points"]]
        restored = [json.dumps(trial["config"]["point"], sort_keys=True) for trial in trials]
        ended = {point for point, trial in zip(restored, trials) if trial["status"] == "TERMINATED"}
        jobs = {trial["config"]["job"] for trial in trials}
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it is not whole: {error!r}"
    if searcher is None or not restored:
        return "it was never saved"
    if not set(restored) <= set(own) or len(set(restored)) != len(restored):
        return "its trials are not those it was started with"
    if jobs != {str(folder / "job.json")}:
        return "it was made in another place"
    if note["asked"] != asked:
        return "it asked for other resources"
    wanted = [json.dumps(point, sort_keys=True) for point in _points(points)]
    if not any(point in own and point not in ended for point in wanted):
        return "it holds none of the trials that remain"
    return None


def _nested_grid(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The same points in the same order as from one flat grid search.

    Tune copies a grid's whole list for each of its values, deeply: of a flat one of 10,000 that
    would take minutes.
    """
    from ray import tune

    values = points
    while len(values) > _MOST_VALUES:
        parts = range(0, len(values), _MOST_VALUES)
        values = [tune.grid_search(values[at : at + _MOST_VALUES]) for at in parts]
    return tune.grid_search(values)


def _points(points: dict[TrialKey, str]) -> list[dict[str, Any]]:
    return [{**key.to_json(), "fingerprint": fingerprint} for key, fingerprint in points.items()]


def _asked(
    resources: TrialResources, selector: dict[str, str], options: RuntimeOptions
) -> dict[str, Any]:
    """What Tune keeps of an experiment and cannot be changed when restoring it."""
    return {
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "max_concurrent": options.max_concurrent,
        "max_failures": options.max_failures,
        **({"nodes": selector} if selector else {}),
    }


def _trainable(asked: dict[str, Any]) -> Any:
    from ray import tune

    from lorasweep.trainables.trial.trial import TrialWorker

    bundle = {"CPU": float(asked["cpus"])}
    if asked["gpus"]:
        bundle["GPU"] = asked["gpus"]
    where: dict[str, Any] = {"bundle_label_selector": [asked["nodes"]]} if "nodes" in asked else {}
    trainable = tune.with_resources(TrialWorker, tune.PlacementGroupFactory([bundle], **where))
    # What the dashboard calls the actors; Tune's wrapper has a name of its own.
    trainable.__qualname__ = TrialWorker.__qualname__
    return trainable


def _write_job(folder: Path, job: TrialJob) -> None:
    write_json(folder / "job.json", job.to_json(), indent=None)
    shutil.rmtree(folder / "workers", ignore_errors=True)
