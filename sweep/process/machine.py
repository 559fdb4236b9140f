"""How much of this machine is ours: a batch system or a container may give a part of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def machine_memory(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of main memory this process may use: the machine's, or the lowest limit that a control
    group it is in has.

    Arguments:
        cgroups: where their file system is mounted.
        own: the file that names this process's.
    """
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _limits(cgroups, own):
        with suppress(OSError, ValueError):  # not there, or "max"
            sizes.append(int(path.read_text()))
    return min(sizes)


def _limits(cgroups: Path, own: Path) -> Iterator[Path]:
    """The files with the limits of this process's groups and all around them, of either version;
    in a container, where its own is mounted as the root, that of the root."""
    groups = {"": "/", "memory": "/"}
    with suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            for name in controllers.split(","):
                groups[name] = group
    for root, name, group in (
        (cgroups, "memory.max", groups[""]),
        (cgroups / "memory", "memory.limit_in_bytes", groups["memory"]),
    ):
        folder = root / group.lstrip("/")
        for parent in (folder, *folder.parents):
            yield parent / name
            if parent == root:
                break
