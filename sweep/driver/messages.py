"""What a run says of its plan before it begins, and of what came of it."""

from __future__ import annotations

from typing import Any

from lorasweep.features.layers.configs import uncovered
from lorasweep.sweep.engine.invocation import Invocation
from lorasweep.sweep.engine.layer_phase import phases_line, undecided_lines
from lorasweep.sweep.store.plan import count_other_records
from lorasweep.sweep.watch.counts import group_heading, left_out_lines, summary_lines
from lorasweep.sweep.watch.terminal import format_seconds
from lorasweep.trainables.data.split_sizes import sizes_in_words, small_split_warnings
from lorasweep.trainables.store.events import Planned
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey


def tell_plan(run: Invocation, done: list[TrialKey], todo: list[TrialKey]) -> None:
    """Say what the run works on, what is done and what is to be done."""
    say, scan, spec = run.reporter.say, run.scan, run.spec
    say(f"dataset   {spec.dataset}: {scan.num_samples} adapters, {len(scan.classes)} classes")
    say("layers    " + ", ".join(_layer_counts(run)))
    neither = uncovered(scan.tensors)
    if neither:
        run.stream.warn(
            f"{len(neither)} of {len(scan.tensors)} layer tensors are neither .attn1. nor .attn2. "
            f"(e.g. {neither[0]}): neither visual_only nor text_only has them"
        )
    rule, seed = run.declared.split, run.sweep.grid.seeds[0]
    say(f"split     {sizes_in_words(rule, scan.num_samples, seed)}")
    for line in small_split_warnings(rule, scan.kept_labels, scan.classes, seed):
        run.stream.warn(line)
    for line in left_out_lines(run.declared.refused(scan)):
        say(line)
    say(f"results   {run.run_dir}")
    for line in summary_lines(run.sweep.grid, done):
        say(f"  {line}")
    say(f"trials    {len(done)} done, {len(todo)} to run")
    phases = phases_line(run.sweep)
    if phases:
        say(f"phases    {phases}")
    run.stream.publish(Planned(len(done), len(todo)))


def _layer_counts(run: Invocation) -> list[str]:
    """Every config with its number of layer tensors, every family with that of its configs."""
    grid, layers = run.sweep.grid, run.sweep.environment["layers"]
    return [
        group_heading(grid, name) if name in grid.families else f"{name} {layers[name]}"
        for name in grid.groups
    ]


def tell_end(
    run: Invocation, done: list[TrialKey], failed: list[TrialKey], summary: dict[str, Any]
) -> None:
    """Say the results, if there are new ones, and the summary."""
    say = run.reporter.say
    if summary["ran"] or failed:
        say()
        say(RunDir(run.run_dir).results("txt").read_text())
        for line in summary_lines(run.sweep.grid, done):
            say(line)
    for line in undecided_lines(run.sweep, failed):
        say(line)
    outside = count_other_records(run.run_dir, run.sweep.fingerprints)
    say(
        f"trials: {summary['skipped']} skipped, {summary['ran']} run, {len(failed)} failed, "
        f"{summary['not_reached']} not reached, in {format_seconds(summary['seconds'])}"
        + (f"; also on disk: {outside} records outside this grid" if outside else "")
    )
    say(f"results: {RunDir(run.run_dir).results('txt')} (and .json, .parquet)")
