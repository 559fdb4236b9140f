"""Making models to keep of finished trials, in Ray, with a trial's own resources."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lorasweep.features.adapters.modules import LOKR_RANK
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.plugins import Origin
from lorasweep.features.compute.cache import CacheEntry
from lorasweep.features.projections.projection import FILE as PROJECTION
from lorasweep.features.representations import Representation
from lorasweep.sweep.models.choice import write_refusal
from lorasweep.sweep.request.grid import Cell
from lorasweep.sweep.request.split_columns import optional_column
from lorasweep.trainables.models.model_building import (
    FitOnDataset,
    NoModelError,
    finished_fit,
    write_cell_model,
)
from lorasweep.trainables.models.model_input import ModelInput, model_input
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey
from lorasweep.trainables.trial.finished_fits import delete_fit

from .invocation import Invocation
from .jobs import make_job
from .projection_stage import ensure_fitted
from .trials import prepare_features, resources_of

BIG_BYTES = 500_000_000
"""A model above this size is made only for whoever says so."""


def make_models(run: Invocation, cache: Path, cells: Sequence[Cell], *, big: bool) -> None:
    """Make the models of complete cells; of one that cannot be kept it is said and noted why. Ray
    must be running.

    Arguments:
        cache: of features.
        big: also those above `BIG_BYTES`.
    """
    keys = {cell: run.sweep.grid.keys_of(cell) for cell in cells}
    every = [key for of in keys.values() for key in of]
    prepare_features(run, cache, run.sweep.fingerprints, every)
    _complete_projections(run, cache, every)
    abouts = {}
    for cell in cells:
        try:
            abouts[cell] = _about(run, cell)
            size = _least_bytes(run, keys[cell][0], abouts[cell])
            if size > BIG_BYTES and not big:
                raise UserError(
                    f"it would take {size / 1e6:,.0f} MB or more: `lorasweep export "
                    f"{run.run_dir} OUT --yes` makes it"
                )
        except UserError as error:
            abouts.pop(cell, None)
            _refuse(run, cell, str(error))
    with _tasks() as start:
        for cell, result in _run(run, cache, {p: keys[p] for p in abouts}, abouts, start):
            if isinstance(result, Exception):
                _refuse(run, cell, _reason(result), lasting=_is_lasting(result))
            else:
                RunDir(run.run_dir).no_model(*cell).unlink(missing_ok=True)
                for key in keys[cell]:
                    delete_fit(run.run_dir, key)
                fits = len(keys[cell])
                run.stream.say(
                    f"model     {'/'.join(cell)}: {fits} fit{'s' * (fits > 1)}, "
                    f"{result / 1e6:,.1f} MB"
                )


def _refuse(run: Invocation, cell: Cell, reason: str, *, lasting: bool = True) -> None:
    """Say it, and if it would be the same the next time, note it."""
    run.lock.check()
    if lasting:
        write_refusal(run.run_dir, run.sweep, cell, reason)
    run.stream.warn(f"no model of {'/'.join(cell)}: {reason}")


def _complete_projections(run: Invocation, cache: Path, keys: Sequence[TrialKey]) -> None:
    """Fit again what an earlier version fitted, which kept coordinates only; the same bits."""
    for one in run.declared.projections(keys, run.scan):
        entry = CacheEntry(cache, run.scan.weights, one.stored)
        if not (entry.folder / PROJECTION).exists():
            entry.discard()
    ensure_fitted(run, cache, keys)


# Carrying out


@contextmanager
def _tasks() -> Iterator[Any]:
    """Something that starts tasks; those that are left are cancelled where the block fails."""
    import ray

    started: list[Any] = []

    def start(function: Any, options: dict[str, Any], *arguments: Any) -> Any:
        refs = ray.remote(function).options(**options, max_retries=1).remote(*arguments)
        started.append(refs[-1] if isinstance(refs, list) else refs)
        return refs

    try:
        yield start
    except BaseException:
        for ref in started:
            ray.cancel(ref, force=True)
        raise


def _run(
    run: Invocation,
    cache: Path,
    keys: dict[Cell, list[TrialKey]],
    abouts: dict[Cell, dict[str, Any]],
    start: Any,
) -> Iterator[tuple[Cell, int | Exception]]:
    """Find or train fits and write; yields each cell with its model's bytes, or why it has none."""
    import ray

    points = {key: run.sweep.fingerprints[key] for of in keys.values() for key in of}
    if not points:
        return
    job = ray.put(make_job(run, cache, points, 1))
    resources = {cell: resources_of(run, of) for cell, of in keys.items()}
    slots = min(item.slots for item in resources.values())
    todo = deque((cell, key) for cell, of in keys.items() for key in of)
    fits: dict[Cell, list[Any]] = {cell: [] for cell in keys}
    left = {cell: len(of) for cell, of in keys.items()}
    running: dict[Any, Cell] = {}
    refused: set[Cell] = set()
    while todo or running:
        while todo and len(running) < slots:
            cell, key = todo.popleft()
            if cell not in refused:
                own = resources[cell]
                options = {
                    "num_cpus": own.cpus,
                    "num_gpus": own.gpus,
                    "num_returns": 2,
                    "label_selector": run.nodes.selector(),
                }
                kept, ended = start(finished_fit, options, job, key)
                fits[cell].append(kept)
                running[ended] = cell
        if not running:
            break
        (ended, *_), _ = ray.wait(list(running), num_returns=1)
        cell = running.pop(ended)
        run.lock.check()
        try:
            size = ray.get(ended)
        except Exception as error:
            if cell not in refused:
                yield cell, error
            refused.add(cell)
            continue
        left[cell] -= 1
        done = len(points) - sum(max(0, count) for count in left.values())
        run.reporter.progress("models", done, len(points), "fits")
        if left[cell] < 0:
            yield cell, size
        elif not left[cell] and cell not in refused:
            options = {"num_cpus": resources[cell].cpus}
            arguments = (keys[cell], abouts[cell], _projections(run, cache, keys[cell]))
            running[start(write_cell_model, options, job, *arguments, *fits[cell])] = cell


