"""sweep.json: what is frozen in a run directory, what the last run asked for, and where it ran."""

from __future__ import annotations

import os
import platform
import re
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import (
    DamagedFileError,
    digest,
    read_signed_json,
    sign,
    write_json,
)
from lorasweep.features.common.plugins import Origin
from lorasweep.features.datasets.objects import is_url
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.datasets.sources import Source
from lorasweep.features.layers.families import without_count
from lorasweep.sweep.process.machine import usable_cores
from lorasweep.sweep.request.declared import Declared
from lorasweep.sweep.request.grid import Cell, Grid
from lorasweep.sweep.request.import_options import ImportOptions
from lorasweep.sweep.request.options import options_of
from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

from .rankings import Rankings, decided_tensors, deciding_trials, read_rankings

_SCHEMA = 2


@dataclass(frozen=True)
class SweepFile:
    """The content of sweep.json.

    Attributes:
        frozen: whatever decides every trial's number; never rewritten.
        grid: what the last run asked for.
        declared: what representations, layer configs and classifiers of this and earlier grids are,
            versions and settings among them; a trial's number depends on its own.
        environment: where and how it was asked; recorded, never compared.
        rankings: of layers, from a file of their own: they are made while a sweep runs.
    """

    frozen: dict[str, Any]
    grid: Grid
    declared: dict[str, dict[str, Any]]
    environment: dict[str, Any]
    rankings: Rankings = field(default_factory=dict)

    @property
    def fingerprints(self) -> dict[TrialKey, str]:
        """Every trial of the grid and the fingerprint of all that determines its result; "" where
        its layers are not decided yet."""
        return {key: self._fingerprint(key) for key in self.grid.keys}

    @cached_property
    def decided(self) -> dict[Cell, list[str]]:
        """(config, method) -> layer tensors, of `without_top:K` where the layers are ranked."""
        return decided_tensors(
            self.grid, self.declared["configs"], self.rankings, self.trials_digest
        )

    def trials_digest(self, method: str, seeds: Iterable[int]) -> str:
        """Digest of the fingerprints of a method's `each_layer` trials with some seeds."""
        first = self.grid.seeds[0]
        keys = [key for key in deciding_trials(self.grid, method) if key.seed == first]
        return digest([self._fingerprint(replace(k, seed=seed)) for k in keys for seed in seeds])

    def cell_digest(self, cell: Cell) -> str:
        """Digest of the fingerprints of a cell's trials: a model of others is not the cell's."""
        return digest([self._fingerprint(key) for key in self.grid.keys_of(cell)])

    def _fingerprint(self, key: TrialKey) -> str:
        decided = self.decided.get(key.cell) if without_count(key.config) else None
        if without_count(key.config) and decided is None:
            return ""
        decides = self.frozen["decides"]
        classifier = self.declared["classifiers"][key.classifier]
        common = {
            "frozen": {
                "dataset": decides["dataset"],
                "split": decides["split"],
                "hyperparameters": {**classifier["config"], "threads": decides["threads"]},
            },
            "trainer": classifier["version"],
        }
        parts = [
            common,
            key.identity(),
            self.declared["representations"][key.representation]["version"],
        ]
        config = self.declared["configs"][key.config]["version"]
        if config != "1":  # version 1 of the built-in ones dates from before they had any
            parts.append(config)
        if decided is not None:
            parts.append(decided)
        return digest(parts)

    def settings(self, classifier: str) -> dict[str, Any]:
        """What a classifier is set to, and the threads of a trial."""
        config = self.declared["classifiers"][classifier]["config"]
        return {**config, "threads": self.frozen["decides"]["threads"]}

    @property
    def config_regexes(self) -> dict[str, str]:
        """Those of the grid's layer configs that a regular expression was given for."""
        known = {name: self.declared["configs"][name] for name in self.grid.configs}
        return {name: item["regex"] for name, item in known.items() if "regex" in item}

    def spec(self) -> SweepSpec:
        """The spec that leads to this file again."""
        dataset = self.environment["dataset"]
        return SweepSpec(
            **dataset,
            pairs=tuple(
                (
                    self._reference("representations", entry.representation),
                    self._reference("classifiers", entry.classifier),
                )
                for entry in self.grid.entries
            ),
            configs=tuple(
                name if name not in self.grid.configs else self._reference("configs", name)
                for name in self.grid.asked_configs
            ),
            config_regex=tuple(f"{n}={regex}" for n, regex in self.config_regexes.items()),
            num_runs=len(self.grid.seeds),
            seed=self.grid.seeds[0],
            settings={
                name: self.declared["classifiers"][name]["config"] for name in self.grid.classifiers
            },
            threads=self.frozen["decides"]["threads"],
        )

    def _reference(self, kind: str, name: str) -> str:
        """What finds a thing again: a user's own by the copy of its source."""
        origin = self.declared[kind][name].get("origin")
        if origin is None:
            return name
        tail = "".join(re.findall(r"[:/].*", name)[:1])  # its size and transform
        return Origin.from_json(origin).reference + tail


