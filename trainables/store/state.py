"""The state of a trial that is still training: one file, so that it is whole or not there.

    inflight/<config>/<method>[/fold-<fold>]/seed-<seed>.safetensors

Tensors are safetensors; everything else is JSON in its metadata, signed together with a checksum of
the tensors. Nothing is ever unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lorasweep.features.common.files import DamagedFileError
from lorasweep.features.common.signed_tensors import read_tensors, write_tensors

from .run_dir import RunDir
from .trial_key import TrialKey

_KIND = "state"
_PART = "fit"


@dataclass(frozen=True)
class TrialState:
    """A trial's state between two slices.

    Attributes:
        fingerprint: of the trial; another one's is not continued.
        environment: device type, torch version, threads …; another one's is not continued,
            since its numbers would round differently.
        tensors: weights, best weights, optimizer moments, random generator states.
        rest: everything else, as JSON.
    """

    fingerprint: str
    environment: dict[str, Any]
    tensors: dict[str, Tensor]
    rest: dict[str, Any]


def write_state(run_dir: Path, key: TrialKey, state: TrialState) -> None:
    """Replace a trial's state, atomically."""
    note = {
        "key": key.to_json(),
        "fingerprint": state.fingerprint,
        "environment": state.environment,
        "state": state.rest,
    }
    write_tensors(RunDir(run_dir).state(key), _KIND, note, {_PART: state.tensors})


def read_state(run_dir: Path, key: TrialKey) -> TrialState:
    """A trial's state, its tensors on the CPU.

    Raises:
        DamagedFileError: it does not parse, a checksum differs, or it is another trial's.
        FileNotFoundError: there is none.
    """
    try:
        note, parts = read_tensors(RunDir(run_dir).state(key), _KIND, [_PART])
    except DamagedFileError as error:
        raise DamagedFileError(f"the state of {key}: {error}") from error
    if note["key"] != key.to_json():
        raise DamagedFileError(f"the state of {key} is another trial's")
    return TrialState(note["fingerprint"], note["environment"], parts[_PART], note["state"])


def delete_state(run_dir: Path, key: TrialKey) -> None:
    """Forget a trial's state."""
    RunDir(run_dir).state(key).unlink(missing_ok=True)
