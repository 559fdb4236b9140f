"""Finished fits of trials that took long, state until models are made of them.

fits/<config>/<method>[/fold-<fold>]/seed-<seed>.safetensors
"""

from __future__ import annotations

from pathlib import Path

from lorasweep.features.common.files import DamagedFileError
from lorasweep.features.common.signed_tensors import read_tensors, write_tensors
from lorasweep.trainables.classifiers.base import FitState
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

LARGEST_BYTES = 200_000_000
"""Larger ones are not state: such a classifier holds its training split."""

_KIND = "fit"


def write_fit(run_dir: Path, key: TrialKey, fingerprint: str, state: FitState) -> None:
    """Keep what `Fit.state` gave, unless it is too large.

    Arguments:
        fingerprint: of the trial.
    """
    if sum(tensor.nbytes for tensor in state.tensors.values()) > LARGEST_BYTES:
        return
    note = {"key": key.to_json(), "fingerprint": fingerprint, "rest": state.rest}
    write_tensors(RunDir(run_dir).fit(key), _KIND, note, {_KIND: state.tensors})


def read_fit(run_dir: Path, key: TrialKey, fingerprint: str) -> FitState | None:
    """What a trial left, on the CPU; None if that is nothing, damaged, or of other inputs."""
    try:
        note, parts = read_tensors(RunDir(run_dir).fit(key), _KIND, [_KIND])
    except (FileNotFoundError, DamagedFileError):
        return None
    if (note["key"], note["fingerprint"]) != (key.to_json(), fingerprint):
        return None
    return FitState(parts[_KIND], note["rest"])


def delete_fit(run_dir: Path, key: TrialKey) -> None:
    """Forget it."""
    RunDir(run_dir).fit(key).unlink(missing_ok=True)
