"""Columns that several tables have."""

from __future__ import annotations

from math import isnan

from .cells import Estimate
from .tables import Column, Value, interval_of, percent

CONFIG = Column("config", "config")
REPRESENTATION = Column("representation", "representation")


def interval_column(name: str, heading: str = "95 % interval", explain: str = "") -> Column:
    """The 95 % interval of a share."""
    return Column(name, heading, interval_of(percent), explain or "95 % interval", interval=True)


def ends(estimate: Estimate | None) -> Value:
    """A cell of such a column; empty where nothing varies."""
    if estimate is None or isnan(estimate.low):
        return None
    return estimate.low, estimate.high
