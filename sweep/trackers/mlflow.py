"""MLflow: one run per trial, in an experiment named after the run directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

from .trial import TrackedTrial

_ENVIRONMENT = {
    # By default a server that is away is asked again for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # What goes wrong is raised; the rest is not for the terminal.
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Set unless the user has."""

_KEY = "lorasweep.key"
_RUN_DIR = "lorasweep.run_dir"


class MLflow:
    """Runs on the server of MLFLOW_TRACKING_URI, or else in trackers/mlflow/mlflow.db.

    MLflow refuses to write its older folders of files; SQLite is what it recommends for one
    machine. `mlflow ui --backend-store-uri sqlite:///…/trackers/mlflow/mlflow.db` shows it.
    """

    def __init__(self, run_dir: Path) -> None:
        self.place = os.environ.get("MLFLOW_TRACKING_URI", "")
        self._run_dir = run_dir
        self._folder = RunDir(run_dir).trackers / "mlflow"
        self._client: Any = None
        self._experiment = ""

    @property
    def uri(self) -> str:
        """Where the runs are stored."""
        # MLflow also makes the folder of the path as it is spelt here, so that only what would
        # end or change the path is escaped.
        path = str(self._folder / "mlflow.db")
        escaped = path.translate({ord(c): f"%{ord(c):02X}" for c in "%?#"})
        return self.place or f"sqlite:///{escaped}"

    def log(self, key: TrialKey, trial: TrackedTrial) -> None:
        """Write one trial's run, then delete those of earlier records of it."""
        if self._client is None:
            self._connect()
        from mlflow.entities import Metric, Param

        client, ended = self._client, _milliseconds(trial.ended)
        earlier = self._runs_of(key)
        run = client.create_run(
            self._experiment,
            start_time=_milliseconds(trial.began),
            run_name=str(key),
            tags={
                _KEY: str(key),
                _RUN_DIR: str(self._run_dir),
                **{name: str(value) for name, value in key.to_json().items()},
                **trial.origin,
            },
        ).info.run_id
        curves = [
            Metric(name, value, ended, epoch)
            for epoch, values in enumerate(trial.epochs(), 1)
            for name, value in values.items()
        ]
        # The client splits this into requests of the size that a server accepts.
        client.log_batch(
            run,
            metrics=[*(Metric(name, v, ended, 0) for name, v in trial.metrics.items()), *curves],
            params=[Param(name, str(value)) for name, value in trial.parameters.items()],
        )
        client.set_terminated(run, end_time=ended)
        for old in earlier:
            client.delete_run(old)

    def close(self) -> None:
        """Nothing is held open."""

    def _connect(self) -> None:
        """Import MLflow, open the store and find or make the experiment."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        artifacts = None
        if not self.place:
            self._folder.mkdir(parents=True, exist_ok=True)
            # There are none, but by default their folder would be made where the command runs.
            artifacts = (self._folder / "artifacts").as_uri()
        client = MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self._run_dir.name)
        self._experiment = (
            found.experiment_id
            if found
            else client.create_experiment(self._run_dir.name, artifact_location=artifacts)
        )
        self._client = client

    def _runs_of(self, key: TrialKey) -> list[str]:
        """Runs of this trial. A server may have those of another run directory of that name."""
        runs = self._client.search_runs([self._experiment], f"tags.`{_KEY}` = '{key}'")
        return [
            run.info.run_id
            for run in runs
            if not self.place or run.data.tags.get(_RUN_DIR) == str(self._run_dir)
        ]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
