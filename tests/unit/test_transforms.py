"""Transforms against scikit-learn and NumPy, and what they may look at."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from lorasweep.features.common.errors import UserError
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.data.transforms import (
    principal_components,
    split_transform,
    transformed_width,
)
from lorasweep.trainables.data.trial_data import prepare_data


def standardised(n, width, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 6)) @ rng.standard_normal((6, width))
    x += 0.3 * rng.standard_normal((n, width))
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32)


@pytest.mark.parametrize(("n", "width"), [(80, 20), (20, 300)])
def test_components_are_those_of_scikit_learn(n, width):
    x = standardised(n, width)
    mine = x @ principal_components(x, 5)
    theirs = PCA(5, svd_solver="full").fit_transform(x.astype(np.float64))
    theirs /= np.sqrt((theirs**2).mean())
    np.testing.assert_allclose(np.abs(mine), np.abs(theirs), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose((mine**2).mean(), 1, rtol=1e-4)


def test_directions_without_variance_are_zero_and_signs_are_fixed():
    x = standardised(30, 3)
    x = np.concatenate([x, x], axis=1)  # rank 3
    components = principal_components(x, 5)
    assert (components[:, 3:] == 0).all()
    assert np.abs(components[:, :3]).sum() > 0
    largest = components[np.abs(components).argmax(0), range(5)]
    assert (largest >= 0).all()
    np.testing.assert_array_equal(components, principal_components(x.copy(), 5))
    assert (principal_components(np.zeros((9, 4), np.float32), 2) == 0).all()


def test_only_the_training_split_is_looked_at():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((60, 12)).astype(np.float32)
    labels, split = np.arange(60) % 3, SplitRule().split(60)
    other = features.copy()
    other[split.test] = rng.standard_normal((len(split.test), 12)) * 100
    first, second = (
        prepare_data(f.copy(), labels, split, 3, torch.device("cpu"), "pca:4")
        for f in (features, other)
    )
    assert first.n_features == 4
    assert torch.equal(first.train.x, second.train.x)
    assert torch.equal(first.val.x, second.val.x)
    assert not torch.equal(first.test.x, second.test.x)


def test_names():
    assert split_transform("stats") == ("stats", "")
    assert split_transform("channel_norms:64/pca:8") == ("channel_norms:64", "pca:8")
    assert split_transform("a/b.py:x") == ("a/b.py:x", "")
    with pytest.raises(UserError, match="number of components"):
        split_transform("stats/pca:many")
    assert [transformed_width(t, 100, 30) for t in ("", "pca:8", "pca:64")] == [100, 8, 29]
