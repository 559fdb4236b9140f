"""Where adapters' weights lie: files, and the folders that PEFT and diffusers make of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .errors import BadAdapterError
from .matrix import DIMENSIONS, matrix_of, matrix_rows
from .tensors import PICKLES

PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
DIFFUSERS_WEIGHTS = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin")
PEFT_CONFIG = "adapter_config.json"
"""What PEFT writes beside its weights."""

FOLDER_WEIGHTS = (*PEFT_WEIGHTS, *DIFFUSERS_WEIGHTS)
"""Names of weights that stand for their folder, the better format first."""

SUFFIXES = (".safetensors", *PICKLES)
"""What files of adapters end with."""

# What else lies in folders of adapters: states of optimisers and of training.
_NO_ADAPTERS = ("optimizer", "scheduler", "training_args", "rng_state", "random_states", "scaler")


def find_weights(path: Path) -> Path:
    """The file of an adapter's weights: `path` itself, or that in a folder of PEFT or diffusers.

    Raises:
        BadAdapterError: there is none.
    """
    if not path.is_dir():
        if not path.exists() and not matrix_of(path):
            raise BadAdapterError(path, "does not exist")
        return path
    for name in FOLDER_WEIGHTS:
        if (path / name).exists():
            return path / name
    raise BadAdapterError(path, f"holds none of {', '.join(FOLDER_WEIGHTS)}")


def walk_weights(folder: Path) -> Iterator[Path]:
    """Every file below a folder that may be an adapter's, in order of paths.

    Hidden files and folders are left out, and of two formats of the same weights the second. Of a
    folder with matrices of adapters, see `matrix_rows`, it is every row.

    Raises:
        BadAdapterError: such a folder's matrices cannot be read.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        if DIMENSIONS in names:
            yield from matrix_rows(Path(place), sorted(names))
            continue
        taken: set[str] = set()
        for name in sorted(names, key=lambda name: (not name.endswith(".safetensors"), name)):
            stem, suffix = os.path.splitext(name)
            if suffix not in SUFFIXES or name[0] == "." or name.startswith(_NO_ADAPTERS):
                continue
            if stem not in taken:
                taken.add(stem)
                yield Path(place, name)


def adapter_place(weights: Path) -> Path:
    """What an adapter is called: its file, or the folder that the file stands for."""
    return weights.parent if weights.name in FOLDER_WEIGHTS else weights
