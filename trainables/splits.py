"""The train/val/test split, sample for sample that of the script this project replaces."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SPLIT_SEED = 42
HELD_OUT = 0.3
TEST_SHARE = 0.67
SMALLEST_SPLIT = 10
"""Up to this many samples, all three splits are the whole set."""

SPLIT_RULE = f"{1 - HELD_OUT:.0%} train, of the rest {TEST_SHARE:.0%} test, seed {SPLIT_SEED}"


@dataclass(frozen=True)
class Split:
    """Sample indices of each split, in split order; int64."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def parts(self) -> dict[str, np.ndarray]:
        """By name, in the order train, val, test."""
        return {"train": self.train, "val": self.val, "test": self.test}


def split_samples(num_samples: int) -> Split:
    """70 % train, 10 % val, 20 % test.

    Equal to `datasets.Dataset.train_test_split(test_size=0.3, seed=42)` followed by
    `train_test_split(test_size=0.67, seed=42)` of its test part. With at most 10 samples all three
    are the whole set, and the scores mean nothing.
    """
    whole = np.arange(num_samples)
    if num_samples <= SMALLEST_SPLIT:
        return Split(whole, whole, whole)
    train, held_out = _train_test(whole, HELD_OUT)
    val, test = _train_test(held_out, TEST_SHARE)
    return Split(train, val, test)


def _train_test(samples: np.ndarray, test_size: float) -> tuple[np.ndarray, np.ndarray]:
    """One shuffled cut: the first ⌈test_size·n⌉ of a permutation are the test part."""
    n_test = math.ceil(test_size * len(samples))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(samples))
    return samples[order[n_test:]], samples[order[:n_test]]
