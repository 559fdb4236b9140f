"""Weights & Biases: one run per trial, in a project named after the run directory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from lorasweep.features.common.files import digest
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import TrialKey

from .trial import TrackedTrial

_PATIENCE_SECONDS = 10
_SERVICE = "WANDB_SERVICE"
"""Where wandb keeps the address of the process that it works through, while there is one."""


class WeightsAndBiases:
    """Runs grouped by config and representation, with their files under trackers/wandb.

    Without a login, or with WANDB_MODE=offline, nothing is sent:
    `wandb sync trackers/wandb/offline-run-*` does it later. WANDB_PROJECT, WANDB_ENTITY and
    WANDB_BASE_URL are wandb's own.
    """

    def __init__(self, run_dir: Path) -> None:
        self.project = os.environ.get("WANDB_PROJECT") or run_dir.name
        host, entity = (os.environ.get(f"WANDB_{name}", "") for name in ("BASE_URL", "ENTITY"))
        self.place = f"{host}/{entity}/{self.project}"
        self._run_dir = run_dir
        self._wandb: Any = None
        self._settings: Any = None
        self._mode = "offline"
        self._own = False

    def run_id(self, key: TrialKey) -> str:
        """A trial's run has one id for good, so that a server replaces an earlier one."""
        return digest([str(self._run_dir), str(key)])

    def log(self, key: TrialKey, trial: TrackedTrial) -> None:
        """Write one trial's run; that of an earlier record of it is replaced."""
        if self._wandb is None:
            self._connect()
        run_id = self.run_id(key)
        earlier = list((RunDir(self._run_dir).trackers / "wandb").glob(f"*run-*-{run_id}"))
        with self._wandb.init(
            project=self.project,
            group="/".join(key.cell),
            name=str(key),
            id=run_id,
            config={**trial.parameters, **trial.origin},
            dir=RunDir(self._run_dir).trackers,
            mode=self._mode,
            reinit="create_new",
            settings=self._settings,
        ) as run:
            for epoch, values in enumerate(trial.epochs(), 1):
                run.log({"epoch": epoch, **values}, step=epoch)
            run.summary.update(trial.metrics)
        for old in earlier:
            shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        """End wandb's process, unless somebody else in this one has started it."""
        if self._own:
            self._wandb.teardown()

    def _connect(self) -> None:
        """Import wandb and find out whether there is a login, without asking for one."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._own = _SERVICE not in os.environ
        import wandb

        self._settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=_PATIENCE_SECONDS,
            finish_timeout=_PATIENCE_SECONDS,
            finish_timeout_raises=True,
            # What follows is about the process that made a run, which here is the driver.
            disable_code=True,
            disable_git=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._mode = wandb.setup(self._settings).settings.mode
        silent = self._mode in ("offline", "dryrun", "disabled")
        if not silent and not wandb.login(prompt=False, verify=False):
            self._mode = "offline"
        self._wandb = wandb
