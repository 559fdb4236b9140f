"""Folds: who is tested when, with classes spread evenly and groups whole."""

from collections import Counter

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from lorasweep.features.common.errors import UserError
from lorasweep.sweep.request.spec import number_of_folds
from lorasweep.trainables.data.folds import deal
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

CLASSES = np.random.default_rng(0).choice(4, size=103, p=[0.4, 0.3, 0.2, 0.1])
GROUPS = np.random.default_rng(1).integers(0, 25, size=103)


def kfold(k=5, groups=None):
    return SplitRule(
        per_seed=True,
        groups=None if groups is None else tuple(groups.tolist()),
        strata=tuple(CLASSES.tolist()),
        k=k,
    )


def splits(rule, seed=3):
    return [rule.split(len(CLASSES), seed, fold) for fold in rule.folds]


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize("k", [2, 5, 10])
def test_every_adapter_is_tested_once_and_on_one_side(k, groups):
    found = splits(kfold(k, groups))
    tested = np.concatenate([split.test for split in found])
    assert sorted(tested) == list(range(len(CLASSES)))
    for split in found:
        together = np.concatenate([split.train, split.val, split.test])
        assert sorted(together) == list(range(len(CLASSES)))
        assert min(len(split.train), len(split.val), len(split.test)) > 0
        if groups is not None:
            sides = [set(groups[part]) for part in split.parts().values()]
            assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]


def test_folds_are_as_even_as_scikit_learns():
    """Sizes and classes of every two folds differ by one at most."""
    found = [np.bincount(CLASSES[split.test], minlength=4) for split in splits(kfold())]
    theirs = [
        np.bincount(CLASSES[test], minlength=4)
        for _, test in StratifiedKFold(5).split(CLASSES, CLASSES)
    ]
    assert np.ptp(found, axis=0).max() <= np.ptp(theirs, axis=0).max() == 1
    assert np.ptp([of.sum() for of in found]) <= 1


def test_groups_are_spread_as_evenly_as_by_scikit_learn():
    def spread(tests):
        shares = [np.bincount(CLASSES[t], minlength=4) / np.bincount(CLASSES) for t in tests]
        return np.std(shares, axis=0).sum()

    theirs = [t for _, t in StratifiedGroupKFold(5).split(CLASSES, CLASSES, GROUPS)]
    ours = [
        spread([split.test for split in splits(kfold(groups=GROUPS), seed)]) for seed in range(20)
    ]
    assert np.mean(ours) < 1.25 * spread(theirs)


def test_an_eighth_of_the_rest_validates():
    for split in splits(kfold()):
        rest = len(split.train) + len(split.val)
        assert len(split.val) == -(-rest // 8)
        of_class = np.bincount(CLASSES[split.val], minlength=4)
        assert (abs(of_class - np.bincount(CLASSES[split.train], minlength=4) / 7) < 1.3).all()


def test_a_seed_draws_the_folds():
    rule = kfold()
    assert all(
        np.array_equal(a.train, b.train) and np.array_equal(a.test, b.test)
        for a, b in zip(splits(rule, 3), splits(rule, 3))
    )
    assert not np.array_equal(splits(rule, 3)[0].test, splits(rule, 4)[0].test)
    counts = Counter(
        int(i) for seed in range(200) for i in rule.split(len(CLASSES), seed, "1").test
    )
    assert len(counts) == len(CLASSES)
    assert max(counts.values()) < 75  # 41 are expected


def test_each_value_is_left_out_once_with_every_seed_alike():
    values = tuple("abc"[i % 3] for i in range(len(CLASSES)))
    rule = SplitRule(strata=tuple(CLASSES.tolist()), left_out=values, column="base")
    assert rule.folds == ("a", "b", "c")
    assert rule.test_groups == tuple(i % 3 for i in range(len(CLASSES)))
    for fold in rule.folds:
        split = rule.split(len(CLASSES), 1, fold)
        assert {values[i] for i in split.test} == {fold}
        assert fold not in {values[i] for i in (*split.train, *split.val)}
        assert np.array_equal(split.train, rule.split(len(CLASSES), 2, fold).train)


def test_rules_come_back_from_json_and_say_what_is_frozen():
    values = tuple("ab"[i % 2] for i in range(len(CLASSES)))
    left_out = SplitRule(strata=tuple(CLASSES.tolist()), left_out=values, column="base")
    for rule in (kfold(), kfold(groups=GROUPS), left_out):
        assert SplitRule.from_json(rule.to_json()) == rule
    assert "k" not in SplitRule().to_json()
    assert kfold(5).describe() != kfold(6).describe()
    assert kfold(5).describe() != kfold(5, GROUPS).describe()
    other = SplitRule(strata=left_out.strata, left_out=("a", *values[:-1]), column="base")
    assert left_out.describe() != other.describe()


def test_a_rest_of_one_group_cannot_train_and_validate():
    groups = np.array([0, 0, 1, 1])
    rule = SplitRule(per_seed=True, groups=tuple(groups.tolist()), strata=(0, 1, 0, 1), k=2)
    with pytest.raises(UserError, match="too few adapters are left"):
        rule.split(4, 0, "1")


def test_every_part_gets_a_group_where_there_are_enough():
    for seed in range(20):
        dealt = deal(np.zeros(9, dtype=int), np.arange(9), 9, np.random.default_rng(seed))
        assert sorted(dealt) == list(range(9))


@pytest.mark.parametrize("option", ["kfold", "kfold:", "kfold:1", "kfold:0", "kfold:x", "kfold:-2"])
def test_what_is_no_number_of_folds_is_refused(option):
    with pytest.raises(UserError, match="2 or more"):
        number_of_folds(option)


def test_other_options_have_no_folds():
    assert number_of_folds("per-seed") is None
    assert number_of_folds("kfold:12") == 12


def test_a_fold_has_a_level_of_its_own_in_paths(tmp_path):
    key = TrialKey("all_layers", "stats", 42, "linear", "flux/dev")
    path = RunDir(tmp_path).record(key).relative_to(tmp_path)
    assert str(path) == "checkpoints/all_layers/stats@linear/fold-flux%2Fdev/seed-42.json"
    assert TrialKey.from_json(key.to_json()) == key
    plain = TrialKey("all_layers", "stats", 42)
    assert "fold" not in plain.to_json()
    assert plain.path == "all_layers/stats/seed-42"
    names = {TrialKey("c", "r", 1, fold=fold).path for fold in ("a/b", "a+b", "a%2Fb", "..", "a b")}
    assert len(names) == 5
