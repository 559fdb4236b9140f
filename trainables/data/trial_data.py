"""A cell's samples, split, standardised and on the device; shared by all its seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lorasweep.features.layers.factor_layout import Layout

from .splits import Split
from .transforms import principal_components, transformed_width

_COLUMNS_AT_A_TIME = 256


@dataclass(frozen=True)
class SplitTensors:
    """One split on the device.

    Attributes:
        x: (n, n_features) float32.
        y: (n,) int64 class indices.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class FittedTransform:
    """What makes features a classifier's input, fitted on a training split.

    Attributes:
        mean, scale: (n_features,) float64: standardising.
        components: (n_features, width) float32 that the standardised features are multiplied by;
            None: they are the input.
    """

    mean: np.ndarray
    scale: np.ndarray
    components: np.ndarray | None

    @property
    def width(self) -> int:
        """Of the input."""
        return len(self.mean) if self.components is None else self.components.shape[1]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, n_features) float32 -> (n, width) float32."""
        return self.project(self.standardise(features))

    def standardise(self, features: np.ndarray) -> np.ndarray:
        """The first half: (n, n_features) float32."""
        values = _standardised(features.astype(np.float64), self.mean, self.scale)
        return values.astype(np.float32)

    def project(self, standardised: np.ndarray) -> np.ndarray:
        """The second half: (n, width) float32."""
        return standardised if self.components is None else standardised @ self.components


def _standardised(values: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """(n, columns) float64, within what float32 holds."""
    limit = np.finfo(np.float32).max
    return ((values - mean) / scale).clip(-limit, limit)


@dataclass(frozen=True)
class TrialData:
    """What a classifier is trained and evaluated on.

    Attributes:
        layout: where the columns hold the layers' matrices, for a classifier that reads those.
        transform: what made it of features; None where it was not made by `prepare_data`.
    """

    train: SplitTensors
    val: SplitTensors
    test: SplitTensors
    n_classes: int
    layout: Layout = ()
    transform: FittedTransform | None = None

    @property
    def n_features(self) -> int:
        """Features of a sample."""
        return self.train.x.shape[1]


def prepare_data(
    features: np.ndarray,
    labels: np.ndarray,
    split: Split,
    n_classes: int,
    device: torch.device,
    transform: str = "",
    layout: Layout = (),
) -> TrialData:
    """Split and standardise with the training split's mean and population std (zero std → 1).

    With a layout nothing is standardised: matrices of which every entry is shifted and scaled are
    factors of another update.

    Arguments:
        features: (n_samples, n_features) float32; used up: a matrix may be gigabytes.
        labels: (n_samples,) class indices.
        transform: what comes after standardising; see `transforms`.
        layout: where the columns hold the layers' matrices, for a classifier that reads those.
    """
    mean, scale, components = np.zeros(features.shape[1]), np.ones(features.shape[1]), None
    parts = _take_apart(features, split, None if layout else (mean, scale))
    if transform:
        count = transformed_width(transform, len(mean), len(split.train))
        components = principal_components(parts["train"], count)
        parts = {name: part @ components for name, part in parts.items()}
    tensors = {
        name: SplitTensors(
            torch.from_numpy(parts[name]).to(device),
            torch.from_numpy(labels[index].astype(np.int64)).to(device),
        )
        for name, index in split.parts().items()
    }
    fitted = FittedTransform(mean, scale, components)
    return TrialData(tensors["train"], tensors["val"], tensors["test"], n_classes, layout, fitted)


def _take_apart(
    features: np.ndarray, split: Split, fitted: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """The parts of a split. The first, the training split, is what the matrix itself becomes.

    Arguments:
        fitted: filled in with the training split's mean and deviation, by which everything is
            standardised; None: nothing is.
    """
    n_features = features.shape[1]
    (first, train), *others = split.parts().items()
    parts = {name: np.empty((len(index), n_features), np.float32) for name, index in others}
    # In float64, since squares of features near float32's limits do not fit; a few columns at a
    # time.
    for left in range(0, n_features, _COLUMNS_AT_A_TIME):
        columns = slice(left, left + _COLUMNS_AT_A_TIME)
        block = features[:, columns]
        if fitted:
            mean, scale = fitted
            block = block.astype(np.float64)
            own = block[train]
            std = own.std(axis=0)
            mean[columns], scale[columns] = own.mean(axis=0), np.where(std == 0, 1.0, std)
            block = _standardised(block, mean[columns], scale[columns])
        for name, index in others:
            parts[name][:, columns] = block[index]
        features[: len(train), columns] = block[train]
    features.resize((len(train), n_features), refcheck=False)
    return {first: features, **parts}
