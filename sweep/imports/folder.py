"""A folder of adapter files as a dataset: imported into the cache, once for the same files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from lorasweep.features.adapters.locations import is_dataset, walk_weights
from lorasweep.features.adapters.matrix import real_file
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import digest, file_stamp, require_folder
from lorasweep.features.formats.catalogue import PEFT
from lorasweep.sweep.request.import_options import ImportOptions
from lorasweep.sweep.request.spec import RuntimeOptions
from lorasweep.sweep.watch.terminal import Reporter

from .labels import metadata_places
from .plan import VERSION
from .run import RECORD, import_adapters

_KEYS = 4
"""Of the names of imports in the cache. Raised when some sets are written otherwise than before."""


def is_adapter_folder(place: Path) -> bool:
    """Whether a path is a folder of adapter files, and no dataset."""
    return place.is_dir() and not is_dataset(place) and next(walk_weights(place), None) is not None


def imported(
    folder: Path, wanted: ImportOptions, runtime: RuntimeOptions, reporter: Reporter
) -> Path:
    """The dataset of a folder's adapters, in the cache; made there if it is not yet.

    Raises:
        UserError: see `import_adapters`.
    """
    # Not resolved: what the hub downloads are links to files without a suffix.
    folder = Path(os.path.abspath(folder))
    stamps = [file_stamp(path) for path in _files(folder, wanted.labels)]
    texts = ["texts"] if Path(wanted.labels).suffix in (".csv", ".tsv") else []
    key = digest([VERSION, _KEYS, str(folder), stamps, asdict(wanted), *texts])
    out = runtime.cache_dir.absolute() / "imports" / key
    if not (out / RECORD).exists():
        require_folder(out.parent)
        reporter.say(f"{folder} has adapter files: importing them into {out}")
        try:
            import_adapters(
                [folder], out, wanted, replace(runtime, dashboard=False, name=None), reporter
            )
        except UserError as error:
            raise UserError(f"--dataset {folder}: {error}") from error
    return out


def _files(folder: Path, labels: str) -> Iterator[Path]:
    """Every file that an import reads, and that is there."""
    files = dict.fromkeys(real_file(weights) for weights in walk_weights(folder))
    for weights in files:
        yield weights
        beside = (weights.with_name(PEFT.config), *metadata_places(weights))
        yield from (path for path in beside if path.exists())
    if Path(labels).is_file():
        yield Path(labels)
