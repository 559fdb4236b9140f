"""Running the command line tool as a user does, and watching its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_EVERY_SECONDS = 0.5


@dataclass
class Run:
    """What a command did.

    Attributes:
        seconds: wall time of the whole process.
        output: standard output.
        driver_mb: (time, the driver's memory), twice a second.
        all_mb: the memory of it and all processes it started.
    """

    seconds: float
    output: str
    driver_mb: list[tuple[float, float]] = field(default_factory=list)
    all_mb: list[float] = field(default_factory=list)


def lorasweep(*arguments: object, watch: bool = False, one_core: bool = False) -> Run:
    """Run `lorasweep …`; one thread per process, as everywhere in a comparison.

    Arguments:
        watch: its memory.
        one_core: whether it may use one core only.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    command = [str(Path(sys.executable).with_name("lorasweep")), *map(str, arguments)]
    if one_core:
        command = ["taskset", "--cpu-list", "0", *command]
    run = Run(0.0, "")
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while watch and process.poll() is None:
        sizes = _memory_mb(_session(process.pid))
        run.driver_mb.append((time.time(), sizes.get(_driver(process.pid), 0.0)))
        run.all_mb.append(sum(sizes.values()))
        time.sleep(_EVERY_SECONDS)
    run.output, errors = process.communicate()
    run.seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}:\n{errors}")
    return run


def _driver(command: int) -> int:
    """A command that runs Ray is a parent, and the driver as its child; others are one process."""
    own = Path("/proc", str(command), "cmdline").read_bytes()
    for child in _children().get(command, []):
        with suppress(OSError):
            if Path("/proc", str(child), "cmdline").read_bytes() == own:
                return child
    return command


def _session(root: int) -> list[int]:
    """A process and all that descend from it. Ray's start sessions of their own."""
    children = _children()
    found, todo = [], [root]
    while todo:
        process = todo.pop()
        found.append(process)
        todo += children.get(process, [])
    return found


def _children() -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry))
    return children


def _memory_mb(processes: Sequence[int]) -> dict[int, float]:
    """Anonymous and shared memory of each process, without mapped files.

    The kernel counts these. Its account of shares (smaps_rollup) is of all pages, one by one, each
    time: half a core for two processes that map 20 GB.
    """
    sizes = {}
    for process in processes:
        try:
            lines = Path("/proc", str(process), "status").read_text().splitlines()
        except OSError:
            continue
        kb = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))]
        sizes[process] = sum(kb) / 1024
    return sizes


def disk_rate(path: Path, size: int) -> float:
    """Bytes a second at which a file of `size` bytes is written and flushed, and removed again."""
    block = os.urandom(1 << 24)
    began = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(-(-size // len(block))):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return size / seconds
