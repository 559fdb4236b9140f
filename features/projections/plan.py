"""What is fitted on what, worked out without Ray or torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lorasweep.features.common.files import digest
from lorasweep.features.compute.cache import CacheEntry
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.representations import Representation

MOST = 4096
BUDGET = 1e15
"""Floating-point operations of a pass at most: an hour and a half of two cores. They grow with the
square of the rank; where they would be more, there are fewer landmarks."""
_LANDMARK_SEED = 0
_FEWEST = 64

_RANK_POWER = {"update": 2, "flat": 1}
"""In the rank, of what a kernel costs."""


@dataclass(frozen=True)
class Landmarks:
    """Adapters that others are compared with.

    Attributes:
        samples: their indices among the samples, ascending.
        cost: floating-point operations of a pass over all samples.
    """

    samples: tuple[int, ...]
    cost: float

    @property
    def digest(self) -> str:
        """Tells one choice from another."""
        return digest(list(self.samples))


def choose_landmarks(scan: DatasetScan, train: Sequence[int], kernel: str) -> Landmarks:
    """The training split, or a random part of it where it is large or the pass would cost more than
    `BUDGET`; `MOST` at most.

    Arguments:
        train: sample indices of the training split.
        kernel: the inner product's name.
    """
    per_pair = sum(
        2.0 * rank ** _RANK_POWER[kernel] * (outputs + inputs)
        for outputs, inputs, rank in (layer.shape for layer in scan.layers)
    )
    affordable = int(BUDGET / max(per_pair * scan.num_samples, 1.0))
    count = min(len(train), MOST, max(affordable, _FEWEST))
    chosen = np.array(train)
    if count < len(chosen):
        chosen = np.random.default_rng(_LANDMARK_SEED).permutation(chosen)[:count]
    samples = tuple(int(i) for i in np.sort(chosen))
    return Landmarks(samples, per_pair * scan.num_samples * count)


@dataclass(frozen=True)
class ProjectionPlan:
    """A fitted representation of some layers, with its landmarks.

    Attributes:
        item: the representation as it is declared.
        landmarks: what it is fitted on.
        layers: names of the layers of a config, in sorted order.
        everybody: all samples, where the pass computes everybody's inner products with everybody,
            of which those with the landmarks are taken: one pass serves all folds. None: it
            computes those with the landmarks alone.
    """

    item: Representation
    landmarks: Landmarks
    layers: tuple[str, ...]
    everybody: Landmarks | None = None

    @property
    def compared_with(self) -> Landmarks:
        """Adapters whose inner products with everybody the pass computes."""
        return self.everybody or self.landmarks

    @property
    def _choice(self) -> str:
        # Products with other neighbours in a matrix may round otherwise.
        others = [self.everybody.digest] if self.everybody else []
        return digest([self.landmarks.digest, list(self.layers), *others])[:16]

    @property
    def stored(self) -> Representation:
        """What is cached: one column, of whole adapters."""
        return replace(self.item, version=f"{self.item.version}-{self._choice}")

    @property
    def products(self) -> Representation:
        """What is kept meanwhile, of all sizes at once: inner products with the landmarks."""
        name = self.item.name.partition(":")[0] + "_products"
        names = [f"landmark_{i}" for i in self.landmarks.samples]
        return replace(
            self.item,
            name=name,
            size=None,
            version=f"{self.item.version}-{self._choice}",
            names=partial(_constant, names),
        )


def _constant(names: list[str], shape: Any) -> list[str]:
    return names


def plan_projection(
    item: Representation,
    scan: DatasetScan,
    train: Sequence[int],
    layers: Sequence[str],
    *,
    folds: bool = False,
) -> ProjectionPlan:
    """A fitted representation of a config's layers and a split.

    Arguments:
        train: sample indices of the training split: no other adapter enters the fit.
        folds: whether the split is one of many folds: up to `MOST` samples, one pass serves all.
    """
    landmarks = choose_landmarks(scan, train, item.kernel)
    everybody = choose_landmarks(scan, range(scan.num_samples), item.kernel) if folds else None
    if everybody and len(everybody.samples) < scan.num_samples:
        everybody = None  # too many, or too dear
    return ProjectionPlan(item, landmarks, tuple(sorted(layers)), everybody)


def missing(
    scan: DatasetScan, wanted: Sequence[ProjectionPlan], root: Path
) -> list[ProjectionPlan]:
    """Those that are not whole in the cache."""
    return [
        one
        for one in wanted
        if CacheEntry(root, scan.weights, one.stored).damage(scan.num_samples) is not None
    ]
