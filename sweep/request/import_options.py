"""What an import is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lorasweep.features.adapters.modules import LOKR_RANK
from lorasweep.features.common.errors import UserError

from .options import as_bool, as_int, as_number, as_text, option


@dataclass(frozen=True)
class ImportOptions:
    """How adapters become a dataset.

    Attributes:
        labels: where labels are from: "folder", "metadata:KEY", "header:KEY", or a table's path.
        min_coverage: share of the adapters that must have a layer for it to be kept.
        base: the base model whose adapters are wanted, where there are several.
        skip_bad_samples: leave damaged adapters out instead of refusing.
        lokr_rank: most singular values of a LoKr layer that are kept.
        checkpoints: which of a training's are read: "last", "all" or a step.
    """

    labels: str = option(
        "folder",
        as_text,
        "folder (the one above the adapter), metadata:KEY (of metadata.json beside it), header:KEY "
        "(of its safetensors header), or a .csv, .jsonl or .parquet file with a row per adapter.",
    )
    min_coverage: float = option(
        0.9,
        as_number,
        "Layers that a smaller share of the adapters has are dropped; those kept are zero where an "
        "adapter has none.",
    )
    base: str | None = option(
        None,
        as_text,
        "Base model whose adapters to import, where there are several; several, separated by "
        "commas; any.",
    )
    skip_bad_samples: bool = option(
        False, as_bool, "Leave damaged adapters out instead of refusing.", only_on=True
    )
    lokr_rank: int = option(LOKR_RANK, as_int, "Singular values kept of a LoKr layer.")

    checkpoints: str = option(
        "last",
        as_text,
        "Which of a training's checkpoints: last (its own adapter, or the highest number), all, or "
        "a step.",
    )

    def validate(self) -> None:
        """Raise a `UserError` for the first impossible value."""
        if not 0 <= self.min_coverage <= 1:
            raise UserError("--min-coverage must be from 0 to 1")
        if self.lokr_rank < 1:
            raise UserError("--lokr-rank must be at least 1")
        if self.checkpoints not in ("last", "all") and not self.checkpoints.isdecimal():
            raise UserError(
                f"--checkpoints {self.checkpoints!r}: need last, all or the number of a step"
            )


def check_places(folders: list[Path], out: Path | None) -> None:
    """Raise a `UserError` if one of the folders is none, or the one to make would be among its
    adapters; below a hidden folder it is not."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder")
        if out is None:
            continue
        place, own = out.resolve(), folder.resolve()
        if place.is_relative_to(own) and not any(
            part.startswith(".") for part in place.relative_to(own).parts
        ):
            raise UserError(f"{out} lies in {folder}, whose adapters are read: give another folder")
