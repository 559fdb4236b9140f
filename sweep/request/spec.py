"""What a sweep is asked to do, and how it is run."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.sources import DatasetRequest, dataset_label
from lorasweep.features.layers.configs import CONFIG_NAMES, DEFAULT_CONFIGS, parse_regexes
from lorasweep.features.representations import DEFAULT_REPRESENTATIONS, GROUPS, REPRESENTATIONS
from lorasweep.sweep.trackers import TRACKERS, check_tracker
from lorasweep.trainables.classifiers.catalogue import CLASSIFIERS
from lorasweep.trainables.store.trial_key import DEFAULT_CLASSIFIER

from .import_options import ImportOptions
from .options import (
    as_bool,
    as_gpus,
    as_int,
    as_names,
    as_number,
    as_pairs,
    as_path,
    as_text,
    as_texts,
    option,
)

QUICK_RUNS = 3
QUICK_ANSWER = (
    ("ensemble", "mlp"),
    ("update_spectrum", "boosting"),
    ("channel_norms:64", "linear"),
    ("update_sketch:128", "linear"),
    ("update_pca:256", "linear"),
)
"""The pairs that decide most: the original's best, and what keeps more and more of the update."""

BEST, ALL, NONE = MODES = ("best", "all", "none")
"""Which models are kept: of every layer config that is of no family the best pair by validation; of
every pair; none."""

SPLITS = ("fixed", "per-seed", "stratified", "kfold:K", "leave-out:COLUMN")
LEAVE_OUT = "leave-out:"
_KFOLD = re.compile(r"kfold:([0-9]{1,6})")


