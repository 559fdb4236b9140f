"""Compilation by Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a function to be compiled; its machine code is kept on disk where anything can be.

    In a container without a home, whose packages are somebody else's, every process compiles it.

    Arguments:
        options: those of `numba.njit`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # Numba's for "no locator available"
            return njit(**options)(function)

    return decorate