def make_sweep_file(
    spec: SweepSpec,
    declared: Declared,
    source: Source,
    scan: DatasetScan,
    options: RuntimeOptions,
) -> SweepFile:
    """What sweep.json says for a spec.

    Raises:
        UserError: a layer config selects nothing.
    """
    local = source.revision is None and not is_url(spec.dataset)
    return SweepFile(
        frozen={
            "decides": {
                "dataset": scan.fingerprint,
                "split": declared.split.describe(),
                "threads": spec.threads,
            },
            "revision": source.revision,
            "num_samples": scan.num_samples,
            "skipped_samples": scan.bad_rows,
            "classes": scan.classes,
            **({} if spec.assume_scale is None else {"assumed_scale": spec.assume_scale}),
        },
        grid=declared.grid(scan, spec.seeds),
        declared=declared.to_json(scan),
        environment={
            "dataset": {
                **_data_options(spec),
                "dataset": str(Path(spec.dataset).absolute()) if local else spec.dataset,
            },
            "cache_dir": str(options.cache_dir.absolute()),
            "save_models": options.save_models,
            "layers": {
                name: len(declared.tensors_of(name, scan))
                for name in declared.configs
                if not without_count(name)
            },
            "numbers_per_sample": scan.numbers_per_sample,
            "command": sys.argv,
            "host": socket.gethostname(),
            "cores": usable_cores(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "packages": _versions(),
        },
    )


def _data_options(spec: SweepSpec) -> dict[str, Any]:
    """Return the options about data; how adapter files are imported only where it was said."""
    options = {name: o for name, (_, o) in options_of(SweepSpec).items() if o.about_data}
    imports = {"labels", "min_coverage", "base", "checkpoints"}
    given = {**{name: getattr(spec, name) for name in options}, "labels": spec.imports.labels}
    return {
        name: value
        for name, value in given.items()
        if name not in imports or value != getattr(ImportOptions, name)
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in ("lorasweep", "ray", "torch", "datasets", "numpy", "scipy", "pyarrow"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_sweep_file(run_dir: Path, sweep: SweepFile) -> SweepFile:
    """Write sweep.json, what it held of other grids included; refuse to change what is frozen.

    Returns:
        what was written.

    Raises:
        UserError: the run directory was made with another frozen part, or cannot be written.
    """
    sweep = continued(run_dir, sweep)
    path = RunDir(run_dir).sweep
    if not path.exists():
        for name in RunDir(run_dir).strangers():
            raise UserError(
                f"{run_dir} holds other things ({name}) and no {path.name}: choose another --name"
            )
    value = {
        "schema": _SCHEMA,
        "frozen": sweep.frozen,
        "grid": sweep.grid.to_json(),
        "declared": sweep.declared,
        "environment": sweep.environment,
    }
    write_json(path, sign(value))
    return sweep


def repair_sweep_file(run_dir: Path, warn: Callable[[str], None]) -> None:
    """Set a damaged sweep.json aside, to be written again.

    If what was frozen in it differs from what is asked now, the records' fingerprints tell.
    """
    path = RunDir(run_dir).sweep
    try:
        read_signed_json(path)
    except FileNotFoundError:
        return
    except DamagedFileError:
        os.replace(path, path.with_name(f"{path.name}.corrupt"))
        warn(f"{path.name} was damaged: set aside as *.corrupt and written again")


def pinned_revision(run_dir: Path) -> str | None:
    """The hub commit a run directory was made with, if it is one and has one."""
    try:
        return read_signed_json(RunDir(run_dir).sweep)["frozen"]["revision"]
    except (OSError, DamagedFileError, KeyError):
        return None


def read_sweep_file(run_dir: Path) -> SweepFile:
    """Read sweep.json.

    Raises:
        UserError: it is not there, damaged, or of a newer version.
    """
    path = RunDir(run_dir).sweep
    try:
        value = read_signed_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{run_dir} is no run directory: it has no {path.name}") from error
    except DamagedFileError as error:
        raise UserError(
            f"{error}; delete that file and give the original `lorasweep run` command again: "
            "finished trials are kept"
        ) from error
    if value["schema"] != _SCHEMA:
        age = "an older" if value["schema"] < _SCHEMA else "a newer"
        raise UserError(f"{path} was written by {age} version of lorasweep, which can read it")
    _find_copies(run_dir, value["declared"])
    grid = Grid.from_json(value["grid"])
    return SweepFile(
        value["frozen"], grid, value["declared"], value["environment"], read_rankings(run_dir)
    )


def _find_copies(run_dir: Path, declared: dict[str, dict[str, Any]]) -> None:
    """Point plug-ins at the run directory's own copies: it may have been moved."""
    for item in (item for kind in declared.values() for item in kind.values()):
        copy = RunDir(run_dir).plugins / (item.get("origin") or {}).get("digest", "")
        if item.get("origin") and copy.is_dir():
            item["origin"] = {**item["origin"], "root": str(copy)}


def continued(run_dir: Path, sweep: SweepFile) -> SweepFile:
    """What sweep.json will say if a run directory goes on with this: settings as they are frozen
    there, and what it knows of other grids.

    Raises:
        UserError: the run directory was made otherwise; names the first difference.
    """
    sweep = replace(sweep, rankings=read_rankings(run_dir))
    if not RunDir(run_dir).sweep.exists():
        return sweep
    before = read_sweep_file(run_dir)
    for name, old, new in _differences(before.frozen, sweep.frozen):
        _refuse(run_dir, name, old, new)
    declared = {kind: {**before.declared[kind], **now} for kind, now in sweep.declared.items()}
    for name, known in before.declared["classifiers"].items():
        now = sweep.declared["classifiers"].get(name)
        if now is None:
            continue
        # A setting that was added since has its default; old fingerprints are without it.
        for setting, value in now["config"].items():
            old = known["config"].get(setting, now["defaults"].get(setting))
            if old != value:
                _refuse(run_dir, f"{name}.{setting}", old, value)
        declared["classifiers"][name] = {**now, "config": known["config"]}
    return replace(sweep, declared=declared)


def _refuse(run_dir: Path, name: str, before: Any, now: Any) -> NoReturn:
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