@dataclass(frozen=True)
class SweepSpec:
    """The experiment: a dataset, a grid and the classifiers' settings.

    Attributes:
        dataset: short name, hub id, local path or URL of object storage; or a folder of adapter
            files.
        dataset_config: a hub dataset's configuration.
        labels, min_coverage, base, checkpoints: of a folder of adapter files, see `ImportOptions`.
        label_column: column of strings or integers to predict.
        lora_rank: rank of layer tensors stored as flat lists; None reads them as 1×N.
        assume_scale: 1: the updates of a dataset without scales are B·A as it stores them, so that
            adapters with an α of their own can be judged; None: that is not known.
        skip_bad_samples: leave adapters with NaN or infinite weights out instead of refusing.
        representations: references (see `get_representation`) or `GROUPS` of them, in the order
            results list them.
        configs: references of layer configs; None: those of the default ones that the dataset has.
        config_regex: layer configs of the spec's own, NAME=REGEX: a regular expression searched for
            in canonical names of layers; those that `configs` does not name come after them.
        classifiers: references of classifiers; every representation is seen by each.
        pairs: (representation, classifier) references, instead of that product.
        split: "fixed": all seeds share one; "per-seed": a trial's seed decides its split, too;
            "stratified": all seeds share one, in which every class has its share of each part;
            "kfold:K": a seed draws K folds, each tested once; "leave-out:COLUMN": the adapters of
            each value of a column are tested once.
        group_column: a column whose equal values stay on one side of the split; beside
            `split_column` it says which adapters are alike, for the report's tests.
        split_column: a column that says train, val or test; instead of chance.
        num_runs: seeds per (config, representation, classifier).
        seed: the first seed; the others follow it.
        settings: classifier name -> its settings that differ from the defaults.
        threads: CPU threads of one trial; another number gives other rounding.
    """

    dataset: str = option(
        "",
        as_text,
        "Local dataset (save_to_disk folder, Parquet or Arrow file or folder of them), the same at "
        "an s3:// or gs:// URL, folder of adapter files, hub id, or one of 1k, 10k, 50k, 100k, "
        "small, sanity-check.",
        shown_default="",
        about_data=True,
    )
    dataset_config: str | None = option(
        None, as_text, "Configuration of a hub dataset that has several.", about_data=True
    )
    labels: str = option(
        ImportOptions.labels,
        as_text,
        "Labels of a folder of adapter files, as for data import.",
        about_data=True,
    )
    min_coverage: float = option(
        ImportOptions.min_coverage,
        as_number,
        "Share of a folder's adapters that must have a layer, as for data import.",
        about_data=True,
    )
    base: str | None = option(
        ImportOptions.base,
        as_text,
        "Base model of a folder's adapters, as for data import.",
        about_data=True,
    )
    checkpoints: str = option(
        ImportOptions.checkpoints,
        as_text,
        "Checkpoints of a folder's trainings, as for data import.",
        about_data=True,
    )
    label_column: str = option(
        "category_label", as_text, "Column to predict: strings or integers.", about_data=True
    )
    lora_rank: int | None = option(
        None, as_int, "Rank of layer tensors stored as flat lists (else 1×N).", about_data=True
    )
    assume_scale: int | None = option(
        None,
        as_int,
        "1: the dataset has no scales, and its updates are B·A as stored; predict then judges "
        "adapters of any α.",
        about_data=True,
    )
    skip_bad_samples: bool = option(
        False, as_bool, "Leave adapters with NaN or infinity out.", only_on=True, about_data=True
    )
    representations: tuple[str, ...] = option(
        DEFAULT_REPRESENTATIONS,
        as_names,
        "Comma-separated. Also 'update' (those of whole layers), 'all', NAME:SIZE, "
        "package.module:object, path/to/file.py:object.",
        shown_default="nine",
        known=lambda: [*REPRESENTATIONS, *GROUPS],
    )
    configs: tuple[str, ...] | None = option(
        None,
        as_names,
        "Comma-separated layer configs and families of them.",
        shown_default=f"{' and '.join(DEFAULT_CONFIGS)}, where the dataset has them",
        known=lambda: CONFIG_NAMES,
    )
    config_regex: tuple[str, ...] = option(
        (),
        as_texts,
        "NAME=REGEX: one more layer config, of the layers in whose canonical name the regular "
        "expression is found; repeatable.",
    )
    classifiers: tuple[str, ...] = option(
        (DEFAULT_CLASSIFIER,),
        as_names,
        f"Comma-separated: {', '.join(CLASSIFIERS)}, package.module:object, "
        "path/to/file.py:object.",
        known=CLASSIFIERS.keys,
    )
    pairs: tuple[tuple[str, str], ...] | None = option(
        None,
        as_pairs,
        "Comma-separated REPRESENTATION:CLASSIFIER, instead of all combinations of both.",
    )
    split: str = option(
        "fixed",
        as_text,
        "fixed: one split for all seeds; per-seed: every seed splits the adapters anew, so that "
        "the spread is over datasets, too; stratified: one split, classes balanced; kfold:K: every "
        "adapter is tested once a seed; leave-out:COLUMN: each value of a column is tested once.",
        known=lambda: SPLITS,
        about_data=True,
    )
    group_column: str | None = option(
        None, as_text, "Column whose equal values stay on one side of the split.", about_data=True
    )
    split_column: str | None = option(
        None, as_text, "Column that says train, val or test of every adapter.", about_data=True
    )
    num_runs: int = option(10, as_int, "Seeds per representation and config.")
    seed: int = option(42, as_int, "The first seed.")
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    threads: int = option(1, as_int, "CPU threads of one trial; part of a result.")

    def validate(self) -> None:
        """Raise a `UserError` for the first impossible value."""
        if not self.dataset:
            raise UserError("no dataset given: name one with --dataset, or in a sweep file")
        if self.num_runs < 1:
            raise UserError("--num-runs must be at least 1")
        if not 0 <= self.seed <= 2**63 - 1 - self.num_runs:
            raise UserError("--seed must be a non-negative 63-bit integer")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise UserError("--lora-rank must be at least 1")
        if self.assume_scale not in (None, 1):
            raise UserError("--assume-scale must be 1: updates are B·A as the dataset stores them")
        if not (
            self.split in SPLITS[:3]
            or number_of_folds(self.split)
            or self.split.removeprefix(LEAVE_OUT) not in ("", self.split)
        ):
            raise UserError(
                f"--split {self.split!r}: need {', '.join(SPLITS[:-1])} or {SPLITS[-1]}"
            )
        if self.split_column is not None and self.split != "fixed":
            raise UserError(f"--split-column says it all: leave --split {self.split} out")
        if self.group_column is not None and self.split == "stratified":
            raise UserError("--split stratified goes without --group-column: groups stay whole")
        if self.threads < 1:
            raise UserError("--threads must be at least 1")
        parse_regexes(self.config_regex)  # refuses what is none
        if self.pairs is not None:
            if not self.pairs:
                raise UserError("--pairs names no pair")
            both = self.representations, self.classifiers
            if both != (DEFAULT_REPRESENTATIONS, (DEFAULT_CLASSIFIER,)):
                raise UserError("--pairs goes without --representations and --classifiers")

    @property
    def seeds(self) -> list[int]:
        """The seeds of every pair, ascending."""
        return list(range(self.seed, self.seed + self.num_runs))

    @property
    def request(self) -> DatasetRequest:
        """The dataset to find."""
        return DatasetRequest(self.dataset, self.dataset_config)

    @property
    def imports(self) -> ImportOptions:
        """How a folder of adapter files becomes a dataset; a table of labels has its whole path."""
        table = Path(self.labels)
        return ImportOptions(
            labels=str(table.absolute()) if table.is_file() else self.labels,
            min_coverage=self.min_coverage,
            base=self.base,
            checkpoints=self.checkpoints,
            skip_bad_samples=self.skip_bad_samples,
        )


