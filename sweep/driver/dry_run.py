"""What a run would do, without doing it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from lorasweep.features.compute.stage import plan_stage
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.layers.families import family_of
from lorasweep.features.projections import missing as not_fitted
from lorasweep.features.representations import Representation, stored_representations
from lorasweep.sweep.engine.layer_phase import phases_line
from lorasweep.sweep.engine.projection_stage import describe as describe_fitted
from lorasweep.sweep.imports.open_dataset import open_dataset
from lorasweep.sweep.process.machine import machine_memory, usable_cores
from lorasweep.sweep.process.memory import largest_trial, require_memory
from lorasweep.sweep.request.declared import Declared, declared_by
from lorasweep.sweep.request.grid import Cell
from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
from lorasweep.sweep.request.split_columns import split_rule
from lorasweep.sweep.store.plan import RecordState, read_records
from lorasweep.sweep.store.sweep_file import SweepFile, continued, make_sweep_file
from lorasweep.sweep.watch.counts import left_out_lines, summary_lines
from lorasweep.sweep.watch.terminal import Reporter, format_seconds
from lorasweep.trainables.data.split_sizes import sizes_in_words, small_split_warnings
from lorasweep.trainables.store.trial_key import TrialKey

_FLOPS_PER_CORE = 2e10
_EPOCHS_GUESSED = 40
_SECONDS_PER_NUMBER = 30e-9
_RECORD_BYTES = 8192


def describe(spec: SweepSpec, options: RuntimeOptions, reporter: Reporter) -> None:
    """Tell cells and trials to run, what is cached, the disk needed and a rough time."""
    spec.validate()
    options.validate()
    run_dir = options.run_dir(spec.dataset)
    with TemporaryDirectory() as nowhere:
        memo = None if options.cache_features else Path(nowhere)
        source, scan = open_dataset(spec, options, run_dir, reporter, memo=memo)
    declared = declared_by(spec, split_rule(spec, source, scan), scan.tensors)
    sweep = make_sweep_file(spec, declared, source, scan, options)
    sweep = continued(run_dir, sweep)
    declared = replace(declared, decided=sweep.decided)
    state = read_records(run_dir, sweep.fingerprints)
    say = reporter.say
    say(f"would run in {run_dir}")
    seed = sweep.grid.seeds[0]
    say(f"split: {sizes_in_words(declared.split, scan.num_samples, seed)}")
    for line in small_split_warnings(declared.split, scan.kept_labels, scan.classes, seed):
        reporter.warn(line)
    for line in summary_lines(sweep.grid, state.done):
        say(f"  {line}")
    say(f"trials: {len(state.done)} done, {len(state.todo)} to run")
    phases = phases_line(sweep)
    if phases:
        say(f"phases: {phases}")
    for line in _todo_lines(state.todo):
        say(f"  {line}")

    for line in left_out_lines(declared.refused(scan)):
        say(line)
    largest = largest_trial(declared, scan, state.todo)
    if largest:
        say(f"largest trial: {largest.describe()}")
        if not options.cluster:
            require_memory(largest, machine_memory())

    names = list(dict.fromkeys(key.representation for key in state.todo))
    missing: list[Representation] = []
    if names:
        wanted = stored_representations(declared.inputs[name].representation for name in names)
        plan = plan_stage(scan, wanted, options.cache_dir.absolute())
        missing = plan.computed
        say(f"features cached: {', '.join(item.name for item in plan.cached) or 'none'}")
        say(f"features to compute: {', '.join(item.name for item in missing) or 'none'}")
        asked = declared.projections(state.todo, scan)
        unfitted = not_fitted(scan, asked, options.cache_dir.absolute())
        if unfitted:
            say(f"to fit: {describe_fitted(unfitted)}")
    widths = (item.width(shape) for item in missing for shape in scan.columns(item.unit).values())
    numbers = sum(widths) * scan.num_samples
    disk = 4 * numbers + len(state.todo) * (_RECORD_BYTES + 2 * scan.num_samples)
    say(f"disk: about {disk / 2**20:,.0f} MiB")
    seconds = _seconds(declared, sweep, state, scan, missing)
    say(f"time: roughly {format_seconds(seconds)}, Ray's start apart")


def _todo_lines(todo: list[TrialKey]) -> list[str]:
    """One line for each cell, and one for those of a family and a method."""
    groups: dict[Cell, list[TrialKey]] = {}
    for key in todo:
        groups.setdefault((family_of(key.config) or key.config, key.method), []).append(key)
    lines = []
    for (name, method), keys in groups.items():
        seeds = ", ".join(map(str, sorted({key.seed for key in keys})))
        configs = len({key.config for key in keys})
        many = f" ({configs} configs, {len(keys)} trials)" if family_of(keys[0].config) else ""
        lines.append(f"{name}/{method}{many}: seeds {seeds}")
    return lines


def _seconds(
    declared: Declared,
    sweep: SweepFile,
    state: RecordState,
    scan: DatasetScan,
    missing: list[Representation],
) -> float:
    features = scan.num_samples * scan.numbers_per_sample * _SECONDS_PER_NUMBER
    known: dict[Cell, list[float]] = {}
    for key, record in state.records.items():
        known.setdefault(key.cell, []).append(record["timing"]["total_seconds"])
    trials = sum(
        fmean(known[key.cell]) if key.cell in known else _guess(key, declared, sweep, scan)
        for key in state.todo
    )
    return ((features if missing else 0.0) + trials) / usable_cores()


def _guess(key: TrialKey, declared: Declared, sweep: SweepFile, scan: DatasetScan) -> float:
    """Seconds of a trial of a cell without records, from the arithmetic of training."""
    item = declared.classifiers[key.classifier]
    multiplications = item.classifier.multiplications(
        declared.data_size(key.config, key.method, scan), item.settings
    )
    samples = len(declared.split.split(scan.num_samples).train)
    epochs = min(sweep.settings(key.classifier).get("epochs", _EPOCHS_GUESSED), _EPOCHS_GUESSED)
    return 6.0 * multiplications * samples * epochs / _FLOPS_PER_CORE + 0.1
