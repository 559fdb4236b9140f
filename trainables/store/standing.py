"""The one order of methods: validation accuracy, then validation log loss, then fewer features.

Report, kept models, `predict`, `without_top` and the terminal all take the first of this order.
Test scores never enter it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")

_EQUAL = 12
"""Decimals: means of the same shares may differ in their last bits."""


class Standing(NamedTuple):
    """How good something is on the validation split; means over its fits.

    Attributes:
        val_acc: accuracy, 0 to 1.
        val_log_loss: log loss in nats; None where a record lacks it.
        n_features: columns of the classifier's input; None where it is not known.
    """

    val_acc: float | None
    val_log_loss: float | None = None
    n_features: int | None = None

    @classmethod
    def of_records(cls, records: Iterable[Mapping[str, Any]]) -> Standing:
        """Return the standing of trials by their records."""
        records = list(records)

        def mean(name: str) -> float | None:
            values = [record["metrics"].get(name) for record in records]
            known = [value for value in values if value is not None]
            return float(np.mean(known)) if len(known) == len(values) else None

        return cls(mean("val_acc"), mean("val_log_loss"), records[0].get("feature_dim"))

    @classmethod
    def of_entry(cls, entry: Mapping[str, Any]) -> Standing:
        """Return the standing of an entry of results.json."""
        return cls(
            entry.get("val_acc_mean"), entry.get("val_log_loss_mean"), entry.get("feature_dim")
        )

    @property
    def order(self) -> tuple[float, float, float]:
        """A key to sort by: the best first."""
        accuracy = -inf if self.val_acc is None else round(self.val_acc, _EQUAL)
        loss = inf if self.val_log_loss is None else round(self.val_log_loss, _EQUAL)
        return -accuracy, loss, inf if self.n_features is None else self.n_features


def in_order(standings: Mapping[T, Standing]) -> list[T]:
    """Return what the standings are of, the best first; of equals the first given."""
    return sorted(standings, key=lambda item: standings[item].order)


def best_of(standings: Mapping[T, Standing]) -> T:
    """Return the best; of equals the first given."""
    return in_order(standings)[0]


def tied_with_best(standings: Mapping[T, Standing]) -> list[T]:
    """Return the others whose validation accuracy is the best one's, in the order of standings."""
    first, *others = in_order(standings)
    accuracy = standings[first].order[0]
    return [item for item in others if standings[item].order[0] == accuracy]


def tie_in_words(standings: Mapping[T, Standing]) -> str:
    """Return how the best was told from those with its validation accuracy; "" if nobody has it."""
    tied = tied_with_best(standings)
    if not tied:
        return ""
    best = standings[best_of(standings)].order
    orders = [standings[item].order for item in tied]
    if all(order[1] > best[1] for order in orders):
        rule = "by validation log loss"
    elif all(order[1:] > best[1:] for order in orders):
        rule = "by validation log loss and fewer features"
    else:
        rule = "as the first of equals"
    names = str(tied[0]) if len(tied) == 1 else f"{len(tied)} others"
    return f"tied with {names} in validation accuracy, chosen {rule}"