def _is_lasting(error: Exception) -> bool:
    """Whether a task failed by itself, rather than its process or its machine."""
    from ray.exceptions import RayTaskError

    return isinstance(error, RayTaskError)


def _reason(error: Exception) -> str:
    """In one line."""
    cause = getattr(error, "cause", None) or error
    line = (str(cause).splitlines() or [""])[0]
    return line if isinstance(cause, NoModelError) else f"{type(cause).__name__}: {line}"


def _projections(run: Invocation, cache: Path, keys: Sequence[TrialKey]) -> list[FitOnDataset]:
    """What each of a cell's trials is fitted on; empty if their representation is not fitted."""
    found = (run.declared.projection(key, run.scan) for key in keys)
    weights = run.scan.weights
    return [
        FitOnDataset(run.source, run.scan, one, CacheEntry(cache, weights, one.stored).folder)
        for one in found
        if one
    ]


# What a model says of itself


def _about(run: Invocation, cell: Cell) -> dict[str, Any]:
    """The note of a cell's model, but for its fits.

    Raises:
        UserError: its representation reads what cannot be told of another adapter.
    """
    config, method = cell
    entry, scan = run.declared.by_method[method], run.scan
    item = run.declared.inputs[entry.representation]
    classifier = run.declared.classifiers[entry.classifier]
    representation = item.representation
    columns = run.declared.columns(config, method, scan)
    read = _model_input(run, representation, columns)
    frozen = run.sweep.frozen
    return {
        "config": config,
        "label": method,
        "representation": representation.name,
        "representation_version": representation.version,
        "plugin": _plugin(representation.origin),
        "transform": item.transform,
        "classifier": entry.classifier,
        "classifier_version": classifier.classifier.version,
        "classifier_plugin": _plugin(classifier.origin),
        "settings": classifier.settings.to_json(),
        "input": read.to_json(),
        "classes": scan.classes,
        "n_features": run.declared.features(config, method, scan),
        "label_column": run.spec.label_column,
        "lora_rank": run.spec.lora_rank,
        "dataset": frozen["decides"]["dataset"],
        "samples": frozen["num_samples"],
        "packages": run.sweep.environment["packages"],
        "trials": run.sweep.cell_digest(cell),
    }


def _model_input(
    run: Invocation, representation: Representation, columns: Sequence[str]
) -> ModelInput:
    """What is read of adapters, with what the columns of an import say about those of training."""

    def known(name: str) -> list[Any]:
        values = optional_column(run.source, name, run.scan)
        return [value for value in values if value is not None]

    return model_input(
        representation,
        columns,
        run.scan,
        known("rank"),
        dora=any(known("dora")),
        bases=list(map(str, known("base"))),
        lacking=[layer for layers in known("lacking_layers") for layer in layers],
        unread=[kind for kinds in known("unread_tensors") for kind in kinds],
        lokr_rank=max(known("lokr_rank"), default=LOKR_RANK),
        assume_scale=run.spec.assume_scale is not None,
    )


def _plugin(origin: Origin | None) -> dict[str, str] | None:
    """Where code lies in plugins/."""
    if origin is None:
        return None
    return {name: getattr(origin, name) for name in ("module", "object", "digest")}


def _least_bytes(run: Invocation, key: TrialKey, about: dict[str, Any]) -> int:
    """What a model takes besides its classifiers' weights: training split and landmarks."""
    read = ModelInput.from_json(about["input"])
    keys, split = run.sweep.grid.keys_of(key.cell), run.declared.split
    splits = len({split.scope(of.seed, of.fold) for of in keys})
    train = len(split.split(run.scan.num_samples, key.seed, key.fold).train)
    width = run.declared.cached_width(*key.cell, run.scan)
    one = run.declared.projection(key, run.scan)
    if one is None:
        return splits * 2 * train * width
    numbers = sum(rank * (m + n) for m, n, rank in read.layers.values())
    return splits * len(one.landmarks.samples) * (2 * numbers + 8 * width)
