"""The Tune Trainable: one trial per configuration, many trials per worker process."""

from __future__ import annotations

import os
import platform
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray import tune

from lorasweep.features.common.files import DamagedFileError
from lorasweep.features.common.hardware import Hardware, hardware_of, same_origin
from lorasweep.features.compute.cache import FeatureMatrix, OpenedFolders
from lorasweep.features.compute.dataset_matrix import DatasetMatrix
from lorasweep.features.compute.nodes import first_missing, misplacement
from lorasweep.features.layers.factor_layout import Layout
from lorasweep.trainables.classifiers.base import Fit, FitProgress, FitState
from lorasweep.trainables.data.trial_data import TrialData
from lorasweep.trainables.store.events import (
    EventLog,
    StateDamaged,
    TrialFinished,
    TrialMisplaced,
    TrialOutOfMemory,
    TrialProgress,
    TrialResumed,
    TrialStarted,
)
from lorasweep.trainables.store.record import has_record, write_record
from lorasweep.trainables.store.state import TrialState, delete_state, read_state, write_state
from lorasweep.trainables.store.trial_key import TrialKey

from .finished_fits import write_fit
from .importance import importance_part
from .job import TrialJob
from .pooling import outputs_json
from .scores import METRICS, SplitScores, score_split
from .trial_setup import load_data, set_up_device

_Of = tuple[FeatureMatrix | DatasetMatrix, str, Layout, tuple[int | None, str]]
"""What a trial's data are made of: features, transform, layout; the seed if each has a split."""

_SLICE_SECONDS = 2.0
_SLICE_PER_STATE_WRITE = 20.0
_WAIT_FOR_WORKERS_SECONDS = 8.0


