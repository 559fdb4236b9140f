"""The report's tables of importance: layers, kinds of values, single columns."""

from __future__ import annotations

from lorasweep.features.layers.names import canonical_name

from .analysis import Analysis
from .columns import REPRESENTATION
from .importance import (
    Axis,
    Importance,
    Spread,
    importance_of,
    top_columns,
    unavailable,
)
from .parts import MOST_PANELS, best_only, display_order
from .runs import Cell
from .sections import Section
from .tables import Column, Table, Value, decimal, percent, signed_percent

_MEASURES = (
    Column("log_loss_rise", "log loss rise", decimal(4), "nats, mean over seeds"),
    Column("log_loss_rise_std", "std", decimal(4), "sample standard deviation over seeds"),
    Column("accuracy_drop", "acc drop", signed_percent, "percentage points, mean over seeds"),
    Column("accuracy_drop_std", "std", percent, "sample standard deviation over seeds"),
    Column("weight", "weight", decimal(3), "sum of the columns' weights, mean over seeds"),
)


def importance_tables(analysis: Analysis) -> list[Table]:
    """Those of every config; without rows where no record has any."""
    return [
        table
        for config in analysis.configs
        for table in (
            layer_importance_table(analysis, config),
            kind_importance_table(analysis, config),
            column_weight_table(analysis, config),
        )
    ]


def layer_importance_table(analysis: Analysis, config: str) -> Table:
    """What is lost when all values of a layer are permuted."""
    return Table(
        Section.IMPORTANCE,
        f"importance_layers_{config}",
        f"Importance of layers, {config}, as data flows through the network",
        [REPRESENTATION, Column("layer", "layer"), *_MEASURES],
        _rows(analysis, config, "layers"),
        _note(analysis, config, "layer"),
    )


def kind_importance_table(analysis: Analysis, config: str) -> Table:
    """What is lost when all values of a kind are permuted."""
    return Table(
        Section.IMPORTANCE,
        f"importance_kinds_{config}",
        f"Importance of kinds of values, {config}",
        [REPRESENTATION, Column("kind", "kind of value"), *_MEASURES],
        _rows(analysis, config, "kinds"),
        _note(analysis, config, "kind in all layers"),
    )


def column_weight_table(analysis: Analysis, config: str) -> Table:
    """Single columns with the largest weights."""
    rows: list[list[Value]] = [
        [method, row.column, row.value, row.weight, row.seeds]
        for _, method in _cells_of(analysis, config)
        for row in top_columns(analysis, (config, method))
    ]
    return Table(
        Section.IMPORTANCE,
        f"importance_columns_{config}",
        f"Single values with the largest weights, {config}",
        [
            REPRESENTATION,
            Column("column", "layer tensor or layer"),
            Column("value", "value"),
            Column("weight", "weight", decimal(4)),
            Column("seeds", "seeds", explain="trials that list it among their largest"),
        ],
        rows,
        "The Euclidean norm over classes of the weights of a standardised column. Of columns that "
        "tell the same, each has a part of the weight." + _left_out(analysis),
    )


def _cells_of(analysis: Analysis, config: str) -> list[Cell]:
    methods = display_order(analysis)[:MOST_PANELS]
    return [(config, method) for method in methods if (config, method) in analysis.cells]


def _left_out(analysis: Analysis) -> str:
    there = len(display_order(analysis))
    return best_only(min(there, MOST_PANELS), there, "the records have the others")


def _rows(analysis: Analysis, config: str, axis: Axis) -> list[list[Value]]:
    return [
        [cell[1], canonical_name(item.name) if axis == "layers" else item.name, *_cells(item)]
        for cell in _cells_of(analysis, config)
        for item in importance_of(analysis, cell, axis)
    ]


def _cells(item: Importance) -> list[Value]:
    weight = item.weight.mean if item.weight else None
    return [*_both(item.log_loss), *_both(item.accuracy), weight]


def _both(spread: Spread | None) -> list[Value]:
    return [spread.mean, spread.std] if spread else [None, None]


def _note(analysis: Analysis, config: str, group: str) -> str:
    why = unavailable(analysis, _cells_of(analysis, config))
    return (
        f"Permutation importance on the validation split: all values of a {group} are permuted "
        "together, five times. Below 0 is chance. What others tell as well is not missed, and "
        f"counts for little.{f' Not available: {why}.' if why else ''}{_left_out(analysis)}"
    )
