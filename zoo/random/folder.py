"""Making output folders without overwriting anything."""

from __future__ import annotations

from pathlib import Path

from lorasweep.features.common.errors import UserError


def new_folder(path: Path) -> None:
    """Make a folder that does not exist yet, or is empty.

    Raises:
        UserError: it holds something, or cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise UserError(f"cannot make {path}: {error.strerror}") from error
    if taken:
        raise UserError(f"{path} is not empty: give another folder")
