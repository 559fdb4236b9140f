"""Temperature scaling: probabilities that are as often right as they say."""

from __future__ import annotations

import numpy as np

_LOWEST, _HIGHEST = 0.01, 100.0


def fit_temperature(log_probabilities: np.ndarray, truth: np.ndarray) -> float:
    """The T for which softmax(log p / T) has the least loss on a validation split (Guo et al.,
    "On Calibration of Modern Neural Networks", 2017).

    Where no sample is classified wrongly, the likelihood only grows as T → 0. So a share of
    1/(n + 2) of every target is spread over all classes, as Platt (1999) does for two.

    Arguments:
        log_probabilities: (n, n_classes), normalised.
        truth: (n,) class indices.
    """
    from scipy.optimize import minimize_scalar

    n, n_classes = log_probabilities.shape
    spread = 1 / (n + 2)

    def loss(log_t: float) -> float:
        log_p = at_temperature(log_probabilities, np.exp(log_t))
        right = log_p[np.arange(n), truth]
        return float(-((1 - spread) * right + spread * log_p.sum(1) / n_classes).mean())

    bounds = np.log(_LOWEST), np.log(_HIGHEST)
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))


def at_temperature(log_probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """(n, n_classes) log-probabilities, divided by T and normalised again."""
    from scipy.special import log_softmax

    return log_softmax(log_probabilities / temperature, axis=1)
