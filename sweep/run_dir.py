"""sweep.json: what is frozen in a run directory, what the last run asked for, and where it ran."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from features.core.errors import UserError
from features.core.files import DamagedFileError, digest, read_signed_json, sign, write_json
from features.layers import select_layers
from features.representations import REPRESENTATIONS, get_representations
from features.scan import DatasetScan
from features.sources import Source
from trainables.hyperparameters import TRAINER_VERSION, Hyperparameters
from trainables.record import TrialKey
from trainables.splits import SPLIT_RULE

from .spec import SweepSpec

_SCHEMA = 1
_FILE = "sweep.json"
_LABELS = "labels.json"
_OWN = {
    "logs",
    "driver.lock",
    f"{_FILE}.corrupt",
    "checkpoints",
    "failures",
    "inflight",
    "tune",
    "features.tmp",
    "trackers",
    "report",
    _LABELS,
}
_OWN |= {"events", "summary.json", "results.json", "results.txt", "results.parquet"}
"""What a run directory without a sweep.json may hold and still be one."""


@dataclass(frozen=True)
class Grid:
    """Every (representation, config, seed) that is asked for."""

    representations: tuple[str, ...]
    configs: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(config, representation), configs outermost."""
        return [(config, name) for config in self.configs for name in self.representations]

    @property
    def keys(self) -> list[TrialKey]:
        """Every trial, seeds innermost, so that a worker's next trial can reuse its matrix."""
        return [TrialKey(*pair, seed) for pair in self.pairs for seed in self.seeds]


@dataclass(frozen=True)
class SweepFile:
    """The content of sweep.json.

    Attributes:
        frozen: whatever decides a trial's number; never rewritten.
        grid: what the last run asked for.
        environment: where and how it was asked; recorded, never compared.
    """

    frozen: dict[str, Any]
    grid: Grid
    environment: dict[str, Any]

    @property
    def fingerprints(self) -> dict[TrialKey, str]:
        """Every trial of the grid and the fingerprint of all that determines its result."""
        common = {"frozen": self.frozen["decides"], "trainer": TRAINER_VERSION}
        versions = {r.name: r.version for r in get_representations(self.grid.representations)}
        return {
            key: digest([common, key.to_json(), versions[key.representation]])
            for key in self.grid.keys
        }

    @property
    def hyper(self) -> Hyperparameters:
        """The frozen hyperparameters."""
        return Hyperparameters(**self.frozen["decides"]["hyperparameters"])

    def spec(self) -> SweepSpec:
        """The spec that leads to this file again."""
        dataset = self.environment["dataset"]
        return SweepSpec(
            **dataset,
            representations=self.grid.representations,
            configs=self.grid.configs,
            num_runs=len(self.grid.seeds),
            seed=self.grid.seeds[0],
            hyper=self.hyper,
        )


