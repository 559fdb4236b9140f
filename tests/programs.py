"""Programs that some tests run and pip cannot install."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def require_program(*names: str) -> str:
    """Path of the first of these programs that is installed.

    Where there is none, the test is skipped; in CI, which installs them, it fails.
    """
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    _miss(f"none of {', '.join(names)} is installed (Debian: apt-get install {names[0]})")


def require_fuse() -> None:
    """Nothing if file systems of one's own can be mounted; a container has to be given them."""
    require_program("fusermount3")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse cannot be opened: containers have it where they are given it")


def _miss(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
