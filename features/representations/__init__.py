"""Representations: named maps from layer tensors or layers to numbers.

Add one by declaring it in a module of this package; nothing else has to know of it.
"""

from .base import Representation, Unit, representation, view
from .catalogue import (
    DEFAULT_REPRESENTATIONS,
    GROUPS,
    REPRESENTATIONS,
    expand_groups,
    get_representation,
    get_representations,
    stored_representations,
)

__all__ = [
    "DEFAULT_REPRESENTATIONS",
    "GROUPS",
    "REPRESENTATIONS",
    "Representation",
    "Unit",
    "expand_groups",
    "get_representation",
    "get_representations",
    "representation",
    "stored_representations",
    "view",
]
