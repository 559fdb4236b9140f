"""Files of tensors with a signed JSON note: safetensors, nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from features.core.files import DamagedFileError, sign, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

_PARTS = "tensors"


def write_tensors(
    path: Path, kind: str, note: dict[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write tensors and a note about them, atomically.

    Arguments:
        kind: of file; the key of the note in the metadata.
        note: any JSON object.
        tensors: by names `part/name`; each part has a checksum of its own, so that it can be read
            alone.
    """
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    signed = sign({**note, _PARTS: {p: _checksum(of) for p, of in _by_part(whole).items()}})
    content = save(whole, metadata={kind: json.dumps(signed, allow_nan=False)})
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
    path: Path, kind: str, parts: Collection[str] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The note, and the tensors of some parts or of all, on the CPU.

    Raises:
        DamagedFileError: it is no file of this kind, or a checksum differs.
        FileNotFoundError: it is not there.
    """
    from safetensors import SafetensorError, safe_open

    note = read_note(path, kind)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {
                name: file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
                if parts is None or _part(name) in parts
            }
    except (SafetensorError, OSError) as error:
        raise DamagedFileError(f"{path} cannot be read: {error}") from error
    found = {part: _checksum(of) for part, of in _by_part(tensors).items()}
    expected = {p: c for p, c in note[_PARTS].items() if parts is None or p in parts}
    if found != expected:
        raise DamagedFileError(f"{path} does not match its checksum")
    return note, tensors


def _part(name: str) -> str:
    return name.partition("/")[0]


def _by_part(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found.setdefault(_part(name), {})[name] = tensor
    return found


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    import torch

    hasher = xxhash.xxh3_128()
    for name in sorted(tensors):
        tensor = tensors[name]
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
