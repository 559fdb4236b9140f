"""The report's tables of families of configs: a row for each member and method."""

from __future__ import annotations

from lorasweep.features.layers.families import WITHOUT_TOP, noun_of, without_count

from .analysis import REFERENCE, Analysis
from .columns import REPRESENTATION, ends, interval_column
from .family_results import Member
from .sections import Section
from .tables import Column, Table, Value, percent, signed_percent, yes_no

_PARTS = [Column("block", "block"), Column("kind", "kind"), Column("projection", "projection")]


def family_table(analysis: Analysis, family: str) -> Table:
    """What every member of a family reaches, in the order of the network or of K."""
    return _without_table(analysis) if family == WITHOUT_TOP else _alone_table(analysis, family)


def _alone_table(analysis: Analysis, family: str) -> Table:
    found, noun = analysis.families[family], noun_of(family)
    has_parts = found.members[0].parts is not None
    rows: list[list[Value]] = []
    for method, results in found.results.items():
        ranks = found.ranks(method)
        for place, member in enumerate(found.members, 1):
            if member.config not in results:
                continue
            result = results[member.config]
            rows.append(
                [
                    method,
                    place,
                    member.name,
                    *_parts(member),
                    result.accuracy.value,
                    ends(result.accuracy),
                    result.val_acc,
                    ranks[member.config],
                    analysis.above_chance(result),
                ]
            )
    return Table(
        Section.FAMILIES,
        family,
        f"Test accuracy of every {noun} alone (%), in the order of the network",
        [
            REPRESENTATION,
            Column("place", "place", explain="in the order of the network"),
            Column(noun, noun),
            *(_PARTS if has_parts else []),
            Column("test_accuracy", "test acc", percent),
            interval_column("test_accuracy", "acc, 95 %"),
            Column("val_accuracy", "validation", percent, "mean over seeds"),
            Column("rank", "rank", explain="by validation accuracy, best first"),
            Column("above_chance", "above chance", yes_no, "both intervals lie above both"),
        ],
        rows,
        f"95 % intervals resample {analysis.resampled}, each {noun} by itself: of forty that are "
        "at chance, one may be called above it by luck. The best is to be chosen by validation; "
        "the highest test accuracy of many flatters.",
    )


def _parts(member: Member) -> list[Value]:
    if member.parts is None:
        return []
    return [member.parts.block, member.parts.kind, member.parts.projection]


def _without_table(analysis: Analysis) -> Table:
    """What remains without the best layers, and what that costs."""
    found = analysis.families[WITHOUT_TOP]
    rows: list[list[Value]] = []
    for method, results in found.results.items():
        whole = analysis.cells.get((REFERENCE, method))
        for config, result in sorted(results.items(), key=lambda item: without_count(item[0]) or 0):
            drop = analysis.difference(whole.cell, result.cell) if whole else None
            rows.append(
                [
                    method,
                    without_count(config),
                    result.accuracy.value,
                    ends(result.accuracy),
                    drop.value if drop else None,
                    ends(drop),
                    result.val_acc,
                    analysis.above_chance(result),
                ]
            )
    return Table(
        Section.FAMILIES,
        WITHOUT_TOP,
        "Test accuracy of what remains without the best layers (%)",
        [
            REPRESENTATION,
            Column("left_out", "left out", explain="layers, best by validation alone first"),
            Column("test_accuracy", "test acc", percent),
            interval_column("test_accuracy", "acc, 95 %"),
            Column("drop", "drop", signed_percent, f"from {REFERENCE}, percentage points"),
            interval_column("drop", "drop, 95 %"),
            Column("val_accuracy", "validation", percent, "mean over seeds"),
            Column("above_chance", "above chance", yes_no, "both intervals lie above both"),
        ],
        rows,
        "Each representation leaves out its own best layers: those with the highest validation "
        f"accuracy alone. 95 % intervals resample {analysis.resampled}; those of drops are paired.",
    )
