"""Where adapters come from: local folders and files, object storage, or the Hugging Face hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import (
    DamagedFileError,
    digest,
    file_stamp,
    read_signed_json,
    sign,
    write_json,
)
from lorasweep.features.common.progress import Progress

from .objects import ObjectPath, is_url, list_objects

if TYPE_CHECKING:
    from .reader import TableReader

Place = TypeVar("Place", Path, ObjectPath)

SHORT_NAMES = {
    **{size: f"jacekduszenko/lora-ws-{size}" for size in ("1k", "10k", "50k", "100k")},
    "small": "jacekduszenko/weights-dataset-small",
    "sanity-check": "jacekduszenko/lora-ws-sanity-check",
}
"""What the original script called its datasets -> their hub ids."""


@dataclass(frozen=True)
class DatasetRequest:
    """Which dataset a user asked for.

    Attributes:
        name: a short name, a hub id, a local path, or a URL of object storage.
        config: a hub dataset's configuration, if it has several.
        revision: a hub dataset's commit, once it is pinned.
    """

    name: str
    config: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Source:
    """A dataset's files on this machine; of objects, their copies.

    Attributes:
        label: its short name or last path component; a run's default name.
        files: Arrow or Parquet files in row order.
        revision: the hub commit they came from; None for a local dataset and for objects.
    """

    label: str
    files: tuple[Path, ...]
    revision: str | None = None
    stamps: list[list] = field(default_factory=list, compare=False, repr=False)

    def open(self) -> TableReader:
        """A reader over the files."""
        from .reader import TableReader

        return TableReader(self.files)


def dataset_label(name: str) -> str:
    """The short name or last path component of a dataset."""
    return name if name in SHORT_NAMES else Path(name).name or Path(name).resolve().name


def find_dataset(
    request: DatasetRequest, memo: Path, on_progress: Progress | None = None
) -> Source:
    """Find a dataset's files; a hub dataset is downloaded once and then found by a memo, objects
    are copied into the memo's folder once.

    Arguments:
        on_progress: called with (MB copied, MB to copy) of objects.

    Raises:
        UserError: there is no such dataset, it is not one, or the hub or the object storage cannot
            be reached.
    """
    label = dataset_label(request.name)
    if is_url(request.name):
        return _from_objects(request, label, memo, on_progress)
    path = Path(request.name)
    if request.name not in SHORT_NAMES and path.exists():
        if request.config:
            raise UserError("--dataset-config is for datasets of the hub; this one is a local path")
        files = tuple(file.resolve() for file in _files_of(path))
        return Source(label, files, None, [file_stamp(file) for file in files])
    hub_id = SHORT_NAMES.get(request.name, request.name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) or path.is_absolute() or hub_id[0] == ".":
        names = ", ".join(SHORT_NAMES)
        raise UserError(
            f"dataset {request.name!r} is no existing path; give a path, a hub id like "
            f"owner/name, or one of {names}"
        )
    return _from_memo(request, label, memo) or _from_hub(request, hub_id, label, memo)


# Objects


def _from_objects(
    request: DatasetRequest, label: str, memo: Path, on_progress: Progress | None
) -> Source:
    if request.config:
        raise UserError("--dataset-config is for datasets of the hub; this one is a URL")
    objects = list_objects(request.name)
    files = tuple(objects.copy(_files_of(objects.top), memo, on_progress))
    return Source(label, files, None, [file_stamp(file) for file in files])


# Local


def _files_of(path: Place) -> list[Place]:
    if path.is_file():
        if path.suffix not in (".parquet", ".arrow"):
            raise UserError(f"{path} is neither a .parquet nor an .arrow file")
        return [path]
    if (path / "dataset_dict.json").exists():
        splits = _read_json(path / "dataset_dict.json").get("splits", [])
        return _files_of(path / _choose_split(str(path), splits))
    if (path / "state.json").exists():
        state = _read_json(path / "state.json")
        files = [path / item["filename"] for item in state.get("_data_files", [])]
        missing = [file.name for file in files if not file.exists()]
        if missing or not files:
            raise UserError(
                f"dataset {path} is incomplete: {missing[0] if missing else 'files'} missing"
            )
        return files
    for suffix in ("parquet", "arrow"):
        files = sorted(
            file
            for file in path.rglob(f"*.{suffix}")
            if not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if files:
            return _one_split(path, files)
    raise UserError(
        f"{path} is no dataset: need a folder written by save_to_disk, or Parquet or Arrow files"
    )


def _one_split(path: Place, files: list[Place]) -> list[Place]:
    """Of files named after splits (train-00000-of-00002.parquet), those of one split."""
    by_split: dict[str, list[Place]] = {}
    for file in files:
        match = re.match(r"(train|test|validation|valid|val|dev)(?=[-_.])", file.name)
        by_split.setdefault(match[1] if match else "", []).append(file)
    return by_split[_choose_split(str(path), list(by_split))]


def _choose_split(name: str, splits: list[str]) -> str:
    if "train" in splits:
        return "train"
    if len(splits) == 1:
        return splits[0]
    raise UserError(f"dataset {name} has the splits {', '.join(splits)} and none is 'train'")


def _read_json(path: Place) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


# Hub


def _memo_path(request: DatasetRequest, memo: Path) -> Path:
    key = digest([request.name, request.config, request.revision])
    return memo / "sources" / f"{key}.json"


def _from_memo(request: DatasetRequest, label: str, memo: Path) -> Source | None:
    """The files found before, if the commit is pinned and they have not been touched since."""
    if request.revision is None:
        return None
    try:
        known = read_signed_json(_memo_path(request, memo))
        files = tuple(Path(stamp[0]) for stamp in known["stamps"])
        if [file_stamp(file) for file in files] == known["stamps"]:
            return Source(label, files, request.revision, known["stamps"])
    except (OSError, DamagedFileError):
        pass
    return None


def _from_hub(request: DatasetRequest, hub_id: str, label: str, memo: Path) -> Source:
    """Download through `datasets`, pinned to a commit; no code of the dataset is ever run."""
    from huggingface_hub import HfApi

    revision = request.revision
    if revision is None:
        try:
            revision = HfApi().dataset_info(hub_id, timeout=30).sha
        except Exception as error:
            # The client lets its HTTP library's own exceptions through, and changed library.
            raise _hub_error(hub_id, error) from error
    files = load_through_datasets(hub_id, request.config, revision)
    source = Source(label, files, revision, [file_stamp(file) for file in files])
    pinned = DatasetRequest(request.name, request.config, revision)
    write_json(_memo_path(pinned, memo), sign({"stamps": source.stamps}))
    return source


def load_through_datasets(
    path: str, config: str | None, revision: str | None = None
) -> tuple[Path, ...]:
    """Prepare a dataset with `datasets.load_dataset` and return its Arrow files.

    Arguments:
        path: a hub id, or whatever else `load_dataset` takes.

    Raises:
        UserError: it cannot be loaded; names the dataset and the reason.
    """
    import datasets

    try:
        splits = datasets.load_dataset(path, config, revision=revision)
    except Exception as error:
        # `datasets`, the hub client and fsspec raise dozens of types here; all of them mean
        # that this dataset cannot be had, and the user gets the first line of the reason.
        raise _hub_error(path, error) from error
    chosen = splits[_choose_split(path, list(splits))]
    return tuple(Path(item["filename"]) for item in chosen.cache_files)


def _hub_error(hub_id: str, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"cannot load dataset {hub_id!r} from the Hugging Face hub: {reason[:200]} "
        "(is there a network? private datasets need `hf auth login`)"
    )
