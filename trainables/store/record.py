"""The durable record of one finished trial: written last, by the worker, atomically."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorasweep.features.common.files import (
    DamagedFileError,
    read_signed_json,
    sign,
    write_json,
)

from .run_dir import RunDir
from .trial_key import TrialKey

RECORD_SCHEMA = 1
_LOOK_SECONDS = 0.5


def write_record(run_dir: Path, key: TrialKey, fingerprint: str, body: dict[str, Any]) -> None:
    """Write a trial's record and forget an earlier failure of it."""
    record = {
        "schema": RECORD_SCHEMA,
        "key": key.to_json(),
        "fingerprint": fingerprint,
        **body,
    }
    write_json(RunDir(run_dir).record(key), sign(record), indent=None)
    RunDir(run_dir).failure(key).unlink(missing_ok=True)


def write_failure(run_dir: Path, key: TrialKey, fingerprint: str, reason: str) -> None:
    """Record why a trial failed after its retries."""
    failure = {"key": key.to_json(), "fingerprint": fingerprint, "reason": reason}
    write_json(RunDir(run_dir).failure(key), sign(failure))


def read_record(run_dir: Path, key: TrialKey) -> dict[str, Any]:
    """A trial's record.

    Raises:
        DamagedFileError: it does not parse, its checksum differs, or it is another trial's.
        FileNotFoundError: there is none.
    """
    path = RunDir(run_dir).record(key)
    record = read_signed_json(path)
    if not _is_of(record, key):
        raise DamagedFileError(f"{path} is the record of another trial")
    return record


def _is_of(record: dict[str, Any], key: TrialKey) -> bool:
    try:
        return TrialKey.from_json(record["key"]) == key
    except (KeyError, TypeError):
        return False


def await_records(run_dir: Path, written: Iterable[TrialKey], seconds: float = 60.0) -> None:
    """Wait until the records of trials that are known to have written one are seen here.

    NFS may say for a while that a file is not there which another host has written since, if this
    one has looked for it before.

    Arguments:
        seconds: how long at most; a record may have been deleted since.
    """
    until = time.monotonic() + seconds
    unseen = [RunDir(run_dir).record(key) for key in written]
    while True:
        unseen = [path for path in unseen if not path.exists()]
        if not unseen or time.monotonic() >= until:
            return
        for folder in {path.parent for path in unseen}:
            with suppress(OSError):
                os.listdir(folder)  # makes NFS ask its server anew
        time.sleep(_LOOK_SECONDS)


def has_record(run_dir: Path, key: TrialKey, fingerprint: str) -> bool:
    """Whether a valid record with this fingerprint exists."""
    try:
        return read_record(run_dir, key)["fingerprint"] == fingerprint
    except (OSError, DamagedFileError, KeyError):
        return False
