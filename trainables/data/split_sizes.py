"""Sizes of a split in words, and warnings where they are too small to say much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .splits import SplitRule

FEWEST_VAL = 10
FEWEST_TEST = 20
FEWEST_OF_CLASS = 5
"""Below so many validation, test, or training adapters of a class, a warning is due."""

_WORDS = {"train": "train", "val": "validation", "test": "test"}


def sizes_in_words(rule: SplitRule, n_samples: int, seed: int) -> str:
    """Return "210 train, 29 validation, 61 test"; of a seed where each has a split of its own."""
    parts = rule.split(n_samples, seed).parts()
    sizes = ", ".join(f"{len(parts[name])} {word}" for name, word in _WORDS.items())
    return f"{sizes} (seed {seed}; every seed has its own)" if rule.per_seed else sizes


def small_split_warnings(
    rule: SplitRule, labels: Sequence[int], classes: Sequence[Any], seed: int
) -> list[str]:
    """Return a line for every way in which a seed's split is too small.

    Arguments:
        labels: (n_samples,) class indices.
        classes: names of the classes.
    """
    parts = rule.split(len(labels), seed).parts()
    count = len(labels)
    if len(parts["train"]) == count:
        return [f"with {count} adapters, train, val and test are the same: the scores mean nothing"]
    lines = []
    for name, fewest, what in (
        ("val", FEWEST_VAL, "choosing by them is near chance"),
        ("test", FEWEST_TEST, "intervals are wide"),
    ):
        size = len(parts[name])
        if size < fewest:
            share = 100 / size
            lines.append(
                f"only {size} {_WORDS[name]} adapters: one is {share:.3g} % of accuracy, {what}; "
                "--split per-seed shows how much it depends on the split"
            )
    counts = np.bincount(np.array(labels)[parts["train"]], minlength=len(classes))
    few = [f"{classes[int(i)]} ({counts[i]})" for i in np.flatnonzero(counts < FEWEST_OF_CLASS)]
    if few:
        shown = ", ".join(few[:5]) + (", …" if len(few) > 5 else "")
        lines.append(
            f"{len(few)} of {len(classes)} classes have fewer than {FEWEST_OF_CLASS} training "
            f"adapters: {shown}"
        )
    return lines
