"""A seed's record, made of those of its folds: every adapter is tested once.

Test metrics are computed from the folds' predictions put together, since those of a fold of seven
adapters are noise. Validation and training metrics are means over folds: the folds' validation
adapters overlap.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from .scores import score_split


def outputs_json(
    samples: np.ndarray, log_probabilities: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    """Return what pooling needs of a fold's test split, as a JSON object.

    Arguments:
        samples: (n,) indices of the fold's test samples.
        log_probabilities: (n, n_classes) float64.
        truth: (n,) class indices.
    """
    values = np.ascontiguousarray(log_probabilities, dtype="<f8")
    return {
        "samples": samples.tolist(),
        "truth": truth.tolist(),
        "log_probabilities": base64.b64encode(values.tobytes()).decode(),
    }


def pooled(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a seed's record from those of its folds, test samples in ascending order.

    It has no `curves`, `importance` and `environment`: those are about single fits.
    """
    scores = score_split(*_together([record["outputs"] for record in records]))
    metrics: dict[str, Any] = {
        name: _mean([record["metrics"].get(name) for record in records])
        for name in records[0]["metrics"]
        if not name.startswith("test_")
    }
    metrics |= {f"test_{name}": value for name, value in scores.metrics.items()}
    metrics["train_test_gap"] = metrics["train_acc"] - metrics["test_acc"]
    confusion = sum(np.array(record["confusion"]["val"]) for record in records)
    timing = {
        name: sum(record["timing"][name] for record in records) for name in records[0]["timing"]
    }
    return {
        "metrics": metrics,
        "confusion": {"val": np.asarray(confusion).tolist(), "test": scores.confusion},
        "predictions": {"test": scores.predictions},
        "per_class": {"test": scores.per_class},
        "calibration": {"test": scores.calibration},
        "precision_recall": {"test": scores.precision_recall},
        "feature_dim": records[0]["feature_dim"],
        "num_layers": records[0]["num_layers"],
        "timing": timing,
    }


def by_seed(records: Sequence[dict[str, Any]], n_folds: int) -> list[dict[str, Any]]:
    """Return a record for each seed.

    Arguments:
        records: of a cell's trials: by seed, and of a seed by fold.
        n_folds: how many folds a seed has; 0: none.
    """
    if not n_folds:
        return list(records)
    starts = range(0, len(records), n_folds)
    return [pooled(records[start : start + n_folds]) for start in starts]


def _together(outputs: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """(n, n_classes) log-probabilities and (n,) truth of all folds, samples ascending."""
    samples = np.concatenate([np.array(of["samples"], dtype=np.int64) for of in outputs])
    truth = np.concatenate([np.array(of["truth"], dtype=np.int64) for of in outputs])
    log_p = np.concatenate(
        [
            np.frombuffer(base64.b64decode(of["log_probabilities"]), dtype="<f8").reshape(
                len(of["samples"]), -1
            )
            for of in outputs
        ]
    )
    order = np.argsort(samples)
    return log_p[order], truth[order]


def _mean(values: Sequence[Any]) -> float | None:
    numbers = [value for value in values if isinstance(value, int | float)]
    return float(np.mean(numbers)) if numbers else None
