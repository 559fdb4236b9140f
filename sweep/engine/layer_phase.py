"""Between the two phases of a sweep with `without_top:K`: ranking layers, and freezing that."""

from __future__ import annotations

from dataclasses import replace

from lorasweep.sweep.store.plan import read_records
from lorasweep.sweep.store.rankings import (
    deciding_trials,
    methods_to_rank,
    rank_layers,
    write_rankings,
)
from lorasweep.sweep.store.sweep_file import SweepFile
from lorasweep.trainables.store.trial_key import TrialKey

from .invocation import Invocation


def undecided_methods(sweep: SweepFile) -> list[str]:
    """Methods of which `without_top:K` is in the grid and the layers are not ranked."""
    ranked = {method for _, method in sweep.decided}
    return [method for method in methods_to_rank(sweep.grid) if method not in ranked]


def decide_layers(run: Invocation) -> bool:
    """Rank the layers of methods whose `each_layer` trials all have records, and write the ranking.

    Methods that are ranked already stay as they are. The invocation is updated. Returns whether a
    method was ranked.
    """
    fingerprints = run.sweep.fingerprints
    rankings = dict(run.sweep.rankings)
    found = False
    for method in undecided_methods(run.sweep):
        keys = deciding_trials(run.sweep.grid, method)
        state = read_records(run.run_dir, {key: fingerprints[key] for key in keys})
        if state.todo:
            continue
        seeds = run.sweep.grid.seeds_of(method)
        trials = run.sweep.trials_digest(method, seeds)
        rankings[method] = rank_layers(keys, state.records, trials)
        found = True
    if found:
        run.lock.check()
        write_rankings(run.run_dir, rankings)
        run.sweep = replace(run.sweep, rankings=rankings)
    run.declared = replace(run.declared, decided=run.sweep.decided)
    return found


def undecided_lines(sweep: SweepFile, failed: list[TrialKey]) -> list[str]:
    """One line for each method whose `without_top:K` were not reached since deciding trials
    failed."""
    lines = []
    for method in undecided_methods(sweep):
        deciding = set(deciding_trials(sweep.grid, method))
        count = sum(key in deciding for key in failed)
        if count:
            lines.append(
                f"without_top/{method}: not reached: its layers are not ranked, since {count} of "
                f"{len(deciding)} trials of each_layer failed"
            )
    return lines


def phases_line(sweep: SweepFile) -> str | None:
    """What a plan says of the second phase; None if there is none."""
    methods = undecided_methods(sweep)
    if not methods:
        return None
    later = sum(not fingerprint for fingerprint in sweep.fingerprints.values())
    return (
        f"two: the trials of each_layer decide which layers {later} trials of without_top "
        "leave out, and go first"
    )
