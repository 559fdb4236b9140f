"""What a sweep is asked to do, and how it is run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.core.errors import UserError
from features.layer_configs import DEFAULT_CONFIGS
from features.representations import DEFAULT_REPRESENTATIONS
from features.sources import DatasetRequest, dataset_label
from trainables.record import DEFAULT_CLASSIFIER

from .trackers import check_tracker

QUICK_RUNS = 3


@dataclass(frozen=True)
class SweepSpec:
    """The experiment: a dataset, a grid and the classifiers' settings.

    Attributes:
        dataset: short name, hub id or local path.
        dataset_config: a hub dataset's configuration.
        label_column: column of strings or integers to predict.
        lora_rank: rank of layer tensors stored as flat lists; None reads them as 1×N.
        skip_bad_samples: leave adapters with NaN or infinite weights out instead of refusing.
        representations: references (see `get_representation`) or `GROUPS` of them, in the order
            results list them.
        configs: references of layer configs.
        classifiers: references of classifiers; every representation is seen by each.
        pairs: (representation, classifier) references, instead of that product.
        num_runs: seeds per (config, representation, classifier).
        seed: the first seed; the others follow it.
        settings: classifier name -> its settings that differ from the defaults.
        threads: CPU threads of one trial; another number gives other rounding.
    """

    dataset: str
    dataset_config: str | None = None
    label_column: str = "category_label"
    lora_rank: int | None = None
    skip_bad_samples: bool = False
    representations: tuple[str, ...] = DEFAULT_REPRESENTATIONS
    configs: tuple[str, ...] = DEFAULT_CONFIGS
    classifiers: tuple[str, ...] = (DEFAULT_CLASSIFIER,)
    pairs: tuple[tuple[str, str], ...] | None = None
    num_runs: int = 10
    seed: int = 42
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    threads: int = 1

    def validate(self) -> None:
        """Raise a `UserError` for the first impossible value."""
        if self.num_runs < 1:
            raise UserError("--num-runs must be at least 1")
        if not 0 <= self.seed <= 2**63 - 1 - self.num_runs:
            raise UserError("--seed must be a non-negative 63-bit integer")
        if self.lora_rank is not None and self.lora_rank < 1:
            raise UserError("--lora-rank must be at least 1")
        if self.threads < 1:
            raise UserError("--threads must be at least 1")
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
        address: a Ray cluster to join; None: start Ray on this machine.
        dashboard: start the Ray dashboard (on loopback).
        max_failures: how often a trial is tried again before it counts as failed.
        log_to: the experiment tracker that is told of every trial; one of `TRACKERS`.
        verbose: show what Ray and Tune say.
        verify: read the whole dataset again even if its files look unchanged.
    """

    output_dir: Path = Path("ray_results")
    name: str | None = None
    cache_features: bool = True
    cache_dir: Path = Path(".feature_cache")
    gpus_per_trial: float | None = None
    cpus_per_trial: int = 1
    max_concurrent: int | None = None
    address: str | None = None
    dashboard: bool = True
    max_failures: int = 3
    log_to: str = "tensorboard"
    verbose: bool = False
    verify: bool = False

    def validate(self) -> None:
        """Raise a `UserError` for the first impossible value."""
        if self.name is not None and (not self.name or Path(self.name).name != self.name):
            raise UserError(f"--name {self.name!r} must be a plain folder name")
        check_tracker(self.log_to)
        if self.cpus_per_trial < 1:
            raise UserError("--cpus-per-trial must be at least 1")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise UserError("--max-concurrent must be at least 1")
        if self.max_failures < 0:
            raise UserError("--max-failures must not be negative")
        gpus = self.gpus_per_trial
        if gpus is not None and not (math.isfinite(gpus) and gpus >= 0):
            raise UserError("--gpus-per-trial must be 'auto' or a number, not negative")
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise UserError("--gpus-per-trial above 1 must be a whole number")

    def run_dir(self, dataset: str) -> Path:
        """The run directory for a dataset, absolute."""
        return (self.output_dir / (self.name or dataset_label(dataset))).absolute()
