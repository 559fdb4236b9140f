"""Dealing adapters into equal parts: classes spread evenly, groups whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def deal(classes: Ints, groups: Ints | None, parts: int, rng: np.random.Generator) -> Ints:
    """Return (n,) part of every adapter, 0 … parts−1; parts differ little in size.

    Without groups, the numbers of a class in two parts differ by one at most, and so do the parts'
    sizes. With groups, each goes whole to the part that has least of its classes so far, the
    largest groups first; no part is empty where there are as many groups as parts.

    Arguments:
        classes: (n,) class indices.
        groups: (n,) index of every adapter's group; None: each adapter is its own.
    """
    if groups is not None:
        return _deal_groups(classes, groups, parts, rng)
    order = rng.permutation(len(classes))
    order = order[np.argsort(classes[order], kind="stable")]
    dealt = np.empty(len(classes), dtype=np.int64)
    dealt[order] = np.arange(len(classes)) % parts
    return dealt


def _deal_groups(classes: Ints, groups: Ints, parts: int, rng: np.random.Generator) -> Ints:
    _, index = np.unique(groups, return_inverse=True)
    counts = np.zeros((index.max() + 1, classes.max() + 1))
    np.add.at(counts, (index, classes), 1)
    sizes = counts.sum(axis=1)
    # Shares of classes count, so that rare ones are spread as evenly as common ones.
    weight = 1 / np.maximum(counts.sum(axis=0), 1) ** 2
    order = rng.permutation(len(counts))
    held = np.zeros((parts, counts.shape[1]))
    part_of = np.empty(len(counts), dtype=np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        crowded = held @ (weight * counts[group])
        part = int(np.lexsort((held.sum(axis=1), crowded))[0])
        held[part] += counts[group]
        part_of[group] = part
    return part_of[index]
