"""labels.json: class and split of every sample, for whoever evaluates records without the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import DamagedFileError, read_signed_json, sign, write_json
from lorasweep.trainables.data.splits import BY_CHANCE, SplitRule
from lorasweep.trainables.store.run_dir import RunDir

_SCHEMA = 1


@dataclass(frozen=True)
class Labels:
    """What the samples are, in the dataset's order.

    Attributes:
        classes: (n_samples,) class indices.
        split: how they are split.
    """

    classes: list[int]
    split: SplitRule


def write_labels(run_dir: Path, labels: Labels) -> None:
    """Write them, unless they are there."""
    try:
        if read_labels(run_dir) == labels:
            return
    except UserError:
        pass  # there is none yet, or it is damaged
    content = {"schema": _SCHEMA, "labels": labels.classes}
    if labels.split != BY_CHANCE:
        content["split"] = labels.split.to_json()
    write_json(RunDir(run_dir).labels, sign(content), indent=None)


def read_labels(run_dir: Path) -> Labels:
    """Read them.

    Raises:
        UserError: labels.json is not there or damaged.
    """
    path = RunDir(run_dir).labels
    try:
        value = read_signed_json(path)
    except (OSError, DamagedFileError) as error:
        raise UserError(
            f"{run_dir} has no readable {path.name}: give the original `lorasweep run` command "
            "again to have it written; nothing is trained twice"
        ) from error
    split = SplitRule.from_json(value["split"]) if "split" in value else BY_CHANCE
    return Labels(value["labels"], split)
