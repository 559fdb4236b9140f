"""A training step against its bare matrix products, BatchNorm and fused Adam update."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from lorasweep.trainables.classifiers.mlp import MlpSettings
from lorasweep.trainables.classifiers.mlp_training import Training, build_classifier
from lorasweep.trainables.data.trial_data import SplitTensors, TrialData

CLASSES = 10


def measure_step(n_features: int, rows: int) -> float:
    """Seconds per training step of an epoch over `rows` random samples, validation included."""
    train, tiny = _random_split(rows, n_features), _random_split(64, n_features)
    config = MlpSettings()
    training = Training(TrialData(train, tiny, tiny, CLASSES), config, seed=0)
    steps = -(-rows // config.batch_size)
    return _seconds(training.step) / steps


def measure_bare_step(n_features: int, steps: int) -> float:
    """Seconds per step of only the products, normalisations and updates of the same shapes."""
    config = MlpSettings()
    batch, model = config.batch_size, build_classifier(n_features, CLASSES, config)
    linears = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    weights = [layer.weight.detach() for layer in linears]
    parameters = [p.detach() for p in model.parameters()]
    gradients = [torch.randn_like(p) for p in parameters]
    averages = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    counts = [torch.tensor(1.0) for _ in parameters]
    inputs = [torch.randn(batch, w.shape[1]) for w in weights]
    outputs = [torch.randn(batch, w.shape[0]) for w in weights]
    scale, shift = torch.ones(config.hidden_dim), torch.zeros(config.hidden_dim)
    running = torch.zeros(config.hidden_dim), torch.ones(config.hidden_dim)

    def step() -> None:
        saved = []
        for i, weight in enumerate(weights):
            out = inputs[i] @ weight.T
            if i < len(weights) - 1:
                _, mean, inverse = torch.native_batch_norm(
                    out, scale, shift, *running, training=True, momentum=0.1, eps=1e-5
                )
                saved.append((out, mean, inverse))
        for i, weight in reversed(list(enumerate(weights))):
            if i < len(weights) - 1:
                out, mean, inverse = saved[i]
                torch.ops.aten.native_batch_norm_backward(
                    outputs[i], out, scale, *running, mean, inverse, True, 1e-5, [True] * 3
                )
            outputs[i].T @ inputs[i]
            if i:
                outputs[i] @ weight
        torch._fused_adam_(
            parameters,
            gradients,
            [first for first, _ in averages],
            [second for _, second in averages],
            [],
            counts,
            lr=1e-3,
            beta1=0.9,
            beta2=0.999,
            weight_decay=1e-4,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def run() -> None:
        for _ in range(steps):
            step()

    return _seconds(run) / steps


def _random_split(rows: int, n_features: int) -> SplitTensors:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, n_features, generator=generator)
    return SplitTensors(x, torch.randint(CLASSES, (rows,), generator=generator))


def _seconds(run: Callable[[], None]) -> float:
    """The median of three runs, after one to warm up."""
    run()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return float(np.median(times))
