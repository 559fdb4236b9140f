"""Sizes of a split in words, and warnings where they are too small to say much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .splits import FEWEST_VALUES, SplitRule

FEWEST_VAL = 10
FEWEST_TEST = 20
FEWEST_OF_CLASS = 5
"""Below so many validation, test, or training adapters of a class, a warning is due."""

_WORDS = {"train": "train", "val": "validation", "test": "test"}
_FOLDS = 5
"""Folds that a warning advises, unless a class has fewer adapters."""


def sizes_in_words(rule: SplitRule, n_samples: int, seed: int) -> str:
    """Return "210 train, 29 validation, 61 test"; of a seed where each has a split of its own, and
    of the first fold where a seed has several."""
    parts = rule.split(n_samples, seed).parts()
    sizes = ", ".join(f"{len(parts[name])} {word}" for name, word in _WORDS.items())
    if rule.left_out is not None:
        what = f"each of {len(rule.folds)} values of {rule.column} is tested once"
        return f"{what}; {sizes} where it is {rule.folds[0]}"
    if rule.k:
        return f"{rule.k} folds, each tested once; {sizes} (seed {seed}, fold {rule.folds[0]})"
    return f"{sizes} (seed {seed}; every seed has its own)" if rule.per_seed else sizes


def small_split_warnings(
    rule: SplitRule, labels: Sequence[int], classes: Sequence[Any], seed: int
) -> list[str]:
    """Return a line for every way in which a seed's split is too small.

    Arguments:
        labels: (n_samples,) class indices.
        classes: names of the classes.
    """
    count, truth = len(labels), np.array(labels)
    splits = [rule.split(count, seed, fold) for fold in rule.folds or ("",)]
    if len(splits[0].train) == count:
        return [f"with {count} adapters, train, val and test are the same: the scores mean nothing"]
    lines = []
    for name, fewest, what in (
        ("val", FEWEST_VAL, "choosing by them is near chance"),
        ("test", FEWEST_TEST, "intervals are wide"),
    ):
        size = len(np.unique(np.concatenate([split.parts()[name] for split in splits])))
        if size < fewest:
            share = 100 / size
            lines.append(
                f"only {size} {_WORDS[name]} adapters: one is {share:.3g} % of accuracy, {what}"
            )
    counts = np.min([np.bincount(truth[s.train], minlength=len(classes)) for s in splits], axis=0)
    few = [f"{classes[int(i)]} ({counts[i]})" for i in np.flatnonzero(counts < FEWEST_OF_CLASS)]
    if few:
        where = " in some fold" if rule.folds else ""
        lines.append(
            f"{len(few)} of {len(classes)} classes have fewer than {FEWEST_OF_CLASS} training "
            f"adapters{where}: {_some(few)}"
        )
    advice = _advice(rule, truth) if lines else []
    return [*lines, *advice, *_whole_classes(rule, truth, classes), *_few_values(rule)]


def _advice(rule: SplitRule, truth: np.ndarray) -> list[str]:
    """Return a line about what makes more of few adapters; none where the split is given."""
    if rule.folds or rule.given is not None:
        return []
    folds = min(_FOLDS, int(np.bincount(truth).min()))
    each = [f"--split kfold:{folds} tests every adapter once a seed"] if folds > 1 else []
    own = [] if rule.per_seed else ["--split per-seed shows how much scores depend on the split"]
    return ["; ".join([*each, *own])] if each or own else []


def _whole_classes(rule: SplitRule, truth: np.ndarray, classes: Sequence[Any]) -> list[str]:
    """Return a line about classes all of whose adapters are always tested together."""
    if not rule.folds or rule.test_groups is None:
        return []
    groups = np.array(rule.test_groups)
    whole = [i for i in range(len(classes)) if len(np.unique(groups[truth == i])) == 1]
    if not whole:
        return []
    names = _some([str(classes[i]) for i in whole])
    return [f"only one value of {rule.column} has {names}: no fold that tests it has trained on it"]


def _few_values(rule: SplitRule) -> list[str]:
    if rule.left_out is None or len(rule.folds) >= FEWEST_VALUES:
        return []
    return [
        f"{rule.column} has {len(rule.folds)} values: with fewer than {FEWEST_VALUES}, no "
        "difference is tested"
    ]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
