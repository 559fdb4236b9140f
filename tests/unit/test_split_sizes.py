"""Words for the sizes of a split, and warnings about small ones."""

import numpy as np
import pytest

from lorasweep.trainables.data.split_sizes import sizes_in_words, small_split_warnings
from lorasweep.trainables.data.splits import SplitRule


def test_sizes_are_those_of_the_split():
    assert sizes_in_words(SplitRule(), 300, 42) == "210 train, 29 validation, 61 test"
    own = sizes_in_words(SplitRule(per_seed=True), 300, 43)
    assert own == "210 train, 29 validation, 61 test (seed 43; every seed has its own)"


def test_a_large_split_has_no_warning():
    assert (
        small_split_warnings(SplitRule(), [i % 10 for i in range(300)], list("abcdefghij"), 0) == []
    )


def test_a_small_split_says_what_one_adapter_counts():
    lines = small_split_warnings(SplitRule(), [i % 2 for i in range(20)], ["cat", "dog"], 42)
    assert lines[0].startswith("only 1 validation adapters: one is 100 % of accuracy")
    assert lines[1].startswith("only 5 test adapters: one is 20 % of accuracy")
    assert all("--split per-seed" in line for line in lines[:2])
    same = small_split_warnings(SplitRule(), [0, 1, 0, 1], ["cat", "dog"], 42)
    assert same == ["with 4 adapters, train, val and test are the same: the scores mean nothing"]


@pytest.mark.parametrize("rare", [1, 4])
def test_classes_with_few_training_adapters_are_named(rare):
    labels = np.array([0] * 200 + [1] * 200)
    train = SplitRule().split(len(labels)).train
    labels[train] = 0
    labels[train[:rare]] = 1
    (line,) = small_split_warnings(SplitRule(), labels.tolist(), ["cat", "dog"], 42)
    assert line == f"1 of 2 classes have fewer than 5 training adapters: dog ({rare})"
