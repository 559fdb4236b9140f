"""What is wrong with one adapter file."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UserError


class BadAdapterError(UserError):
    """An adapter file that cannot be used; `reason` says why, without the path."""

    def __init__(self, path: Path, reason: str) -> None:
        reason = " ".join(reason.split())  # names in a damaged file may have anything in them
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type[BadAdapterError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)  # so that it can leave a worker
