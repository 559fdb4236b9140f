"""How much of a GPU's memory one trial takes."""

from __future__ import annotations

from .hyperparameters import Hyperparameters

EVALUATION_ROWS = 8192
"""Samples evaluated at a time."""

_FLOAT = 4
_CONTEXT_BYTES = 1 << 30
"""Set aside for what every process keeps there besides its tensors: the CUDA context, the kernels'
code, cuBLAS's workspace, the allocator's fragments."""


def device_bytes(n_samples: int, n_features: int, n_classes: int, hyper: Hyperparameters) -> int:
    """Bytes of device memory that a trial needs at most.

    Its matrix and labels; the weights, their gradients, Adam's two moments and the best weights so
    far; the activations of the largest batch, those of evaluation, kept and temporary; and what
    every process keeps.
    """
    matrix = n_samples * (n_features * _FLOAT + 8)
    hidden = hyper.hidden_dim
    parameters = (n_features + 1) * hidden + 2 * (hidden + 1) * hidden + 6 * hidden
    parameters += (hidden + 1) * n_classes
    rows = max(min(EVALUATION_ROWS, n_samples), hyper.batch_size)
    # Linear, BatchNorm, ReLU and Dropout each keep one result for the backward pass.
    activations = rows * (n_features + 3 * 4 * hidden + 3 * n_classes) * _FLOAT
    return matrix + 5 * parameters * _FLOAT + activations + _CONTEXT_BYTES
