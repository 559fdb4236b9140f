"""What the C library and the kernel can be asked to do about memory; nothing where they cannot."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

import numpy as np


def fetch_ahead(values: np.ndarray) -> None:
    """Ask the kernel to read mapped memory from the disk in large pieces, without waiting.

    Left to page faults, it would come in small ones, each waited for.
    """
    page, will_need = 4096, 3
    step = 1 << 17  # the kernel's usual limit for one request
    start = values.ctypes.data // page * page
    with suppress(AttributeError):  # not POSIX
        for at in range(start, values.ctypes.data + values.nbytes, step):
            _libc().madvise(ctypes.c_void_p(at), ctypes.c_size_t(step), will_need)


@cache
def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next batch.

    It gives large blocks back to the kernel, and getting them again, page by page, costs more
    than the arithmetic done in them.
    """
    most_mapped, most_kept = 1 << 25, (1 << 31) - 1
    with suppress(AttributeError):  # not glibc
        _libc().mallopt(-3, most_mapped)  # M_MMAP_THRESHOLD, at its upper limit
        _libc().mallopt(-1, most_kept)  # M_TRIM_THRESHOLD


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)
