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

from features.core.files import DamagedFileError
from features.core.memory import keep_freed_memory

from .data import TrialData, prepare_data
from .events import EventLog
from .job import TrialJob
from .record import TrialKey, has_record, write_record
from .scores import SplitScores, score_split
from .splits import split_samples
from .state import Slot, delete_slot, read_slot, write_slot
from .training import Training

_SLICE_SECONDS = 2.0
_SLICE_PER_SLOT_WRITE = 20.0
_WAIT_FOR_WORKERS_SECONDS = 8.0


class TrialWorker(tune.Trainable):
    """Trains one classifier per configuration and writes its record as its last act.

    Between two slices the trial's state is written to its slot, from which any worker goes on.

    A configuration is {"point": a trial's key and fingerprint, "job": path of job.json}. A step is
    a slice of time, not an epoch: short trials finish in one step. Where the slices fall never
    changes a result. The data of the last pair stay on the device for the next seed.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Start a new process's first trial."""
        self._job_path = Path(config["job"])
        self._job = TrialJob.read(self._job_path)
        self._device = _set_up_device(self._job.hyper.threads)
        self._events = EventLog(self._job.run_dir, self._job.invocation)
        self._data: tuple[tuple[str, str], TrialData] | None = None
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
        self._training: Training | None = None
        self._load_seconds = self._train_seconds = 0.0
        self._slice_seconds = _SLICE_SECONDS

    def step(self) -> dict[str, Any]:
        """Train for a slice of time; when training ends, evaluate and write the record.

        A trial that finds too little GPU memory ends without a record. Raising would make Tune
        try again with the same share of the GPU; the driver plans it again with more.
        """
        if self._must_wait:
            self._wait_for_workers()
        try:
            return self._advance()
        except torch.OutOfMemoryError as error:
            self._training = self._data = None
            torch.cuda.empty_cache()
            reason = str(error).splitlines()[0]
            self._events.write("trial_out_of_memory", key=self._key.to_json(), reason=reason)
            return {"done": True, "out_of_memory": True}

    def _advance(self) -> dict[str, Any]:
        run_dir, key = self._job.run_dir, self._key
        if self._training is None:
            if has_record(run_dir, key, self._fingerprint):
                delete_slot(run_dir, key)
                return {"done": True}
            self._training = self._begin()
        training = self._training
        began = time.perf_counter()
        while not training.finished and time.perf_counter() - began < self._slice_seconds:
            training.run_epoch()
        seconds = time.perf_counter() - began
        self._train_seconds += seconds
        progress = {"epoch": training.epoch, "val_acc": training.val_acc_history[-1]}
        if training.finished:
            result = self._finish(training, seconds)
            self._training = None
            return {**progress, **result, "done": True}
        self._save(training)
        self._events.write("trial_progress", key=key.to_json(), slice_seconds=seconds, **progress)
        return {**progress, "done": False}

    # Tune saves nothing: what a trial must keep, it keeps itself.

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""

    # One trial

    def _begin(self) -> Training:
        """Load the data and go on from the trial's slot, if it has a valid one."""
        self._began = time.perf_counter()
        self._events.write("trial_started", key=self._key.to_json())
        training = Training(self._load(), self._job.hyper, self._key.seed)
        try:
            slot = read_slot(self._job.run_dir, self._key)
        except FileNotFoundError:
            return training
        except DamagedFileError as error:
            self._events.write("slot_damaged", key=self._key.to_json(), reason=str(error))
            return training
        mine = self._fingerprint, _rounding_environment(self._device)
        if (slot.fingerprint, slot.environment) == mine:
            training.load_state(slot.tensors, slot.state["training"])
            self._train_seconds = slot.state["train_seconds"]
            self._events.write("trial_resumed", key=self._key.to_json(), epoch=training.epoch)
        return training

    def _save(self, training: Training) -> None:
        """Write the slot; the longer that takes, the longer the next slice."""
        began = time.perf_counter()
        tensors, state = training.state()
        slot = Slot(
            self._fingerprint,
            _rounding_environment(self._device),
            tensors,
            {"training": state, "train_seconds": self._train_seconds},
        )
        write_slot(self._job.run_dir, self._key, slot)
        took = time.perf_counter() - began
        self._slice_seconds = max(_SLICE_SECONDS, _SLICE_PER_SLOT_WRITE * took)

    def _load(self) -> TrialData:
        """This pair's data; read once for all its seeds that this worker gets in a row."""
        if self._data is not None and self._data[0] == self._key.pair:
            return self._data[1]
        self._data = None  # make room before the next matrix comes
        began = time.perf_counter()
        job = self._job
        features = job.matrix(self._key).features.load()
        labels = np.array(job.labels)
        split = split_samples(len(labels))
        data = prepare_data(features, labels, split, job.n_classes, self._device)
        self._data = (self._key.pair, data)
        self._load_seconds = time.perf_counter() - began
        return data

    def _finish(self, training: Training, slice_seconds: float) -> dict[str, Any]:
        training.restore_best()
        data = training.data
        scores = {
            name: score_split(training.log_probabilities(split), split.y.cpu().numpy())
            for name, split in (("train", data.train), ("val", data.val), ("test", data.test))
        }
        timing = {
            "load_seconds": self._load_seconds,
            "train_seconds": self._train_seconds,
            "total_seconds": time.perf_counter() - self._began,
            "epochs_run": training.epoch,
            "best_epoch": training.best_epoch,
        }
        metrics = trial_metrics(scores, training)
        body = {
            "metrics": metrics,
            "curves": {
                "val_acc_history": training.val_acc_history,
                "train_loss_history": training.train_loss_history,
            },
            "confusion": {name: score.confusion for name, score in scores.items()},
            "predictions": {name: scores[name].predictions for name in ("val", "test")},
            "per_class": {name: scores[name].per_class for name in ("val", "test")},
            "calibration": {name: scores[name].calibration for name in ("val", "test")},
            "precision_recall": {name: scores[name].precision_recall for name in ("val", "test")},
            "feature_dim": data.n_features,
            "num_layers": self._job.matrix(self._key).num_tensors,
            "timing": timing,
            "environment": _environment(self._device),
        }
        write_record(self._job.run_dir, self._key, self._fingerprint, body)
        delete_slot(self._job.run_dir, self._key)
        result = {
            "seconds": timing["total_seconds"],
            "val_acc": metrics["val_acc"],
            "test_acc": metrics["test_acc"],
        }
        key = self._key.to_json()
        self._events.write("trial_finished", key=key, slice_seconds=slice_seconds, **result)
        return result

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


def trial_metrics(scores: dict[str, SplitScores], training: Training) -> dict[str, Any]:
    """The record's `metrics`: all of val and test, two of train, and the run's own."""
    metrics: dict[str, Any] = {
        f"train_{name}": scores["train"].metrics[name] for name in ("acc", "loss")
    }
    for split in ("val", "test"):
        metrics |= {f"{split}_{name}": value for name, value in scores[split].metrics.items()}
    return metrics | {
        "train_test_gap": metrics["train_acc"] - metrics["test_acc"],
        "best_epoch": training.best_epoch,
        "epochs_run": training.epoch,
        "stopped_early": training.stopped_early,
    }


def _set_up_device(threads: int) -> torch.device:
    """The device Ray gave this worker, set up so that a seed decides the result bit for bit."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda")


def _rounding_environment(device: torch.device) -> dict[str, Any]:
    """What the last bits of a result depend on besides its inputs."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": device.type,
        "device_name": name or platform.machine(),
        "torch": torch.__version__,
        "ray": ray.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "host": socket.gethostname(),
        "threads": torch.get_num_threads(),
    }
