"""Where adapters' weights lie: files, and the folders that PEFT and diffusers make of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lorasweep.features.formats.catalogue import FOLDER_WEIGHTS, PEFT

from .errors import BadAdapterError
from .matrix import DIMENSIONS, matrix_of, matrix_rows
from .tensors import PICKLES

SUFFIXES = (".safetensors", *PICKLES)
"""What files of adapters end with, in any case."""

# What else lies in folders of adapters: states of optimisers and of training.
_NO_ADAPTERS = ("optimizer", "scheduler", "training_args", "rng_state", "random_states", "scaler")
_STATE = ("optimizer", "scheduler", "random_states", "train_state")
_STATE_WEIGHTS = re.compile(r"(model|pytorch_model)(_\d+)?\.(safetensors|bin)")
"""Accelerate's names of what is trained, in a folder with the rest of a training's state."""
_PART = re.compile(r".*-(\d{5})-of-(\d{5})\.\w+")
_RUN = "sweep.json"
"""A folder with it is a run directory: its tensors are models."""


_COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
"""Folders that PEFT's examples of diffusers save an adapter's components in."""


class Candidate(NamedTuple):
    """Something that may be an adapter's weights.

    Attributes:
        path: a file, a row of a matrix, or a folder that cannot be looked into.
        aside: why it is passed over where adapters are collected; "": it is not. Whoever screens
            adapters opens it none the less.
        problem: why it cannot be opened; "": it can.
    """

    path: Path
    aside: str = ""
    problem: str = ""


def is_weights(name: str) -> bool:
    """Whether a file may be an adapter's, by its name."""
    return name.lower().endswith(SUFFIXES)


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a dataset rather than one of adapter files."""
    if any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):
        return True
    found = (file for suffix in ("parquet", "arrow") for file in folder.rglob(f"*.{suffix}"))
    return next(found, None) is not None and next(walk_weights(folder), None) is None


def component_weights(folder: Path) -> dict[str, Path]:
    """Component -> its weights, of a folder that holds an adapter in folders of its components;
    nothing where there is none or one of them."""
    found = {}
    for component in _COMPONENTS:
        own = (folder / component / name for name in PEFT.weights)
        weights = next((path for path in own if path.exists()), None)
        if weights and weights.with_name(PEFT.config).exists():
            found[component] = weights
    return found if len(found) > 1 else {}


def join_components(paths: Sequence[Path]) -> dict[Path, Path]:
    """Each path -> the folder of the adapter whose component it is, or itself."""
    joined = {}
    for path in paths:
        folder = path.parent.parent
        of_component = path.parent.name in _COMPONENTS and path.name in PEFT.weights
        whole = of_component and path in component_weights(folder).values()
        joined[path] = folder if whole else path
    return joined


def find_weights(path: Path) -> Path:
    """The file of an adapter's weights: `path` itself, or that in a folder of PEFT or diffusers; a
    folder itself if its components' folders hold them.

    Raises:
        BadAdapterError: there is none.
    """
    if not path.is_dir():
        if part := _PART.fullmatch(path.name):
            raise BadAdapterError(
                path,
                f"is part {int(part[1])} of {int(part[2])} of an adapter: join the parts first",
            )
        if not path.is_file() and not matrix_of(path):
            raise BadAdapterError(path, "is no file" if path.exists() else "does not exist")
        return path
    for name in FOLDER_WEIGHTS:
        if (path / name).exists():
            return path / name
    if component_weights(path):
        return path
    raise BadAdapterError(path, f"holds none of {', '.join(FOLDER_WEIGHTS)}")


def find_candidates(folder: Path, aside: str = "") -> Iterator[Candidate]:
    """Everything below a folder that may be an adapter's weights, in order of paths.

    Of a folder with matrices of adapters, see `matrix_rows`, it is every row.

    Arguments:
        aside: of the folder itself; what is inside has it, too.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        reason = f"cannot be listed: {error.strerror}"
        yield Candidate(folder, aside or reason, reason)
        return
    folders = [entry for entry in entries if _is_folder(entry)]
    names = [entry.name for entry in entries if not _is_folder(entry)]
    aside = aside or ("lies in a run directory" if _RUN in names else "")
    yield from _in_folder(folder, names, aside)
    for entry in folders:
        own = aside or ("is hidden" if entry.name[0] == "." else "")
        if entry.is_symlink():
            reason = "is a link to a folder, and not followed"
            yield Candidate(folder / entry.name, own or reason, reason)
        else:
            yield from find_candidates(folder / entry.name, own)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _in_folder(folder: Path, names: Sequence[str], aside: str) -> Iterator[Candidate]:
    weights = [name for name in names if is_weights(name)]
    if DIMENSIONS in weights:
        weights.remove(DIMENSIONS)
        rows: list[Path] = []
        try:
            rows = matrix_rows(folder, weights)
        except BadAdapterError as error:
            yield Candidate(folder / DIMENSIONS, aside, error.reason)
        yield from (Candidate(row, aside) for row in rows)
        matrices = {row.parent.name for row in rows}
        weights = [name for name in weights if name not in matrices]
        aside = aside or f"lies beside {DIMENSIONS}, and is no matrix of adapters"
    taken: dict[str, str] = {}
    is_state = any(name.startswith(_STATE) for name in names)
    for name in sorted(weights, key=lambda name: (name.lower().endswith(PICKLES), name)):
        stem = os.path.splitext(name)[0]
        own = aside or _aside(name, taken.get(stem, ""))
        if not own and is_state and _STATE_WEIGHTS.fullmatch(name):
            own = "is a state of a training, by what lies beside it"
        if not own:
            taken[stem] = name
        yield Candidate(folder / name, own)


def _aside(name: str, better: str) -> str:
    """Why a file is passed over.

    Arguments:
        better: one of the same name in a better format; "": there is none.
    """
    if name[0] == ".":
        return "is hidden"
    if name.lower().endswith(".ckpt"):
        return "is a checkpoint of a training, by its suffix"
    if name.lower().endswith(PICKLES) and name.startswith(_NO_ADAPTERS):
        return "is a state of a training, by its name"
    return f"is {better} in another format, by its name" if better else ""


def walk_weights(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is collected as an adapter's, in order of paths.

    Raises:
        BadAdapterError: a folder's matrices cannot be read.
    """
    for candidate in find_candidates(folder):
        if candidate.aside:
            continue
        if candidate.problem:
            raise BadAdapterError(candidate.path, candidate.problem)
        yield candidate.path
