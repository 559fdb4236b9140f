import json

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorasweep.features.common.errors import UserError
from lorasweep.trainables.data.splits import SPLIT_RULE, SplitRule, rule_in_words


@pytest.mark.parametrize("n", [11, 12, 15, 54, 300, 1001])
def test_the_split_is_that_of_datasets(n):
    data = datasets.Dataset.from_dict({"i": list(range(n))})
    first = data.train_test_split(test_size=0.3, seed=42)
    second = first["test"].train_test_split(test_size=0.67, seed=42)
    split = SplitRule().split(n)
    np.testing.assert_array_equal(split.train, first["train"]["i"])
    np.testing.assert_array_equal(split.val, second["train"]["i"])
    np.testing.assert_array_equal(split.test, second["test"]["i"])


def test_every_sample_is_in_one_split():
    split = SplitRule().split(300)
    assert [len(part) for part in split.parts().values()] == [210, 29, 61]
    assert sorted(np.concatenate(list(split.parts().values()))) == list(range(300))


def test_up_to_ten_samples_are_all_three_splits():
    for part in SplitRule().split(10).parts().values():
        assert part.tolist() == list(range(10))


@given(st.lists(st.integers(2, 40), min_size=2, max_size=12))
@settings(max_examples=80, deadline=None)
def test_a_stratified_split_has_the_usual_sizes_and_balanced_classes(sizes):
    labels = np.random.default_rng(sum(sizes)).permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(labels)
    rule = SplitRule(strata=tuple(labels.tolist()))
    parts = rule.split(n).parts()
    usual = SplitRule().split(n).parts()
    assert {name: len(of) for name, of in parts.items()} == {k: len(v) for k, v in usual.items()}
    if n > 10:
        assert sorted(np.concatenate(list(parts.values()))) == list(range(n))
        for of in parts.values():
            counts = np.bincount(labels[of], minlength=len(sizes))
            assert np.abs(counts - np.array(sizes) * len(of) / n).max() < 3
    again = SplitRule.from_json(json.loads(json.dumps(rule.to_json())))
    assert again == rule
    assert all((again.split(n).parts()[name] == of).all() for name, of in parts.items())


def test_a_stratified_split_of_equal_classes_is_even():
    labels = np.arange(300) % 10
    rule = SplitRule(strata=tuple(labels.tolist()))
    parts = rule.split(300).parts()
    for name, least, most in (("train", 20, 22), ("val", 2, 4), ("test", 5, 7)):
        counts = np.bincount(labels[parts[name]])
        assert (counts.min() >= least, counts.max() <= most) == (True, True), (name, counts)
    assert rule.describe() == f"{SPLIT_RULE}, classes balanced"
    assert "strata" not in SplitRule().to_json()


@given(st.lists(st.integers(0, 30), min_size=60, max_size=200), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_a_group_is_on_one_side(groups, seed):
    groups = np.unique([*groups, *range(20)], return_inverse=True)[1]
    rule = SplitRule(per_seed=True, groups=tuple(map(int, groups)), column="series")
    parts = rule.split(len(groups), seed).parts()
    sides = [set(groups[part].tolist()) for part in parts.values()]
    assert all(sides)
    assert sides[0] | sides[1] | sides[2] == set(groups.tolist())
    assert sum(map(len, sides)) == groups.max() + 1
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(groups)))
    # Of groups, the shares are those of samples.
    expected = SplitRule(per_seed=True).split(int(groups.max()) + 1, seed).parts()
    assert [set(part.tolist()) for part in expected.values()] == sides


def test_every_seed_splits_anew_and_42_as_ever():
    rule = SplitRule(per_seed=True)
    of_42 = rule.split(300, 42)
    np.testing.assert_array_equal(of_42.test, SplitRule().split(300).test)
    np.testing.assert_array_equal(of_42.test, SplitRule().split(300, 7).test)
    assert set(rule.split(300, 43).test) != set(of_42.test)


def test_a_column_says_which():
    said = ["train", "test", "val", "train", "test"]
    split = SplitRule(given=tuple(said), column="part").split(5)
    assert [part.tolist() for part in split.parts().values()] == [[0, 3], [2], [1, 4]]
    two = SplitRule(given=("train", "test") * 40, column="part").split(80)
    assert len(two.val) == 5  # an eighth of 40
    assert sorted([*two.train, *two.val]) == list(range(0, 80, 2))
    assert two.test.tolist() == list(range(1, 80, 2))
    assert two.val.tolist() == SplitRule(given=("train", "test") * 40).split(80).val.tolist()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SplitRule(given=("train", "val"), column="part"), "no sample is for test"),
        (SplitRule(given=("test", "val"), column="part"), "no sample is for train"),
        (SplitRule(groups=(0, 1) * 20, column="series"), "has 2 groups: need more than 10"),
    ],
)
def test_a_part_without_samples_is_refused(rule, message):
    with pytest.raises(UserError, match=message):
        rule.split(40)


@pytest.mark.parametrize(
    "rule",
    [
        SplitRule(),
        SplitRule(per_seed=True, groups=(0, 1, 1), column="series"),
        SplitRule(given=("train", "test"), column="part"),
    ],
)
def test_a_rule_survives_json(rule):
    assert SplitRule.from_json(json.loads(json.dumps(rule.to_json()))) == rule


def test_what_is_frozen_tells_rules_apart():
    rules = [
        SplitRule(),
        SplitRule(per_seed=True),
        SplitRule(groups=(0, 1, 1), column="series"),
        SplitRule(groups=(0, 1, 0), column="series"),
        SplitRule(per_seed=True, groups=(0, 1, 1), column="series"),
        SplitRule(given=("train", "test"), column="part"),
        SplitRule(given=("test", "train"), column="part"),
    ]
    told = [json.dumps(rule.describe()) for rule in rules]
    assert len(set(told)) == len(rules)
    assert SplitRule().describe() == SPLIT_RULE  # what 0.1 froze
    assert all(isinstance(rule_in_words(rule.describe()), str) for rule in rules)
