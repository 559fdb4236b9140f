"""What remains to be done is always grid − records; worked out without Ray or torch."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasweep.features.common.files import DamagedFileError, digest, file_stamp, read_signed_json
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

_LEFTOVER_SECONDS = 60.0


@dataclass
class RecordState:
    """The grid's trials, sorted by what is on disk.

    Attributes:
        done: trials with a valid record, in grid order.
        todo: all others, in grid order.
        records: the valid records themselves.
        stale: records of another representation or trainer version, with their paths.
        corrupt: records that do not parse or fail their checksum.
    """

    done: list[TrialKey] = field(default_factory=list)
    todo: list[TrialKey] = field(default_factory=list)
    records: dict[TrialKey, dict[str, Any]] = field(default_factory=dict)
    stale: list[TrialKey] = field(default_factory=list)
    corrupt: list[TrialKey] = field(default_factory=list)


Known = dict[TrialKey, tuple[list[Any], dict[str, Any]]]
"""Records read earlier: trial -> (file stamp, fingerprint, metrics and width of its record)."""


def read_records(
    run_dir: Path,
    fingerprints: dict[TrialKey, str],
    known: Known | None = None,
    parts: Collection[str] | None = None,
) -> RecordState:
    """Read and check every record of the grid. Changes nothing on disk.

    Arguments:
        parts: keep only these of each record: thousands of whole ones are a lot of memory.
        known: for whoever looks often and needs the metrics alone: a record whose file has not
            changed since is not read again. Updated.
    """
    state = RecordState()
    for key, fingerprint in fingerprints.items():
        if not fingerprint:  # its layers are not decided yet
            state.todo.append(key)
            continue
        try:
            record = _read_known(run_dir, key, known)
        except (FileNotFoundError, NotADirectoryError):
            state.todo.append(key)
            continue
        except (DamagedFileError, OSError):
            state.corrupt.append(key)
            state.todo.append(key)
            continue
        if record.get("fingerprint") == fingerprint:
            state.done.append(key)
            state.records[key] = _only(record, parts) if parts else record
        else:
            state.stale.append(key)
            state.todo.append(key)
    return state


def _read_known(run_dir: Path, key: TrialKey, known: Known | None) -> dict[str, Any]:
    if known is None:
        return read_record(run_dir, key)
    stamp = file_stamp(RunDir(run_dir).record(key))
    if key not in known or known[key][0] != stamp:
        record = read_record(run_dir, key)
        known[key] = stamp, _only(record, ("fingerprint", "metrics", "feature_dim"))
    return known[key][1]


def _only(record: dict[str, Any], parts: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name in parts}


def quarantine(run_dir: Path, state: RecordState) -> list[str]:
    """Rename stale and corrupt records out of the way; one line about each."""
    lines = []
    for keys, suffix, why in (
        (state.stale, "stale", "belongs to another representation or trainer version"),
        (state.corrupt, "corrupt", "is damaged"),
    ):
        for key in keys:
            path = RunDir(run_dir).record(key)
            if path.is_file():
                os.replace(path, path.with_name(f"{path.name}.{suffix}"))
                lines.append(f"record {key} {why}: set aside as *.{suffix}, the trial runs again")
    return lines


def remove_leftovers(run_dir: Path, done: list[TrialKey]) -> None:
    """Remove what killed processes left: temporary files, and slots of trials that have a record.

    A temporary file younger than a minute may belong to a worker that is still dying.
    """
    for key in done:
        RunDir(run_dir).state(key).unlink(missing_ok=True)
    for path in run_dir.rglob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                path.unlink()


def records_digest(run_dir: Path, fingerprints: dict[TrialKey, str]) -> str | None:
    """Digest of the grid and of its records' file stamps; None if a record is missing."""
    stamps = []
    if not all(fingerprints.values()):
        return None
    for key, fingerprint in fingerprints.items():
        try:
            stamps.append([str(key), fingerprint, *file_stamp(RunDir(run_dir).record(key))[1:]])
        except OSError:
            return None
    return digest(stamps)


def count_other_records(run_dir: Path, fingerprints: dict[TrialKey, str]) -> int:
    """Records on disk that are outside the grid."""
    inside = {RunDir(run_dir).record(key) for key in fingerprints}
    return sum(path not in inside for path in RunDir(run_dir).records())


def failed_trials(run_dir: Path, fingerprints: Mapping[TrialKey, str]) -> list[TrialKey]:
    """Those of the trials whose failure is recorded; damaged files and older versions' are none."""
    return [key for key, fingerprint in fingerprints.items() if _failed(run_dir, key, fingerprint)]


def _failed(run_dir: Path, key: TrialKey, fingerprint: str) -> bool:
    try:
        failure = read_signed_json(RunDir(run_dir).failure(key))
        of = TrialKey.from_json(failure["key"])
    except (OSError, DamagedFileError, KeyError, TypeError):
        return False
    return of == key and failure.get("fingerprint") == fingerprint
