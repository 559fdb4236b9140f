"""labels.json: the class index of every sample, for whoever evaluates records without the data."""

from __future__ import annotations

from pathlib import Path

from features.core.errors import UserError
from features.core.files import DamagedFileError, read_signed_json, sign, write_json
from trainables.run_dir import RunDir

_SCHEMA = 1


def write_labels(run_dir: Path, labels: list[int]) -> None:
    """Write the class index of every sample, unless they are there."""
    try:
        if read_labels(run_dir) == labels:
            return
    except UserError:
        pass  # there is none yet, or it is damaged
    content = sign({"schema": _SCHEMA, "labels": labels})
    write_json(RunDir(run_dir).labels, content, indent=None)


def read_labels(run_dir: Path) -> list[int]:
    """The class index of every sample, in the dataset's order.

    Raises:
        UserError: labels.json is not there or damaged.
    """
    path = RunDir(run_dir).labels
    try:
        return read_signed_json(path)["labels"]
    except (OSError, DamagedFileError) as error:
        raise UserError(
            f"{run_dir} has no readable {path.name}: give the original `lorasweep run` command "
            "again to have it written; nothing is trained twice"
        ) from error
