"""Append-only event logs: one file per process and invocation, one JSON object a line."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from .run_dir import RunDir


class EventLog:
    """Appends events to this process's own file, so that no two writers share one.

    Arguments:
        run_dir: the run directory.
        invocation: what the driver calls this invocation.
    """

    def __init__(self, run_dir: Path, invocation: str) -> None:
        name = f"{invocation}-{socket.gethostname()}-{os.getpid()}.jsonl"
        self.path = RunDir(run_dir).events / name

    def write(self, event: str, **details: Any) -> None:
        """Append one line {"event", "time", …}."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"event": event, "time": time.time(), **details}) + "\n"
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line)
