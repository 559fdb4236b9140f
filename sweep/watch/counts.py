"""How far a sweep is, counted in cells and in trials."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from lorasweep.features.common.names import abbreviate
from lorasweep.features.layers.families import family_of
from lorasweep.sweep.request.grid import Cell, Grid
from lorasweep.trainables.store.trial_key import TrialKey


def pair_counts(grid: Grid, done: Collection[TrialKey]) -> dict[str, tuple[int, int]]:
    """Config -> (complete cells, all cells); a cell is complete when all its seeds have records."""
    finished = set(done)
    counts = {}
    for config in grid.configs:
        complete = [
            finished.issuperset(grid.keys_of((config, method)))
            for method in grid.methods_of(config)
        ]
        counts[config] = sum(complete), len(complete)
    return counts


def group_counts(grid: Grid, done: Collection[TrialKey]) -> dict[str, tuple[int, int]]:
    """The same for what is shown as one block: a family is its members together."""
    counts = pair_counts(grid, done)
    return {
        name: (sum(counts[c][0] for c in configs), sum(counts[c][1] for c in configs))
        for name, configs in grid.groups.items()
    }


def group_heading(grid: Grid, name: str) -> str:
    """A config's name, or a family's with the number of its members: `each_layer (64 configs)`."""
    members = grid.families.get(name)
    return f"{name} ({len(members)} configs)" if members else name


def summary_lines(grid: Grid, done: Collection[TrialKey]) -> list[str]:
    """One line per config or family and the total, in cells: complete ones, all, what remains."""
    counts = group_counts(grid, done)
    headings = {name: group_heading(grid, name) for name in counts}
    width = max(map(len, [*headings.values(), "total"]))
    lines = [
        f"{headings[name]:{width}}  {complete}/{total} completed, {total - complete} remaining"
        for name, (complete, total) in counts.items()
    ]
    complete, total = (sum(column) for column in zip(*counts.values()))
    return [*lines, f"{'total':{width}}  {complete}/{total} ({complete / total:.1%})"]


def left_out_lines(refused: Mapping[Cell, str]) -> list[str]:
    """Cells that make no sense, those of a family and a method together: a line for each reason."""
    grouped: dict[Cell, list[str]] = {}
    for (config, method), why in refused.items():
        grouped.setdefault((family_of(config) or config, method), []).append(why)
    by_reason: dict[str, list[str]] = {}
    for (name, method), whys in grouped.items():
        many = f" ({len(whys)} of its configs)" if len(whys) > 1 else ""
        by_reason.setdefault(whys[0], []).append(f"{name}/{method}{many}")
    return [f"left out: {abbreviate(cells)}: {why}" for why, cells in by_reason.items()]
