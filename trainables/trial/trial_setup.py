"""What a fit begins with, in a trial and where a model is made: its device and its data."""

from __future__ import annotations

import os

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from lorasweep.features.common.hardware import assigned_device
from lorasweep.features.common.memory import keep_freed_memory
from lorasweep.features.compute.cache import OpenedFolders
from lorasweep.features.compute.dataset_matrix import DatasetMatrix
from lorasweep.trainables.data.trial_data import TrialData, prepare_data
from lorasweep.trainables.store.trial_key import TrialKey

from .job import TrialJob


def set_up_device(threads: int) -> torch.device:
    """The device Ray gave this worker, set up so that a seed decides the result bit for bit."""
    torch.set_num_threads(threads)
    # NumPy's and SciPy's BLAS have threads of their own; they can be told once they are loaded.
    import scipy.linalg  # noqa: F401

    threadpool_limits(threads)
    keep_freed_memory()
    device = assigned_device()
    if device.type == "cpu":
        return device
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return device


def load_data(
    job: TrialJob, key: TrialKey, device: torch.device, opened: OpenedFolders | None = None
) -> TrialData:
    """A trial's data.

    Arguments:
        opened: see `FeatureMatrix.load`.
    """
    features, labels = load_features(job, key, opened), np.array(job.labels)
    split = job.split_of(key)
    matrix = job.matrix(key)
    return prepare_data(
        features, labels, split, job.n_classes, device, matrix.transform, matrix.layout
    )


def load_features(job: TrialJob, key: TrialKey, opened: OpenedFolders | None = None) -> np.ndarray:
    """(n_samples, n_features) float32 of a trial's cell."""
    features = job.matrix(key).features
    return features.load() if isinstance(features, DatasetMatrix) else features.load(opened)
