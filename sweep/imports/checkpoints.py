"""Which of a training's checkpoints are read: the last adapter, all, or those of one step.

Trainers of PEFT and diffusers write `RUN/checkpoint-500/` beside the run's own adapter, kohya's
`NAME-000002.safetensors` (epochs) and `NAME-step00000500.safetensors` beside `NAME.safetensors`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

LAST, ALL = "last", "all"

_FOLDER = re.compile(r"checkpoint[-_](\d+)")
_KOHYA = re.compile(r"(.+)-(?:step)?(\d{6,8})")


class Checkpoint(NamedTuple):
    """A checkpoint's place among those of its training.

    Attributes:
        run: what they are checkpoints of: a folder, or kohya's file without its suffix.
        step: its number.
    """

    run: Path
    step: int


def run_of(folder: Path) -> Path | None:
    """The run whose checkpoint a folder is; None: it is no checkpoint's."""
    return folder.parent if _FOLDER.fullmatch(folder.name) else None


def find_checkpoints(adapters: Sequence[Path]) -> dict[Path, Checkpoint]:
    """Adapter -> its checkpoint, of those that are one.

    A file of kohya's is one only where the training's last file lies beside it: numbers at the end
    of names mean other things, too.

    Arguments:
        adapters: files, or folders that stand for their one file.
    """
    there = set(adapters)
    found = {}
    for adapter in adapters:
        run = run_of(adapter)
        match = _KOHYA.fullmatch(adapter.stem)
        if run:
            found[adapter] = Checkpoint(run, int(adapter.name[len("checkpoint-") :]))
        elif match and adapter.with_name(match[1] + adapter.suffix) in there:
            found[adapter] = Checkpoint(adapter.with_name(match[1]), int(match[2]))
    return found


def passed_over(adapters: Sequence[Path], checkpoints: str) -> Mapping[Path, str]:
    """Adapter -> why it is passed over.

    Arguments:
        checkpoints: what `--checkpoints` says.
    """
    found = find_checkpoints(adapters)
    by_run: dict[Path, list[tuple[int, Path]]] = {}
    for adapter, (run, step) in found.items():
        by_run.setdefault(run, []).append((step, adapter))
    last = {
        run: path for path in adapters if (run := _as_run(path)) in by_run and path not in found
    }
    aside: dict[Path, str] = {}
    if checkpoints == ALL:
        return aside
    for run, of in by_run.items():
        if checkpoints == LAST:
            keep = last.get(run, max(of)[1])
            reason = f"is a checkpoint: {keep.name} is the last (--checkpoints)"
        else:
            keep = next((path for step, path in of if step == int(checkpoints)), Path())
            reason = f"is not checkpoint {checkpoints} of {run.name} (--checkpoints)"
        others = [path for _, path in of] + ([last[run]] if run in last else [])
        aside |= {path: reason for path in others if path != keep}
    return aside


def _as_run(adapter: Path) -> Path:
    """Return an adapter's run as checkpoints name it: its folder, or its file without suffix."""
    return adapter.with_suffix("") if adapter.suffix == ".safetensors" else adapter
