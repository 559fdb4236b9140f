"""What a process has started, from /proc."""

from __future__ import annotations

import contextlib
from pathlib import Path


def driver_of(pid: int) -> int:
    """The driver of a command that was started: its child, or itself while it has none."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else pid
    return pid


def descendants(pid: int) -> set[int]:
    """A process and everything it started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found
