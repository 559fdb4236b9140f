"""The state of a trial that is still training: one file, so that it is whole or not there.

    inflight/<config>/<representation>/seed-<seed>.safetensors

Tensors are safetensors; everything else is JSON in its metadata, signed together with a checksum of
the tensors. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from features.core.files import DamagedFileError, sign, write_atomic

from .record import TrialKey
from .run_dir import RunDir


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
    note = sign(
        {
            "key": key.to_json(),
            "fingerprint": state.fingerprint,
            "environment": state.environment,
            "state": state.rest,
            "tensors": _checksum(state.tensors),
        }
    )
    content = save(state.tensors, metadata={"state": json.dumps(note, allow_nan=False)})
    write_atomic(RunDir(run_dir).state(key), lambda file: file.write(content))


def read_state(run_dir: Path, key: TrialKey) -> TrialState:
    """A trial's state, its tensors on the CPU.

    Raises:
        DamagedFileError: it does not parse, a checksum differs, or it is another trial's.
        FileNotFoundError: there is none.
    """
    path = RunDir(run_dir).state(key)
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedFileError(f"the state of {key} cannot be read: {error}") from error
    if note.get("checksum") != sign(note)["checksum"] or note["tensors"] != _checksum(tensors):
        raise DamagedFileError(f"the state of {key} does not match its checksum")
    if note["key"] != key.to_json():
        raise DamagedFileError(f"the state of {key} is another trial's")
    return TrialState(note["fingerprint"], note["environment"], tensors, note["state"])


def delete_state(run_dir: Path, key: TrialKey) -> None:
    """Forget a trial's state."""
    RunDir(run_dir).state(key).unlink(missing_ok=True)


def _checksum(tensors: dict[str, Tensor]) -> str:
    hasher = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hasher.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
