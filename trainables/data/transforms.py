"""What happens to features between the cache and a classifier; fitted on the training split alone.

Every representation is standardised, but for classifiers that read matrices. A name may end with
one more transform, as in `spectral/pca:64`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lorasweep.features.common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

_TRANSFORM = re.compile(r"(?P<reference>.+)/(?P<transform>pca:(?P<size>[^/:]*))")

VERSION = 1
"""Part of the fingerprint of trials with a transform."""


def split_transform(reference: str) -> tuple[str, str]:
    """A representation's reference and its transform, "" if there is none.

    Raises:
        UserError: its number of components is none.
    """
    match = _TRANSFORM.fullmatch(reference)
    if match is None:
        return reference, ""
    if not re.fullmatch(r"[1-9][0-9]{0,4}", match["size"]):
        raise UserError(f"{reference}: pca:K needs a number of components from 1 to 99999")
    return match["reference"], match["transform"]


def transformed_width(transform: str, n_features: int, n_train: int) -> int:
    """Columns that a classifier sees of `n_features`."""
    if not transform:
        return n_features
    return max(1, min(int(transform.partition(":")[2]), n_features, n_train - 1))


def principal_components(train: np.ndarray, count: int) -> np.ndarray:
    """Directions of the largest variance.

    Arguments:
        train: (n_train, n_features) float32 with columns of mean 0.
        count: how many.

    Returns:
        (n_features, count) float32: orthogonal columns, each with its largest entry positive, all
        scaled by one number so that the projected training split has a mean variance of 1. A
        direction without variance is 0.
    """
    import numpy as np
    from scipy.linalg import eigh

    n, width = train.shape
    dual = n < width
    # In blocks of columns or rows, since float64 copies of the whole may not fit.
    gram = np.zeros((min(n, width),) * 2)
    for left in range(0, max(n, width), 4096):
        part = (train[:, left : left + 4096] if dual else train[left : left + 4096]).astype(float)
        gram += part @ part.T if dual else part.T @ part
    size = len(gram)
    values, vectors = eigh(gram, subset_by_index=[size - count, size - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    real = values > 1e-12 * max(values[0], 1e-300)
    if dual:
        roots = np.sqrt(np.where(real, values, 1.0))
        vectors = np.concatenate(
            [
                train[:, left : left + 4096].astype(float).T @ vectors / roots
                for left in range(0, width, 4096)
            ]
        )
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    vectors = vectors * np.where(largest < 0, -1.0, 1.0) * real
    variance = values[real].sum() / n / count if real.any() else 1.0
    return (vectors / np.sqrt(variance)).astype(np.float32)