def make_sweep_file(
    spec: SweepSpec, source: Source, scan: DatasetScan, cache_dir: Path
) -> SweepFile:
    """What sweep.json says for a spec.

    Raises:
        UserError: a layer config selects nothing.
    """
    local = source.revision is None
    return SweepFile(
        frozen={
            "decides": {
                "dataset": scan.fingerprint,
                "split": SPLIT_RULE,
                "hyperparameters": spec.hyper.to_json(),
            },
            "revision": source.revision,
            "num_samples": scan.num_samples,
            "skipped_samples": scan.bad_rows,
            "classes": scan.classes,
        },
        grid=Grid(spec.representations, spec.configs, tuple(spec.seeds)),
        environment={
            "dataset": {
                "dataset": str(Path(spec.dataset).absolute()) if local else spec.dataset,
                "dataset_config": spec.dataset_config,
                "label_column": spec.label_column,
                "lora_rank": spec.lora_rank,
                "skip_bad_samples": spec.skip_bad_samples,
            },
            "cache_dir": str(cache_dir.absolute()),
            "layers": {c: len(select_layers(c, scan.layers)) for c in spec.configs},
            "numbers_per_sample": scan.numbers_per_sample,
            "command": sys.argv,
            "host": socket.gethostname(),
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "packages": _versions(),
        },
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in ("lorasweep", "ray", "torch", "datasets", "numpy", "scipy", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_sweep_file(run_dir: Path, sweep: SweepFile) -> None:
    """Write sweep.json; refuse to change what is frozen.

    Raises:
        UserError: the run directory was made with another frozen part, or cannot be written.
    """
    check_frozen(run_dir, sweep)
    strange = [p for p in run_dir.iterdir() if p.name not in _OWN and p.name[0] != "."]
    if strange and not (run_dir / _FILE).exists():
        raise UserError(
            f"{run_dir} holds other things ({strange[0].name}) and no {_FILE}: "
            "choose another --name"
        )
    value = {
        "schema": _SCHEMA,
        "frozen": sweep.frozen,
        "grid": {name: list(items) for name, items in asdict(sweep.grid).items()},
        "environment": sweep.environment,
    }
    write_json(run_dir / _FILE, sign(value))


def write_labels(run_dir: Path, labels: list[int]) -> None:
    """Write the class index of every sample, for whoever evaluates records without the dataset."""
    try:
        if read_labels(run_dir) == labels:
            return
    except UserError:
        pass  # there is none yet, or it is damaged
    write_json(run_dir / _LABELS, sign({"schema": _SCHEMA, "labels": labels}), indent=None)


def read_labels(run_dir: Path) -> list[int]:
    """The class index of every sample, in the dataset's order.

    Raises:
        UserError: labels.json is not there or damaged.
    """
    try:
        return read_signed_json(run_dir / _LABELS)["labels"]
    except (OSError, DamagedFileError) as error:
        raise UserError(
            f"{run_dir} has no readable {_LABELS}: give the original `lorasweep run` command "
            "again to have it written; nothing is trained twice"
        ) from error


def repair_sweep_file(run_dir: Path, warn: Callable[[str], None]) -> None:
    """Set a damaged sweep.json aside, to be written again.

    If what was frozen in it differs from what is asked now, the records' fingerprints tell.
    """
    path = run_dir / _FILE
    try:
        read_signed_json(path)
    except FileNotFoundError:
        return
    except DamagedFileError:
        os.replace(path, path.with_name(f"{_FILE}.corrupt"))
        warn(f"{_FILE} was damaged: set aside as *.corrupt and written again")


def pinned_revision(run_dir: Path) -> str | None:
    """The hub commit a run directory was made with, if it is one and has one."""
    try:
        return read_signed_json(run_dir / _FILE)["frozen"]["revision"]
    except (OSError, DamagedFileError, KeyError):
        return None


def read_sweep_file(run_dir: Path) -> SweepFile:
    """Read sweep.json.

    Raises:
        UserError: it is not there, damaged, or of a newer version.
    """
    path = run_dir / _FILE
    try:
        value = read_signed_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{run_dir} is no run directory: it has no {_FILE}") from error
    except DamagedFileError as error:
        raise UserError(
            f"{error}; delete that file and give the original `lorasweep run` command again: "
            "finished trials are kept"
        ) from error
    if value["schema"] != _SCHEMA:
        raise UserError(f"{path} was written by another version of lorasweep")
    grid = Grid(**{name: tuple(items) for name, items in value["grid"].items()})
    unknown = [name for name in grid.representations if name not in REPRESENTATIONS]
    if unknown:
        raise UserError(f"{path} asks for representation {unknown[0]!r}, which does not exist here")
    return SweepFile(value["frozen"], grid, value["environment"])


def check_frozen(run_dir: Path, sweep: SweepFile) -> None:
    """Raise a `UserError` naming the first difference if a run directory was made otherwise."""
    if not (run_dir / _FILE).exists():
        return
    for name, before, now in _differences(read_sweep_file(run_dir).frozen, sweep.frozen):
        raise UserError(
            f"{run_dir} was made with {name} {before!r}, this run has {now!r}: "
            "give it another --name, or delete that folder"
        )


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted name, old, new) of every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in sorted(old.keys() | new.keys())
            for difference in _differences(
                old.get(key), new.get(key), key if name in ("", "decides") else f"{name}.{key}"
            )
        ]
    return [] if old == new else [(name, old, new)]
