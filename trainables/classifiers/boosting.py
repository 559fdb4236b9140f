"""Gradient-boosted trees (LightGBM), as Unterthiner et al. (2020) fit to statistics of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorasweep.features.common.errors import UserError

from . import base
from .base import Classifier, DataSize, Fit, FitState, Predictor, setting
from .footprint import base_host_bytes
from .probabilities import with_absent_classes

if TYPE_CHECKING:
    import lightgbm
    import numpy as np
    from torch import Tensor

    from lorasweep.trainables.data.trial_data import TrialData

MOST_FEATURES = 2048
"""Trees look at every column for every split; more take too long and are of little use."""

_BINS = 63
_LIBRARY_BYTES = 256 << 20
_TREE_BYTES_PER_LEAF = 256


@dataclass(frozen=True)
class BoostingSettings(base.Settings):
    """The trees and how many there are."""

    rounds: int = setting(300, "at most this many rounds, each with one tree per class")
    patience: int = setting(20, "rounds without a lower validation loss before boosting stops")
    learning_rate: float = setting(0.1, "how much of a tree counts")
    leaves: int = setting(15, "leaves of a tree at most, at least 2")
    samples_per_leaf: int = setting(10, "samples in a leaf at least")
    sample_share: float = setting(0.8, "share of the samples that a round sees, above 0, up to 1")
    feature_share: float = setting(0.5, "share of the columns that a tree sees, above 0, up to 1")

    def __post_init__(self) -> None:
        """Raise a `UserError` naming the first impossible value."""
        for name, least in (("rounds", 1), ("patience", 1), ("leaves", 2), ("samples_per_leaf", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--boosting-{name.replace('_', '-')} must be at least {least}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(
                f"--boosting-learning-rate must be a positive number, not {self.learning_rate}"
            )
        for name in ("sample_share", "feature_share"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(
                    f"--boosting-{name.replace('_', '-')} must be above 0 and at most 1, "
                    f"not {getattr(self, name)}"
                )


class Boosting(Classifier):
    """Boosted trees, stopped early by the validation loss; on the CPU."""

    name = "boosting"
    version = 1
    step_names = ("round", "rounds")
    Settings = BoostingSettings

    def refusal(self, n_features: int) -> str | None:
        """Why it cannot read a matrix of so many columns; None if it can."""
        if n_features <= MOST_FEATURES:
            return None
        return f"boosting reads at most {MOST_FEATURES:,} features, not {n_features:,}"

    def host_bytes(self, size: DataSize, settings: BoostingSettings) -> int:
        """Bytes of main memory at most: binned columns, twice while they are made; scores and
        gradients; a histogram per leaf; the trees; the library."""
        binned = 2 * size.n_samples * size.n_features
        scores = 8 * size.n_samples * size.n_classes * 8
        histograms = 2 * settings.leaves * size.n_features * (_BINS + 1) * 16
        trees = settings.rounds * size.n_classes * settings.leaves * _TREE_BYTES_PER_LEAF
        own = binned + scores + histograms + trees + _LIBRARY_BYTES
        return base_host_bytes(size) + own

    def start(self, data: TrialData, settings: BoostingSettings, seed: int) -> Fit:
        """Begin a fit."""
        return BoostingFit(data, settings, seed)

    def load(
        self, state: FitState, n_features: int, n_outputs: int, settings: BoostingSettings
    ) -> Predictor:
        """The trees up to the best round."""
        import lightgbm

        text = state.tensors["trees"].numpy().tobytes().decode()
        booster = lightgbm.Booster(model_str=text) if text else None
        return Trees(booster, state.tensors["present"].numpy(), n_outputs, state.rest["rounds"])


@dataclass(frozen=True)
class Trees(Predictor):
    """Trees that predict.

    Attributes:
        booster: None where the training split has one class only.
        present: (n_present,) ascending classes of the training split.
        n_classes: all there are.
        rounds: how many of the booster's count.
    """

    booster: lightgbm.Booster | None
    present: np.ndarray
    n_classes: int
    rounds: int

    def predict(self, x: Tensor) -> np.ndarray:
        """(n, n_features) float32 -> (n, n_classes) float64."""
        import numpy as np
        from scipy.special import log_softmax

        if self.booster is None:
            log_p = np.zeros((len(x), 1))
        else:
            scores = self.booster.predict(x.numpy(), raw_score=True, num_iteration=self.rounds)
            log_p = log_softmax(scores, axis=1)
        return with_absent_classes(log_p, self.present, self.n_classes)


def parameters(settings: BoostingSettings, n_classes: int, seed: int) -> dict[str, Any]:
    """LightGBM's parameters; the same number of threads gives the same trees."""
    import torch

    return {
        "objective": "multiclass",
        "num_class": n_classes,
        "metric": "multi_logloss",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.leaves,
        "min_data_in_leaf": settings.samples_per_leaf,
        "bagging_fraction": settings.sample_share,
        "bagging_freq": 1,
        "feature_fraction": settings.feature_share,
        "max_bin": _BINS,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": torch.get_num_threads(),
        "verbosity": -1,
    }


