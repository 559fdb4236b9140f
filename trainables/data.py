"""A pair's samples, split, standardised and on the device; shared by all its seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from features.layout import Layout

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
class TrialData:
    """What a classifier is trained and evaluated on.

    Attributes:
        layout: where the columns hold the layers' matrices, for a classifier that reads those.
    """

    train: SplitTensors
    val: SplitTensors
    test: SplitTensors
    n_classes: int
    layout: Layout = ()

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
        features: (n_samples, n_features) float32.
        labels: (n_samples,) class indices.
        transform: what comes after standardising; see `transforms`.
        layout: where the columns hold the layers' matrices, for a classifier that reads those.
    """
    if layout:
        parts = {name: features[index] for name, index in split.parts().items()}
    else:
        parts = _standardised(features, split)
    if transform:
        count = transformed_width(transform, features.shape[1], len(split.train))
        components = principal_components(parts["train"], count)
        parts = {name: part @ components for name, part in parts.items()}
    tensors = {
        name: SplitTensors(
            torch.from_numpy(parts[name]).to(device),
            torch.from_numpy(labels[index].astype(np.int64)).to(device),
        )
        for name, index in split.parts().items()
    }
    return TrialData(tensors["train"], tensors["val"], tensors["test"], n_classes, layout)


def _standardised(features: np.ndarray, split: Split) -> dict[str, np.ndarray]:
    parts = {
        name: np.empty((len(index), features.shape[1]), dtype=np.float32)
        for name, index in split.parts().items()
    }
    limit = np.finfo(np.float32).max
    # In float64, since squares of features near float32's limits do not fit; a few columns at a
    # time, since the matrix may be gigabytes.
    for left in range(0, features.shape[1], _COLUMNS_AT_A_TIME):
        columns = slice(left, left + _COLUMNS_AT_A_TIME)
        block = features[:, columns].astype(np.float64)
        train = block[split.train]
        std = train.std(axis=0)
        block = (block - train.mean(axis=0)) / np.where(std == 0, 1.0, std)
        block = block.clip(-limit, limit)
        for name, index in split.parts().items():
            parts[name][:, columns] = block[index]
    return parts
