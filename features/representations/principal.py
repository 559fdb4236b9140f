"""Principal components of whole adapters, fitted on the training split."""

from .base import principal_components

SIZES = (64, 256, 1024)

update_pca = principal_components(
    "update_pca",
    version=2,
    kernel="update",
    sizes=SIZES,
    default_size=256,
    about="Principal components of all of a config's ΔW, from their inner products.",
    invariant=True,
)

flat_pca = principal_components(
    "flat_pca",
    version=2,
    kernel="flat",
    sizes=SIZES,
    default_size=256,
    about="Principal components of all of a config's A and B, flattened.",
)
