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
    assert "--split kfold:5" in lines[2]
    assert "--split per-seed" in lines[2]
    same = small_split_warnings(SplitRule(), [0, 1, 0, 1], ["cat", "dog"], 42)
    assert same == ["with 4 adapters, train, val and test are the same: the scores mean nothing"]


@pytest.mark.parametrize("rare", [1, 4])
def test_classes_with_few_training_adapters_are_named(rare):
    labels = np.array([0] * 200 + [1] * 200)
    train = SplitRule().split(len(labels)).train
    labels[train] = 0
    labels[train[:rare]] = 1
    line, advice = small_split_warnings(SplitRule(), labels.tolist(), ["cat", "dog"], 42)
    assert "kfold:" in advice
    assert line == f"1 of 2 classes have fewer than 5 training adapters: dog ({rare})"


def folds(labels, k=5, **more):
    return SplitRule(per_seed=True, strata=tuple(labels), k=k, **more)


def test_folds_count_all_that_they_test_and_validate():
    labels = [i % 2 for i in range(38)]
    assert sizes_in_words(folds(labels), 38, 7) == (
        "5 folds, each tested once; 26 train, 4 validation, 8 test (seed 7, fold 1)"
    )
    assert small_split_warnings(folds(labels), labels, ["cat", "dog"], 7) == []


def test_values_that_are_left_out_are_counted_and_lonely_classes_named():
    labels = [0] * 30 + [1] * 30 + [2] * 30
    base = ("flux", "sdxl") * 30 + ("sdxl",) * 30
    rule = SplitRule(strata=tuple(labels), left_out=base, column="base")
    assert sizes_in_words(rule, 90, 7) == (
        "each of 2 values of base is tested once; 52 train, 8 validation, 30 test where it is flux"
    )
    lines = small_split_warnings(rule, labels, ["cat", "dog", "cow"], 7)
    assert lines == [
        "1 of 3 classes have fewer than 5 training adapters in some fold: cow (0)",
        "only one value of base has cow: no fold that tests it has trained on it",
        "base has 2 values: with fewer than 8, no difference is tested",
    ]