class TrialWorker(tune.Trainable):
    """Fits one classifier per configuration and writes its record as its last act.

    Between two slices the trial's state is written, from which any worker goes on.

    A configuration is {"point": a trial's key and fingerprint, "job": path of job.json}. A step is
    a slice of time, not an epoch: short trials finish in one step. Where the slices fall never
    changes a result. The data of the last cell stay on the device for the next seed.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start a new process's first trial."""
        self._job_path = Path(config["job"])
        self._missing = first_missing([config["job"]])
        if self._missing:
            return
        self._job = TrialJob.read(self._job_path)
        self._missing = first_missing(self._job.files())
        self._device = set_up_device(self._job.threads)
        self._hardware = hardware_of(self._device)
        self._events = EventLog(self._job.run_dir, self._job.invocation)
        self._data: tuple[_Of, TrialData] | None = None
        self._opened: OpenedFolders = {}
        self._must_wait = True
        self._register()
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Start the next trial in the same process."""
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        point = config["point"]
        self._fingerprint = point["fingerprint"]
        self._key = TrialKey.from_json({n: v for n, v in point.items() if n != "fingerprint"})
        self._fit: Fit | None = None
        self._load_seconds = self._train_seconds = self._earlier_seconds = 0.0
        self._slice_seconds = _SLICE_SECONDS

    def step(self) -> dict[str, Any]:
        """Go on for a slice of time; when the fit ends, evaluate and write the record.

        A trial that finds too little GPU memory, or itself on a node of another kind than the
        run's, or on one that does not see its files, ends without a record, and the driver plans it
        again: with more memory, or without the node. Raising would make Tune try the same again.
        """
        if self._missing:
            return {"done": True, "misplaced": misplacement(Hardware(), self._missing)}
        if self._must_wait:
            self._wait_for_workers()
        try:
            return self._advance()
        except RuntimeError as error:
            reason = _out_of_memory(error)
            if reason is None:
                raise
        # Not before: the traceback holds the tensors.
        self._fit = self._data = None
        torch.cuda.empty_cache()
        self._events.write(TrialOutOfMemory(self._key, reason))
        return {"done": True, "out_of_memory": True}

    def _advance(self) -> dict[str, Any]:
        run_dir, key = self._job.run_dir, self._key
        if self._fit is None:
            if has_record(run_dir, key, self._fingerprint):
                delete_state(run_dir, key)
                return {"done": True}
            if not self._job.hardware(key.classifier).fits(self._hardware):
                found = misplacement(self._hardware)
                self._events.write(TrialMisplaced(key, *found))
                return {"done": True, "misplaced": found}
            self._fit = self._begin()
        fit = self._fit
        began = time.perf_counter()
        now = fit.advance(self._slice_seconds)
        seconds = time.perf_counter() - began
        self._train_seconds += seconds
        if fit.finished:
            ended = self._finish(fit, now, seconds).to_json()
            self._fit = None
            del ended["key"]  # Tune knows which trial it is
            return {**ended, "done": True}
        self._save(fit)
        self._events.write(TrialProgress(key, now.epoch, now.val_acc, seconds))
        return {"epoch": now.epoch, "val_acc": now.val_acc, "done": False}

    # Tune saves nothing: what a trial must keep, it keeps itself.

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""

    # One trial

    def _begin(self) -> Fit:
        """Load the data and go on from the trial's state, if it has a valid one."""
        self._began = time.perf_counter()
        self._events.write(TrialStarted(self._key))
        data = self._load()
        classifier, config = self._job.classifier(self._key.classifier)
        fit = classifier.start(data, config, self._key.seed)
        try:
            state = read_state(self._job.run_dir, self._key)
        except FileNotFoundError:
            return fit
        except DamagedFileError as error:
            self._events.write(StateDamaged(self._key, str(error)))
            return fit
        alike = same_origin(state.environment, self._rounding())
        if state.fingerprint == self._fingerprint and alike:
            fit.load_state(FitState(state.tensors, state.rest["fit"]))
            self._train_seconds = state.rest["train_seconds"]
            self._earlier_seconds = state.rest["total_seconds"]
            self._events.write(TrialResumed(self._key))
        return fit

    def _save(self, fit: Fit) -> None:
        """Write the state; the longer that takes, the longer the next slice."""
        began = time.perf_counter()
        now = fit.state()
        if now is None:
            return
        rest = {
            "fit": now.rest,
            "train_seconds": self._train_seconds,
            "total_seconds": self._total_seconds(),
        }
        state = TrialState(self._fingerprint, self._rounding(), now.tensors, rest)
        write_state(self._job.run_dir, self._key, state)
        took = time.perf_counter() - began
        self._slice_seconds = max(_SLICE_SECONDS, _SLICE_PER_STATE_WRITE * took)

    def _total_seconds(self) -> float:
        """Of this trial, those of workers that died included up to their last state."""
        return self._earlier_seconds + time.perf_counter() - self._began

    def _rounding(self) -> dict[str, Any]:
        """What the last bits of a result depend on besides its inputs."""
        return {
            **vars(self._hardware),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "features": self._job.matrix(self._key).origin,
        }

    def _load(self) -> TrialData:
        """This trial's data; read once for all seeds that this worker gets in a row."""
        key, job = self._key, self._job
        matrix = job.matrix(key)
        scope = job.split.scope(key.seed, key.fold)
        of = matrix.features, matrix.transform, matrix.layout, scope
        if self._data is not None and self._data[0] == of:
            return self._data[1]
        self._data = None  # make room before the next matrix comes
        began = time.perf_counter()
        data = load_data(job, key, self._device, self._opened)
        self._data = (of, data)
        self._load_seconds = time.perf_counter() - began
        return data

    def _finish(self, fit: Fit, last: FitProgress, slice_seconds: float) -> TrialFinished:
        data, matrix = self._job_data(), self._job.matrix(self._key)
        scores = {}
        for name, split in (("train", data.train), ("val", data.val), ("test", data.test)):
            log_p = fit.predict(split.x)  # of the test split when the loop is over
            scores[name] = score_split(log_p, split.y.cpu().numpy())
        outcome = fit.outcome()
        metrics = trial_metrics(scores, outcome)
        importance = importance_part(fit, data.val, matrix.names, matrix.transform, self._key.seed)
        timing = {
            "load_seconds": self._load_seconds,
            "train_seconds": self._train_seconds,
            "total_seconds": self._total_seconds(),
            "epochs_run": outcome.get("epochs_run", last.epoch),
            "best_epoch": outcome.get("best_epoch", last.epoch),
        }
        body = {
            "metrics": metrics,
            "curves": dict(fit.curves),
            "confusion": {name: score.confusion for name, score in scores.items()},
            "predictions": {name: scores[name].predictions for name in ("val", "test")},
            "per_class": {name: scores[name].per_class for name in ("val", "test")},
            "calibration": {name: scores[name].calibration for name in ("val", "test")},
            "precision_recall": {name: scores[name].precision_recall for name in ("val", "test")},
            "importance": importance,
            "feature_dim": data.n_features,
            "num_layers": matrix.num_tensors,
            "timing": timing,
            "environment": {**_environment(self._device), "features": matrix.origin},
        }
        if self._key.fold:
            samples = self._job.split_of(self._key).test
            body["outputs"] = outputs_json(samples, log_p, data.test.y.cpu().numpy())
        self._keep(fit)
        write_record(self._job.run_dir, self._key, self._fingerprint, body)
        delete_state(self._job.run_dir, self._key)
        result = TrialFinished(
            self._key,
            timing["total_seconds"],
            slice_seconds,
            last.epoch,
            metrics["val_acc"],
            metrics["test_acc"],
        )
        self._events.write(result)
        return result

    def _keep(self, fit: Fit) -> None:
        """Leave the finished fit, if a model may be made of it and it would take long to train."""
        job = self._job
        if self._key.config in job.keep_fits and self._train_seconds >= job.keep_after:
            try:
                kept = fit.export_state()
                if kept is not None:
                    write_fit(job.run_dir, self._key, self._fingerprint, kept)
            except OSError:
                raise
            except Exception:  # a user's own classifier: where the model is made, it will be told
                return

    def _job_data(self) -> TrialData:
        assert self._data is not None  # a fit has been started with it
        return self._data[1]

    # All workers at once

    def _register(self) -> None:
        folder = self._job_path.parent / "workers"
        folder.mkdir(exist_ok=True)
        (folder / f"{socket.gethostname()}-{os.getpid()}").touch()

    def _wait_for_workers(self) -> None:
        """Wait until every worker has started, a few seconds at most.

        With reused actors, Tune gives a finished worker the next trial and cancels the worker
        still starting for it; with short trials only one worker would ever come up.
        """
        self._must_wait = False
        folder = self._job_path.parent / "workers"
        deadline = time.monotonic() + _WAIT_FOR_WORKERS_SECONDS
        while len(os.listdir(folder)) < self._job.workers and time.monotonic() < deadline:
            time.sleep(0.02)


def trial_metrics(scores: dict[str, SplitScores], outcome: dict[str, Any]) -> dict[str, Any]:
    """The record's `metrics`: all of val and test, some of train, and what the fit tells."""
    metrics: dict[str, Any] = {
        f"train_{m.name}": scores["train"].metrics[m.name] for m in METRICS if m.on_train
    }
    for split in ("val", "test"):
        metrics |= {f"{split}_{name}": value for name, value in scores[split].metrics.items()}
    return metrics | {"train_test_gap": metrics["train_acc"] - metrics["test_acc"], **outcome}


def _out_of_memory(error: RuntimeError) -> str | None:
    """Why a GPU's memory was too small, if that is what an error says.

    cuBLAS and cuDNN tell their own failed allocations in words only.
    """
    text = str(error)
    words = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
    if isinstance(error, torch.OutOfMemoryError) or any(word in text for word in words):
        return (text.splitlines() or [""])[0]
    return None


def _environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": device.type,
        "device_name": name or platform.machine(),
        "instructions": hardware_of(device).instructions,
        "torch": torch.__version__,
        "ray": ray.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "threads": torch.get_num_threads(),
    }