@dataclass(frozen=True)
class RuntimeOptions:
    """How a sweep is run; nothing here changes a number.

    Attributes:
        output_dir: where run directories are made.
        name: the run directory's name; None: the dataset's short name or last path component.
        cache_features: keep the feature cache for later runs.
        cache_dir: root of the feature cache and of memos about datasets.
        gpus_per_trial: GPUs (or a fraction of one) per trial; None: automatic.
        cpus_per_trial: CPU cores per trial.
        max_concurrent: at most this many trials at once; None: as many as fit.
        address: a Ray cluster to join, or "local" for a Ray of this machine; None: see `cluster`.
        cluster_wait: seconds to wait for a cluster's nodes, for a cluster that died, or, in a job
            that may have been started over, for its predecessor to end.
        dashboard: start the Ray dashboard (on loopback).
        any_device: do trials on whatever there is, also if the run's earlier ones were done on
            another kind of device or processor.
        max_failures: how often a trial that gets no further is tried again.
        tune_restore: restore the newest Tune experiment where it fits, which unpickles what lies in
            the run directory; else start a new one for what remains.
        log_to: the experiment tracker that is told of every trial; one of `TRACKERS`.
        save_models: of which pairs a model is kept; one of `MODES`.
        verbose: show what Ray and Tune say.
        verify: read the whole dataset again even if its files look unchanged.
    """

    output_dir: Path = option(Path("ray_results"), as_path, "Where run directories are.")
    name: str | None = option(None, as_text, "Run directory's name; by default the dataset's.")
    cache_features: bool = option(True, as_bool, "Keep computed features for later runs.")
    cache_dir: Path = option(Path(".feature_cache"), as_path, "Root of the feature cache.")
    gpus_per_trial: float | None = option(
        None,
        as_gpus,
        "GPUs per trial, a fraction to share one, or 'auto'.",
        show=lambda value: "auto" if value is None else f"{value:g}",
    )
    cpus_per_trial: int = option(1, as_int, "CPU cores per trial.")
    max_concurrent: int | None = option(None, as_int, "At most this many trials at once.")
    address: str | None = option(
        None,
        as_text,
        "Ray cluster to join, or 'local'.",
        shown_default="inside a Ray job its cluster, else local: Ray starts on this machine",
    )
    cluster_wait: int = option(
        600, as_int, "Seconds to wait for a cluster's nodes, or for a cluster that died."
    )
    dashboard: bool = option(True, as_bool, "Start the Ray dashboard, on loopback.")
    any_device: bool = option(
        False,
        as_bool,
        "Let trials run on another kind of device or processor than the run's earlier ones.",
        only_on=True,
    )
    max_failures: int = option(
        3, as_int, "Retries of a trial that gets no further before it counts as failed."
    )
    tune_restore: bool = option(
        True, as_bool, "Restore Tune's experiment, which unpickles it, or start a new one."
    )
    log_to: str = option(
        "tensorboard",
        as_text,
        f"Experiment tracker: {', '.join(TRACKERS)}.",
        known=TRACKERS.keys,
    )
    save_models: str = option(
        BEST,
        as_text,
        "Models to keep for `lorasweep predict`: best (of every layer config the best pair by "
        "validation, trained once more), all, none.",
        known=lambda: MODES,
    )
    verbose: bool = option(False, as_bool, "Show what Ray and Tune say.", only_on=True)
    verify: bool = option(
        False, as_bool, "Read the whole dataset again even if it looks unchanged.", only_on=True
    )

    def validate(self) -> None:
        """Raise a `UserError` for the first impossible value."""
        for flag, path in (("--output-dir", self.output_dir), ("--cache-dir", self.cache_dir)):
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):  # `Path` makes one slash of two
                url = re.sub(":/+", "://", str(path), count=1)
                raise UserError(
                    f"{flag} {url!r} is a URL; run directories and caches need a file system "
                    "(docs/clusters.md says why)"
                )
        if self.name is not None and (not self.name or Path(self.name).name != self.name):
            raise UserError(f"--name {self.name!r} must be a plain folder name")
        check_tracker(self.log_to)
        if self.save_models not in MODES:
            raise UserError(f"--save-models {self.save_models!r}: need {', '.join(MODES)}")
        if self.cpus_per_trial < 1:
            raise UserError("--cpus-per-trial must be at least 1")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise UserError("--max-concurrent must be at least 1")
        if self.cluster_wait < 0:
            raise UserError("--cluster-wait must not be negative")
        if self.max_failures < 0:
            raise UserError("--max-failures must not be negative")
        gpus = self.gpus_per_trial
        if gpus is not None and not (math.isfinite(gpus) and gpus >= 0):
            raise UserError("--gpus-per-trial must be 'auto' or a number, not negative")
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise UserError("--gpus-per-trial above 1 must be a whole number")

    @property
    def cluster(self) -> str | None:
        """Address of the Ray cluster to join: `address`, else that of the job this process is in;
        None: start Ray on this machine."""
        address = self.address or os.environ.get("RAY_ADDRESS")
        # Where jobs are submitted from, RAY_ADDRESS is the dashboard's.
        if address == "local" or (not self.address and (address or "").startswith("http")):
            return None
        return address or None

    @property
    def may_follow(self) -> bool:
        """Whether this may be a job that is started over: a Ray job, whose cluster is joined, or
        one that SLURM has queued again."""
        in_ray_job = bool(self.cluster) and not self.address
        return in_ray_job or os.environ.get("SLURM_RESTART_COUNT", "0") != "0"

    def run_dir(self, dataset: str) -> Path:
        """The run directory for a dataset, absolute."""
        return (self.output_dir / (self.name or dataset_label(dataset))).absolute()


Settings = dict[str, dict[str, Any]]
"""Classifier -> setting -> value."""


def assigned(texts: Sequence[str]) -> Settings:
    """Settings written as CLASSIFIER.SETTING=VALUE.

    Raises:
        UserError: one is not.
    """
    settings: Settings = {}
    for written in texts:
        name, equals, value = written.partition("=")
        classifier, dot, setting = name.partition(".")
        if not (equals and dot and setting):
            raise UserError(f"--set {written!r}: need CLASSIFIER.SETTING=VALUE")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        settings.setdefault(classifier, {})[setting] = parsed
    return settings


def merged(*several: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Settings of several sources; of the same one the last counts."""
    settings: Settings = {}
    for given in several:
        for classifier, values in given.items():
            settings.setdefault(classifier, {}).update(values)
    return settings


def number_of_folds(option: str) -> int | None:
    """Return the K of `kfold:K`; None if the option is another one.

    Raises:
        UserError: K is none, or 1.
    """
    if option.partition(":")[0] != "kfold":
        return None
    match = _KFOLD.fullmatch(option)
    if match is None or int(match[1]) < 2:
        raise UserError(f"--split {option}: kfold:K needs a number of folds, 2 or more")
    return int(match[1])
