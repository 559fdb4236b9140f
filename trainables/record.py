"""The durable record of one finished trial: written last, by the worker, atomically."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from features.core.files import DamagedFileError, read_signed_json, sign, write_json

RECORD_SCHEMA = 1


@dataclass(frozen=True, order=True)
class TrialKey:
    """Which trial: a (config, representation) pair and a seed."""

    config: str
    representation: str
    seed: int

    @property
    def pair(self) -> tuple[str, str]:
        """(config, representation)."""
        return self.config, self.representation

    def __str__(self) -> str:
        return f"{self.config}/{self.representation}/seed-{self.seed}"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def record_path(run_dir: Path, key: TrialKey) -> Path:
    """Where a trial's record belongs."""
    return run_dir / "checkpoints" / f"{key}.json"


def failure_path(run_dir: Path, key: TrialKey) -> Path:
    """Where it is written why a trial failed."""
    return run_dir / "failures" / f"{key}.json"


def slot_path(run_dir: Path, key: TrialKey) -> Path:
    """Where the state of a trial that is still training belongs."""
    return run_dir / "inflight" / f"{key}.safetensors"


def write_record(run_dir: Path, key: TrialKey, fingerprint: str, body: dict[str, Any]) -> None:
    """Write a trial's record and forget an earlier failure of it."""
    record = {
        "schema": RECORD_SCHEMA,
        "key": key.to_json(),
        "fingerprint": fingerprint,
        **body,
    }
    write_json(record_path(run_dir, key), sign(record), indent=None)
    failure_path(run_dir, key).unlink(missing_ok=True)


def write_failure(run_dir: Path, key: TrialKey, fingerprint: str, reason: str) -> None:
    """Record why a trial failed after its retries."""
    failure = {"key": key.to_json(), "fingerprint": fingerprint, "reason": reason}
    write_json(failure_path(run_dir, key), sign(failure))


def read_record(run_dir: Path, key: TrialKey) -> dict[str, Any]:
    """A trial's record.

    Raises:
        DamagedFileError: it does not parse, its checksum differs, or it is another trial's.
        FileNotFoundError: there is none.
    """
    path = record_path(run_dir, key)
    record = read_signed_json(path)
    if record.get("key") != key.to_json():
        raise DamagedFileError(f"{path} is the record of another trial")
    return record


def has_record(run_dir: Path, key: TrialKey, fingerprint: str) -> bool:
    """Whether a valid record with this fingerprint exists."""
    try:
        return read_record(run_dir, key)["fingerprint"] == fingerprint
    except (OSError, DamagedFileError, KeyError):
        return False
