"""How far a sweep is, counted in pairs and in trials."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trainables.record import TrialKey

from ..grid import Grid, Pair


def pair_counts(grid: Grid, done: Collection[TrialKey]) -> dict[str, tuple[int, int]]:
    """Config -> (complete pairs, all pairs); a pair is complete when all its seeds have records."""
    finished = set(done)
    counts = {}
    for config in grid.configs:
        complete = [
            finished.issuperset(grid.keys_of((config, label))) for label in grid.labels_of(config)
        ]
        counts[config] = sum(complete), len(complete)
    return counts


def summary_lines(grid: Grid, done: Collection[TrialKey]) -> list[str]:
    """One line per config and the total, in pairs: complete ones, all, what remains."""
    counts = pair_counts(grid, done)
    width = max(map(len, [*counts, "total"]))
    lines = [
        f"{config:{width}}  {complete}/{total} completed, {total - complete} remaining"
        for config, (complete, total) in counts.items()
    ]
    complete, total = (sum(column) for column in zip(*counts.values()))
    return [*lines, f"{'total':{width}}  {complete}/{total} ({complete / total:.1%})"]


def left_out_lines(refused: Mapping[Pair, str]) -> list[str]:
    """One line for each pair that makes no sense."""
    return [f"left out: {config}/{label}: {why}" for (config, label), why in refused.items()]
