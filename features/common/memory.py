"""What the C library and the kernel can be asked to do about memory; nothing where they cannot."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache

import numpy as np


def fetch_ahead(arrays: Iterable[np.ndarray]) -> None:
    """Have a thread bring mapped memory from the disk and into this process's page table.

    Left to page faults, it would come in small pieces, each waited for.
    """
    _fetcher().submit(_populate, list(arrays))


def _populate(arrays: list[np.ndarray]) -> None:
    page, populate_read = 4096, 22  # MADV_POPULATE_READ, since Linux 5.14
    for values in arrays:
        address = values.ctypes.data
        start = address // page * page
        length = address + values.nbytes - start
        with suppress(AttributeError):  # not POSIX
            _libc().madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), populate_read)


@cache
def _fetcher() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="fetch-ahead")


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
