"""Log-probabilities over all classes from a model that saw only some of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ABSENT = 1e-6
"""Probability of each class that the training split lacks."""


def with_absent_classes(
    log_probabilities: np.ndarray, present: np.ndarray, n_classes: int
) -> np.ndarray:
    """Spread log-probabilities of the present classes over all of them.

    Arguments:
        log_probabilities: (n, n_present) float64, normalised.
        present: (n_present,) ascending class indices.

    Returns:
        (n, n_classes) float64, normalised.
    """
    import numpy as np

    absent = n_classes - len(present)
    spread = np.full((len(log_probabilities), n_classes), np.log(ABSENT))
    spread[:, present] = log_probabilities + np.log1p(-ABSENT * absent)
    return spread
