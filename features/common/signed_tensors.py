"""Files of tensors with a signed JSON note: safetensors, nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from .files import DamagedFileError, sign, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

_PARTS = "tensors"

Parts = Mapping[str, Mapping[str, "Tensor"]]
"""Part -> name -> tensor. Each part has a checksum of its own, so that it can be read alone."""


def write_tensors(path: Path, kind: str, note: dict[str, Any], parts: Parts) -> None:
    """Write tensors and a note about them, atomically.

    Arguments:
        kind: of file; the key of the note in the metadata.
        note: any JSON object.
    """
    from safetensors.torch import save

    whole = {
        part: {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        for part, tensors in parts.items()
    }
    signed = sign({**note, _PARTS: {part: _checksum(part, of) for part, of in whole.items()}})
    named = {f"{part}/{name}": tensor for part, of in whole.items() for name, tensor in of.items()}
    content = save(named, metadata={kind: json.dumps(signed, allow_nan=False)})
    write_atomic(path, lambda file: file.write(content))


def read_note(path: Path, kind: str) -> dict[str, Any]:
    """The note alone, without torch.

    Raises:
        DamagedFileError: it is no file of this kind, or its checksum differs.
        FileNotFoundError: it is not there.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            note = json.loads((file.metadata() or {})[kind])
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedFileError(f"{path} cannot be read as a {kind}: {error}") from error
    if not isinstance(note, dict) or note.get("checksum") != sign(note)["checksum"]:
        raise DamagedFileError(f"{path} does not match its checksum")
    return note


def read_tensors(
    path: Path, kind: str, parts: Collection[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The note, and some of the parts, on the CPU.

    Raises:
        DamagedFileError: it is no file of this kind, or a checksum differs.
        FileNotFoundError: it is not there.
    """
    from safetensors import SafetensorError, safe_open

    note = read_note(path, kind)
    found: dict[str, dict[str, Tensor]] = {part: {} for part in parts}
    try:
        with safe_open(path, framework="pt") as file:
            for full in file.keys():  # noqa: SIM118
                part, _, name = full.partition("/")
                if part in found:
                    found[part][name] = file.get_tensor(full)
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} cannot be read: {error}") from error
    for part, tensors in found.items():
        # Files of earlier versions do not list a part without tensors.
        if note[_PARTS].get(part, _checksum(part, {})) != _checksum(part, tensors):
            raise DamagedFileError(f"{path} does not match its checksum")
    return note, found


def _checksum(part: str, tensors: Mapping[str, Tensor]) -> str:
    import torch

    hasher = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{part}/{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