class BoostingFit(Fit):
    """Boosting round by round; it starts over after a kill.

    The trees know only the classes of the training split. Validation samples of other classes
    count as wrong, but not in the loss that decides when to stop; where there are no others, the
    loss of the training split decides.
    """

    def __init__(self, data: TrialData, settings: BoostingSettings, seed: int) -> None:
        import lightgbm
        import numpy as np

        self._data, self._settings = data, settings
        self._present, target = np.unique(data.train.y.numpy(), return_inverse=True)
        self._accuracies: list[float] = []
        self._losses: list[float] = []
        self._best = 0
        self._booster: lightgbm.Booster | None = None
        if len(self._present) == 1:
            return
        options = parameters(settings, len(self._present), seed)
        train = lightgbm.Dataset(data.train.x.numpy(), target, params=options)
        x, y = data.val.x.numpy(), data.val.y.numpy()
        known = np.isin(y, self._present)
        self._judged_by_val = bool(known.any())
        if self._judged_by_val:
            x, target = x[known], np.searchsorted(self._present, y[known])
        else:
            x = data.train.x.numpy()
        self._booster = lightgbm.Booster(options, train)
        self._booster.add_valid(lightgbm.Dataset(x, target, reference=train, params=options), "val")

    @property
    def finished(self) -> bool:
        """Whether rounds or patience have run out."""
        done = len(self._accuracies)
        if self._booster is None:
            return done > 0
        return done >= self._settings.rounds or self._stopped_early

    @property
    def _stopped_early(self) -> bool:
        return len(self._accuracies) - self._best >= self._settings.patience

    @property
    def curves(self) -> Mapping[str, list[float]]:
        """Accuracy and log loss on the validation split after every round."""
        return {"val_acc_history": self._accuracies, "val_loss_history": self._losses}

    def step(self) -> None:
        """One round."""
        if self._booster is None:
            truth = self._data.val.y.numpy()
            self._accuracies.append(float((truth == self._present[0]).mean()))
            self._losses.append(0.0)
            self._best = 1
            return
        self._booster.update()
        loss, hits = (item[2] for item in self._booster.eval_valid(_count_hits))
        self._accuracies.append(hits / len(self._data.val.y) if self._judged_by_val else 0.0)
        if self._best == 0 or loss < self._losses[self._best - 1]:
            self._best = len(self._losses) + 1
        self._losses.append(loss)

    def predict(self, x: Tensor) -> np.ndarray:
        """(n, n_features) float32 -> (n, n_classes) float64, by the trees up to the best round."""
        trees = Trees(self._booster, self._present, self._data.n_classes, self._best)
        return trees.predict(x)

    def export_state(self) -> FitState:
        """The trees up to the best round, as LightGBM writes them, and the classes they know."""
        import numpy as np
        import torch

        text = self._booster.model_to_string(num_iteration=self._best) if self._booster else ""
        trees = torch.from_numpy(np.frombuffer(bytearray(text.encode()), np.uint8))
        present = torch.from_numpy(self._present)
        return FitState({"trees": trees, "present": present}, {"rounds": self._best})

    def outcome(self) -> dict[str, Any]:
        """The best round, how many there were, and whether patience ran out."""
        return {
            "best_epoch": self._best,
            "epochs_run": len(self._accuracies),
            "stopped_early": self._booster is not None and self._stopped_early,
        }


def _count_hits(scores: np.ndarray, samples: Any) -> tuple[str, float, bool]:
    """Right predictions of a data set, as LightGBM asks for a metric."""
    hits = (scores.argmax(1) == samples.get_label()).sum()
    return "hits", float(hits), True
