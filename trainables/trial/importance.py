"""Which layers and which kinds of values a fitted classifier relies on.

Permutation importance (Breiman 2001, "Random Forests"; as model reliance in Fisher, Rudin and
Dominici 2019, "All Models are Wrong, but Many are Useful"): what a split's scores lose when the
values of some columns are dealt out to the split's samples at random, all else being left as it is.
Columns are permuted by groups, all of a layer or all of a kind together: one column alone is seldom
missed where others tell the same, and there may be many thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lorasweep.trainables.classifiers.base import Fit, LayerSum, LinearPart
from lorasweep.trainables.data.column_names import ColumnNames, Group

if TYPE_CHECKING:
    from lorasweep.trainables.data.trial_data import SplitTensors

Floats = NDArray[np.float64]

Shortcut = LinearPart | LayerSum | None
"""What a fit tells of how it sees its input."""

REPEATS = 5
"""Permutations; every group is permuted by the same ones."""

MOST_SAMPLES = 256
"""Samples of the split at most; of a larger one some are drawn."""

MOST_GROUPS = 1024
"""With more layers and kinds together nothing is permuted."""

MOST_VALUES = 2 * 10**9
"""Values that a classifier without a linear part is given at most: groups × repeats × samples ×
columns. Work is bounded, not time: a clock would decide which records have the numbers."""

TOP_COLUMNS = 20
"""Single columns that are listed by name."""

_COLUMNS_AT_A_TIME = 1024
_PRODUCTS_AT_A_TIME = 1 << 22
_SIGNIFICANT = 6


def importance_part(
    fit: Fit, val: SplitTensors, names: ColumnNames | None, transform: str, seed: int
) -> dict[str, Any]:
    """The record's `importance`: see docs/results-format.md.

    Arguments:
        fit: finished.
        val: the split that is permuted, with a column for every name.
        names: None if its columns are of no layer.
        transform: what came after standardising; "" for nothing.
        seed: decides the permutations. No other random state is touched.

    Raises:
        ValueError: the classifier's weights are not of these columns.
    """
    if transform:
        return {"unavailable": f"columns of {transform} are mixed from those of all layers"}
    if names is None:
        return {"unavailable": "its values are of whole adapters, not of layers"}
    layers, kinds = names.by_layer, names.by_kind
    weights = _column_norms(fit, names.count)
    part: dict[str, Any] = {}
    if weights is not None:
        part["columns"] = _top(weights, names)
    if len(layers) + len(kinds) > MOST_GROUPS:
        return {**part, "unavailable": f"more than {MOST_GROUPS:,} layers and kinds of values"}
    for name, groups in (("layers", layers), ("kinds", kinds)):
        part[name] = {"names": list(groups)}
        if weights is not None:
            part[name]["weights"] = [_compact(weights[of].sum()) for of in groups.values()]
    shortcut = fit.linear_part() or fit.layer_sum()
    reason = _refusal(val, len(layers), len(kinds), shortcut)
    if reason:
        return {**part, "unavailable": reason}
    both = [*layers.values(), *kinds.values()]
    samples, lost = permutation_importance(fit, val, both, seed, shortcut)
    for name, rows in (("layers", lost[: len(layers)]), ("kinds", lost[len(layers) :])):
        part[name]["accuracy"], part[name]["log_loss"] = (
            [_compact(value) for value in column] for column in rows.T
        )
    return {"samples": samples, "repeats": REPEATS, **part}


def permutation_importance(
    fit: Fit, split: SplitTensors, groups: list[Group], seed: int, shortcut: Shortcut
) -> tuple[int, Floats]:
    """What scores lose when a group's columns are permuted together, the mean over `REPEATS`.

    Arguments:
        groups: indices of columns.
        shortcut: the fit's linear part, or its sum over layers, if it is to be used.

    Returns:
        how many samples were used, and (n_groups, 2): the drop in accuracy and the rise in log loss
        (nats). Exactly 0 of a group that no prediction depends on.
    """
    generator = np.random.default_rng(seed)
    x, truth = split.x, split.y.cpu().numpy()
    if len(truth) > MOST_SAMPLES:
        chosen = np.sort(generator.choice(len(truth), MOST_SAMPLES, replace=False))
        x, truth = x[torch.from_numpy(chosen).to(x.device)], truth[chosen]
    orders = np.stack([generator.permutation(len(truth)) for _ in range(REPEATS)])
    if isinstance(shortcut, LinearPart):
        predict = _adding(shortcut, x)
    elif shortcut:
        predict = _replacing(_summing(shortcut, x), x)
    else:
        predict = _replacing(lambda replaced, columns: fit.predict(replaced), x)
    on_device = torch.from_numpy(orders).to(x.device)

    def scores(columns: Group) -> Floats:
        index = torch.from_numpy(columns).to(x.device)
        log_p = np.concatenate(list(predict(on_device, index)))
        again = np.tile(truth, REPEATS)
        hits = log_p.argmax(1) == again
        return np.array([hits.mean(), log_p[np.arange(len(again)), again].mean()])

    # Nothing permuted goes the same way, so that what does not matter is 0 in the last bit, too.
    whole = scores(np.empty(0, dtype=np.int64))
    return len(truth), np.array([whole - scores(columns) for columns in groups])


Predict = Callable[[Tensor, Tensor], Iterator[NDArray[np.float64]]]
"""(repeats, n) orders of samples and (columns,) indices -> log-probabilities, order by order."""


Evaluate = Callable[[Tensor, Tensor], NDArray[np.float64]]
"""Samples with some columns replaced, and indices of these -> log-probabilities."""


def _replacing(evaluate: Evaluate, x: Tensor) -> Predict:
    """Predictions of the samples with some columns replaced."""
    work = x.clone()

    def predict(orders: Tensor, columns: Tensor) -> Iterator[NDArray[np.float64]]:
        part = x.index_select(1, columns)
        for order in orders:
            work.index_copy_(1, columns, part.index_select(0, order))
            yield evaluate(work, columns)
        work.index_copy_(1, columns, part)

    return predict


def _summing(of: LayerSum, x: Tensor) -> Evaluate:
    """By way of the sum over layers: only those with a replaced column are computed."""
    before = [of.part(x, layer) for layer in of.layers]
    total = torch.stack(before).sum(0)
    ends = np.array([layer.first + layer.width for layer in of.layers])

    def evaluate(replaced: Tensor, columns: Tensor) -> NDArray[np.float64]:
        changed = total.clone()
        for place in np.unique(np.searchsorted(ends, columns.cpu().numpy(), side="right")):
            changed += of.part(replaced, of.layers[place]) - before[place]
        return of.rest(changed)

    return evaluate


def _adding(linear: LinearPart, x: Tensor) -> Predict:
    """The same by way of the linear part: only what changes of the products is computed."""
    weights = linear.weights
    x = x.to(weights.dtype)
    products = x @ weights.T
    at_a_time = max(1, _PRODUCTS_AT_A_TIME // products.numel())

    def predict(orders: Tensor, columns: Tensor) -> Iterator[NDArray[np.float64]]:
        for some in orders.split(at_a_time):
            changed = products.repeat(len(some), 1)
            for index in columns.split(_COLUMNS_AT_A_TIME):
                part = x.index_select(1, index)
                change = part.index_select(0, some.reshape(-1)) - part.repeat(len(some), 1)
                changed.addmm_(change, weights.index_select(1, index).T)
            yield linear.rest(changed)

    return predict


def _refusal(val: SplitTensors, layers: int, kinds: int, shortcut: Shortcut) -> str | None:
    """Why nothing is permuted, if so."""
    samples = min(len(val.y), MOST_SAMPLES)
    if samples < 2:
        return "one validation sample cannot be permuted"
    # By a sum over layers, permuting each of them costs no more than all at once.
    groups = kinds + (1 if isinstance(shortcut, LayerSum) else layers)
    values = groups * REPEATS * samples * val.x.shape[1]
    if not isinstance(shortcut, LinearPart) and values > MOST_VALUES:
        return f"{values:,} values to predict from, more than {MOST_VALUES:,}"
    return None


def _column_norms(fit: Fit, width: int) -> Floats | None:
    """(n_features,) Euclidean norm of every column's weights."""
    weights = fit.column_weights()
    if weights is None:
        return None
    if weights.ndim != 2 or weights.shape[1] != width:
        raise ValueError(f"column_weights() must be (k, {width}), not {weights.shape}")
    return np.sqrt(np.einsum("kj,kj->j", weights, weights, dtype=np.float64))


def _top(weights: Floats, names: ColumnNames) -> list[list[Any]]:
    """[layer tensor or layer, value, weight] of the largest weights; those that are 0 left out."""
    order = np.argsort(-weights, kind="stable")[:TOP_COLUMNS]
    return [[*names.name(int(i)), _compact(weights[i])] for i in order if weights[i] > 0]


def _compact(value: float) -> float | None:
    """As many digits as mean something; None where float32 was too small for the features."""
    return float(f"{value:.{_SIGNIFICANT}g}") if np.isfinite(value) else None
