"""A whole fit of the linear classifier in a process of its own."""

from __future__ import annotations

import multiprocessing
import resource
import time

import torch
from torch import Tensor

from lorasweep.trainables.classifiers.base import DataSize
from lorasweep.trainables.classifiers.linear import Linear, LinearSettings
from lorasweep.trainables.data.trial_data import SplitTensors, TrialData

WIDTH = 8576
CLASSES = 10
_FACTORS = 20
_ROWS = 1000


def measure_linear(rows: int) -> tuple[float, float, str]:
    """Seconds of a fit to `rows` training samples, the process's peak GiB, and what came out."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (rows,))


def _measure(rows: int) -> tuple[float, float, str]:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(_FACTORS, WIDTH, generator=generator)
    weights = torch.randn(WIDTH, CLASSES, generator=generator) / WIDTH**0.5
    splits = [
        _random_split(n, mixing, weights, generator) for n in (rows, rows // 7, 2 * rows // 7)
    ]
    classifier, data = Linear(), TrialData(*splits, CLASSES)
    began = time.perf_counter()
    fit = classifier.start(data, LinearSettings(), seed=0)
    while not fit.finished:
        fit.advance(2.0)
    for split in splits:
        fit.predict(split.x)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = DataSize(rows * 10 // 7, WIDTH, CLASSES)
    promised = classifier.host_bytes(size, LinearSettings()) / 2**30
    outcome = fit.outcome()
    note = f"converged: {outcome['converged']}; promised {promised:.1f} GiB at most"
    return seconds, peak, note


def _random_split(
    rows: int, mixing: Tensor, weights: Tensor, generator: torch.Generator
) -> SplitTensors:
    """Strongly correlated features, as those of one adapter are, and noisy labels."""
    x = torch.empty(rows, WIDTH)
    for block in x.split(_ROWS):
        block.normal_(generator=generator).mul_(0.1)
        block.addmm_(torch.randn(len(block), _FACTORS, generator=generator), mixing)
        block /= (0.01 + mixing.square().sum(0)).sqrt()
    noise = torch.randn(rows, CLASSES, generator=generator)
    return SplitTensors(x, (2 * (x @ weights) + noise).argmax(1))
