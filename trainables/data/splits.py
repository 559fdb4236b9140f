"""Which adapters are for training, validation and test.

The default is, sample for sample, the split of the script this project replaces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import digest

from .folds import deal

SPLIT_SEED = 42
HELD_OUT = 0.3
TEST_SHARE = 0.67
SMALLEST_SPLIT = 10
"""Up to this many samples, all three splits are the whole set."""
VAL_OF_TRAIN = 8
"""Where a column or a fold says what is tested, one in so many of the rest is for validation."""
FEWEST_VALUES = 8
"""With fewer values left out, each once, no difference is tested: they are too few."""

SPLIT_RULE = f"{1 - HELD_OUT:.0%} train, of the rest {TEST_SHARE:.0%} test, seed {SPLIT_SEED}"

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Sample indices of each split, in split order; int64."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        """By name, in the order train, val, test."""
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True)
class SplitRule:
    """How samples are split; the default is one random split for all seeds.

    Attributes:
        per_seed: a trial's seed decides its split, too; else all share that of seed 42.
        groups: (n_samples,) index of every sample's group, all of which is on one side; None: every
            sample is its own.
        given: (n_samples,) "train", "val" or "test", by a column of the dataset; None: by chance.
        column: the column that parts or values come from, or groups where there are neither.
        strata: (n_samples,) class index of every sample, where classes are balanced over the parts.
        k: folds that a seed draws, each of which is the test split once; 0: none.
        left_out: (n_samples,) value of a column, as text, of which each is the test split once;
            None: no column says so.
    """

    per_seed: bool = False
    groups: tuple[int, ...] | None = None
    given: tuple[str, ...] | None = None
    column: str = ""
    strata: tuple[int, ...] | None = None
    k: int = 0
    left_out: tuple[str, ...] | None = None

    @cached_property
    def folds(self) -> tuple[str, ...]:
        """Names of the folds, as `TrialKey.fold` has them; none where a seed has one split."""
        if self.left_out is not None:
            return tuple(sorted(set(self.left_out)))
        return tuple(str(i) for i in range(1, self.k + 1))

    @cached_property
    def test_groups(self) -> tuple[int, ...] | None:
        """Return (n_samples,) groups that tests and intervals treat as units; None: adapters."""
        if self.left_out is None:
            return self.groups
        place = {value: i for i, value in enumerate(self.folds)}
        return tuple(place[value] for value in self.left_out)

    def scope(self, seed: int, fold: str) -> tuple[int | None, str]:
        """Return what tells a trial's split from that of others: its seed or None, and its fold."""
        return seed if self.per_seed else None, fold

    def split(self, num_samples: int, seed: int = SPLIT_SEED, fold: str = "") -> Split:
        """The split of a trial; with folds and none named, that of the first.

        By chance it is 70 % train, 10 % val and 20 % test, of samples or of groups: equal to
        `datasets.Dataset.train_test_split(test_size=0.3, seed=42)` followed by
        `train_test_split(test_size=0.67, seed=42)` of its test part. With at most 10 samples all
        three are the whole set, and the scores mean nothing. With strata the parts have the same
        sizes, and every class has about its share of each. With folds a fold is tested, and an
        eighth of the rest validates.

        Raises:
            UserError: a part would be empty.
        """
        if self.given is not None:
            return _given(self.given, self.column, self.groups)
        seed = seed if self.per_seed else SPLIT_SEED
        if self.folds:
            return self._fold(seed, fold or self.folds[0])
        if self.strata is not None:
            return _stratified(np.array(self.strata), seed)
        if self.groups is None:
            return _by_chance(num_samples, seed)
        groups = np.array(self.groups)
        count = int(groups.max()) + 1
        if count <= SMALLEST_SPLIT:
            raise UserError(
                f"--group-column {self.column} has {count} groups: need more than {SMALLEST_SPLIT} "
                "for train, val and test to get some each"
            )
        parts = _by_chance(count, seed).parts()
        return Split(*(np.flatnonzero(np.isin(groups, of)) for of in parts.values()))

    @cached_property
    def _dealt(self) -> dict[int, np.ndarray]:
        """Seed -> (n_samples,) fold of every sample: all folds of a seed ask for the same."""
        return {}

    def _fold(self, seed: int, fold: str) -> Split:
        classes = np.array(self.strata)
        groups = None if self.groups is None else np.array(self.groups)
        if self.left_out is not None:
            tested = np.array(self.left_out) == fold
        else:
            if seed not in self._dealt:
                self._dealt[seed] = deal(classes, groups, self.k, np.random.default_rng(seed))
            tested = self._dealt[seed] == int(fold) - 1
        rest = np.flatnonzero(~tested)
        rng = np.random.default_rng((seed, self.folds.index(fold)))
        own = None if groups is None else groups[rest]
        validates = deal(classes[rest], own, VAL_OF_TRAIN, rng) == 0
        if validates.all():
            raise UserError(f"fold {fold}: too few adapters are left to train on and to validate")
        return Split(rest[~validates], rest[validates], np.flatnonzero(tested))

    def describe(self) -> Any:
        """What is frozen of it: the rule in words, and a digest of the column it reads."""
        if self.given is not None:
            return {"rule": f"as column {self.column} says", "values": digest(list(self.given))}
        seed = "each trial's own seed" if self.per_seed else f"seed {SPLIT_SEED}"
        rule = SPLIT_RULE.removesuffix(f"seed {SPLIT_SEED}") + seed
        if self.left_out is not None:
            return {
                "rule": f"every value of {self.column} is tested once{self._of_the_rest}",
                "values": digest(list(self.left_out)),
                **self._undivided,
            }
        if self.k:
            return {
                "rule": f"{self.k} folds, {seed}, each tested once{self._of_the_rest}",
                **self._undivided,
            }
        if self.strata is not None:
            return f"{rule}, classes balanced"
        if self.groups is None:
            return rule
        return {
            "rule": f"{rule}, groups of column {self.column} undivided",
            "values": digest(list(self.groups)),
        }

    @property
    def _of_the_rest(self) -> str:
        groups = "" if self.groups is None else ", groups undivided"
        return f", one in {VAL_OF_TRAIN} of the rest validates, classes balanced{groups}"

    @property
    def _undivided(self) -> dict[str, str]:
        return {} if self.groups is None else {"groups": digest(list(self.groups))}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object; strata and folds stand in it only where there are some."""
        value: dict[str, Any] = {
            "per_seed": self.per_seed,
            "groups": None if self.groups is None else list(self.groups),
            "given": None if self.given is None else list(self.given),
            "column": self.column,
        }
        if self.strata is not None:
            value["strata"] = list(self.strata)
        if self.k:
            value["k"] = self.k
        if self.left_out is not None:
            value["left_out"] = list(self.left_out)
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SplitRule:
        """From a JSON object."""
        groups, given = value["groups"], value["given"]
        return cls(
            value["per_seed"],
            None if groups is None else tuple(groups),
            None if given is None else tuple(given),
            value["column"],
            tuple(value["strata"]) if "strata" in value else None,
            value.get("k", 0),
            tuple(value["left_out"]) if "left_out" in value else None,
        )


BY_CHANCE = SplitRule()
"""The default."""


def rule_in_words(described: Any) -> str:
    """The words of what `SplitRule.describe` gave."""
    return described if isinstance(described, str) else described["rule"]


def _by_chance(count: int, seed: int) -> Split:
    whole = np.arange(count)
    if count <= SMALLEST_SPLIT:
        return Split(whole, whole, whole)
    train, held_out = _train_test(whole, HELD_OUT, seed)
    val, test = _train_test(held_out, TEST_SHARE, seed)
    return Split(train, val, test)


def _stratified(strata: np.ndarray, seed: int) -> Split:
    """Split with the sizes of `_by_chance`, every class spread evenly over the parts.

    Each class's samples get evenly spaced places from 0 to 1, in a random order and with a random
    start; the first places are tested.
    """
    count = len(strata)
    whole = np.arange(count)
    if count <= SMALLEST_SPLIT:
        return Split(whole, whole, whole)
    n_held_out = math.ceil(HELD_OUT * count)
    n_test = math.ceil(TEST_SHARE * n_held_out)
    rng = np.random.default_rng(seed)
    place = np.empty(count)
    for index in np.unique(strata):
        own = rng.permutation(np.flatnonzero(strata == index))
        place[own] = (np.arange(len(own)) + rng.random()) / len(own)
    order = np.argsort(place, kind="stable")
    return Split(order[n_held_out:], order[n_test:n_held_out], order[:n_test])


def _train_test(samples: np.ndarray, test_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """One shuffled cut: the first ⌈test_size·n⌉ of a permutation are the test part."""
    n_test = math.ceil(test_size * len(samples))
    order = np.random.default_rng(seed).permutation(len(samples))
    return samples[order[n_test:]], samples[order[:n_test]]


def _given(given: tuple[str, ...], column: str, groups: tuple[int, ...] | None) -> Split:
    values = np.array(given)
    train, val, test = (np.flatnonzero(values == part) for part in PARTS)
    if not len(val) and groups is not None:
        own = np.array(groups)[train]
        _, held_out = _train_test(np.unique(own), 1 / VAL_OF_TRAIN, SPLIT_SEED)
        chosen = np.isin(own, held_out)
        train, val = train[~chosen], train[chosen]
    elif not len(val):
        train, val = _train_test(train, 1 / VAL_OF_TRAIN, SPLIT_SEED)
    for name, part in zip(PARTS, (train, val, test)):
        if not len(part):
            raise UserError(f"--split-column {column}: no sample is for {name}")
    return Split(train, val, test)
