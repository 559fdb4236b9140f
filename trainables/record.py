"""The durable record of one finished trial: written last, by the worker, atomically."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.core.files import DamagedFileError, path_name, read_signed_json, sign, write_json

from .run_dir import RunDir

RECORD_SCHEMA = 1
_LOOK_SECONDS = 0.5


DEFAULT_CLASSIFIER = "mlp"
"""What trials are of that do not say; its name is left out of labels, paths and fingerprints."""


def entry_label(representation: str, classifier: str) -> str:
    """What a representation seen by a classifier is called: `spectral`, `spectral@linear`."""
    return representation if classifier == DEFAULT_CLASSIFIER else f"{representation}@{classifier}"


@dataclass(frozen=True, order=True)
class TrialKey:
    """Which trial: layers, features, classifier and a seed."""

    config: str
    representation: str
    seed: int
    classifier: str = DEFAULT_CLASSIFIER

    @property
    def label(self) -> str:
        """Its representation and classifier; see `entry_label`."""
        return entry_label(self.representation, self.classifier)

    @property
    def pair(self) -> tuple[str, str]:
        """(config, label): what it shares with the other seeds."""
        return self.config, self.label

    @property
    def path(self) -> str:
        """<config>/<label>/seed-<seed>, as it is in file names."""
        return f"{path_name(self.config)}/{path_name(self.label)}/seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.config}/{self.label}/seed-{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrialKey:
        """From a JSON object; an old one has no classifier."""
        return cls(**value)

    def identity(self) -> dict[str, Any]:
        """What fingerprints are taken of: without the classifier if it is the default, as before
        there were others."""
        value = self.to_json()
        if self.classifier == DEFAULT_CLASSIFIER:
            del value["classifier"]
        return value


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
