"""Where everything lies in a run directory. Nobody else spells a path in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lorasweep.features.common.files import path_name

if TYPE_CHECKING:
    from .trial_key import TrialKey


@dataclass(frozen=True)
class RunDir:
    """A run directory.

    Attributes:
        path: the folder itself.
    """

    path: Path

    # Of a trial

    def record(self, key: TrialKey) -> Path:
        """The record of a finished trial."""
        return self.path / "checkpoints" / f"{key.path}.json"

    def failure(self, key: TrialKey) -> Path:
        """Why a trial failed after its retries."""
        return self.path / "failures" / f"{key.path}.json"

    def state(self, key: TrialKey) -> Path:
        """The state of a trial that is still training."""
        return self.path / "inflight" / f"{key.path}.safetensors"

    def fit(self, key: TrialKey) -> Path:
        """A finished fit that models may be made of."""
        return self.fits / f"{key.path}.safetensors"

    def records(self) -> list[Path]:
        """Every record there is, of whatever grid."""
        return list((self.path / "checkpoints").rglob("seed-*.json"))

    # Of the run

    @property
    def fits(self) -> Path:
        """Folder of finished fits; only until models are made."""
        return self.path / "fits"

    @property
    def sweep(self) -> Path:
        """What is frozen, what the last run asked for, where it ran."""
        return self.path / "sweep.json"

    @property
    def labels(self) -> Path:
        """The class index of every adapter."""
        return self.path / "labels.json"

    @property
    def layer_rankings(self) -> Path:
        """What decides the layers of `without_top:K`."""
        return self.path / "layer_rankings.json"

    @property
    def adapter_maps(self) -> Path:
        """Every adapter's first principal components."""
        return self.path / "adapter_maps.json"

    @property
    def models(self) -> Path:
        """Folder of models to keep."""
        return self.path / "models"

    def model(self, config: str, method: str) -> Path:
        """A cell's model; in the folder of an export, too."""
        return self.models / path_name(config) / f"{path_name(method)}.safetensors"

    def no_model(self, config: str, method: str) -> Path:
        """Why a cell has no model though one was wanted."""
        return self.model(config, method).with_suffix(".json")

    @property
    def summary(self) -> Path:
        """Of the latest invocation that ended, in trials."""
        return self.path / "summary.json"

    def results(self, suffix: str) -> Path:
        """results.json, .txt or .parquet."""
        return self.path / f"results.{suffix}"

    @property
    def lock(self) -> Path:
        """Which driver holds the run directory."""
        return self.path / "driver.lock"

    @property
    def events(self) -> Path:
        """Folder of event logs."""
        return self.path / "events"

    @property
    def tune(self) -> Path:
        """Folder of Ray Tune's experiments."""
        return self.path / "tune"

    @property
    def plugins(self) -> Path:
        """Copies of what users brought themselves."""
        return self.path / "plugins"

    @property
    def features(self) -> Path:
        """Features that are not kept."""
        return self.path / "features.tmp"

    @property
    def logs(self) -> Path:
        """What Ray, Ray Data and Tune said."""
        return self.path / "logs"

    @property
    def trackers(self) -> Path:
        """What experiment trackers were told."""
        return self.path / "trackers"

    @property
    def report(self) -> Path:
        """The report, unless it is asked for elsewhere."""
        return self.path / "report"

    @property
    def metrics_targets(self) -> Path:
        """Where a running sweep's metrics are, for Prometheus' file_sd_configs.

        Prometheus finds files by patterns, but folders only by name: it lies beside the folder.
        """
        return self.path.with_name(f"{self.path.name}.metrics.json")

    def strangers(self) -> list[str]:
        """What lies in it and is not ours, hidden files aside."""
        own = {path.name for path in (self.sweep, self.labels, self.summary, self.lock)}
        own |= {path.name for path in (self.events, self.tune, self.plugins, self.features)}
        own |= {self.layer_rankings.name, self.adapter_maps.name, self.models.name}
        own |= {path.name for path in (self.logs, self.trackers, self.report)}
        own |= {self.results(suffix).name for suffix in ("json", "txt", "parquet")}
        own |= {"checkpoints", "failures", "inflight", self.fits.name, f"{self.sweep.name}.corrupt"}
        return sorted(p.name for p in self.path.iterdir() if p.name not in own and p.name[0] != ".")
