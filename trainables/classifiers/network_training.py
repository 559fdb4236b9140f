"""Training a network, epoch by epoch."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lorasweep.trainables.data.trial_data import TrialData

from .base import Fit, FitState, Predictor
from .modules_training import FusedAdam
from .network_settings import NetworkSettings

_PLATEAU_FACTOR = 0.5
_PLATEAU_PATIENCE = 10
_PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")


class TrainingDivergedError(RuntimeError):
    """The training loss is no longer finite."""


def batch_bounds(n: int, batch_size: int) -> list[int]:
    """Bounds of an epoch's batches. A last batch of one sample joins the one before it, since
    BatchNorm cannot normalise a single sample."""
    bounds = [*range(0, n, batch_size), n]
    if len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    return bounds


class Network(Predictor):
    """A network with the weights it has.

    Arguments:
        rows: samples evaluated at a time.
    """

    def __init__(self, model: nn.Module, rows: int) -> None:
        self.model, self._rows = model, rows

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """(n, n_features) -> (n, n_classes) float32 on the same device."""
        self.model.eval()
        return torch.cat([self.model(part) for part in x.split(self._rows)])

    def predict(self, x: Tensor) -> np.ndarray:
        """(n, n_features) float32 -> (n, n_classes) float64."""
        return self.logits(x).double().log_softmax(1).cpu().numpy()


class NetworkTraining(Fit):
    """One network's way from its seed to its best weights.

    Adam (fused), halved learning rate after 10 epochs without a better validation accuracy, early
    stopping, best weights kept. All randomness comes from `seed`. The host waits for the device
    once an epoch.

    Arguments:
        data: split tensors on one device.
        settings: its settings.
        seed: decides initial weights, batch order and dropout.
    """

    evaluation_rows: ClassVar[int]
    """Samples evaluated at a time."""

    def __init__(self, data: TrialData, settings: NetworkSettings, seed: int) -> None:
        self.data, self.settings = data, settings
        device = data.train.x.device
        torch.manual_seed(seed)
        self.model = self.build().to(device)
        self._network = Network(self.model, self.evaluation_rows)
        self.optimizer = FusedAdam(
            self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, mode="max", factor=_PLATEAU_FACTOR, patience=_PLATEAU_PATIENCE
        )
        self.order = torch.Generator().manual_seed(seed)
        self.best_state = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.best_val_acc = -1.0
        self.best_epoch = 0
        self.val_acc_history: list[float] = []
        self.train_loss_history: list[float] = []

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with its initial weights: (n, n_features) -> (n, n_classes) logits."""

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.val_acc_history)

    @property
    def stopped_early(self) -> bool:
        """Whether patience has run out."""
        return self.epoch - self.best_epoch >= self.settings.patience

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.epoch >= self.settings.epochs or self.stopped_early

    @property
    def curves(self) -> Mapping[str, list[float]]:
        """Validation accuracy and mean training loss after every epoch."""
        return {
            "val_acc_history": self.val_acc_history,
            "train_loss_history": self.train_loss_history,
        }

    def step(self) -> None:
        """One pass over the training split and one look at the validation split.

        Raises:
            TrainingDivergedError: the loss is not finite.
        """
        x, y = self.data.train.x, self.data.train.y
        order = torch.randperm(len(y), generator=self.order).to(x.device)
        bounds = batch_bounds(len(y), self.settings.batch_size)
        total = torch.zeros((), device=x.device)
        self.model.train()
        for start, stop in pairwise(bounds):
            index = order[start:stop]
            loss = nn.functional.cross_entropy(self.model(x.index_select(0, index)), y[index])
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * (stop - start)
        val = self.data.val
        correct = (self._network.logits(val.x).argmax(1) == val.y).sum()
        train_loss, hits = torch.stack([total, correct.float()]).tolist()
        if not math.isfinite(train_loss):
            cause = f"try a smaller {self.settings.option('lr')}"
            if not x.isfinite().all():
                cause = "the features hold values that are not finite"
            raise TrainingDivergedError(
                f"training loss is {train_loss} in epoch {self.epoch + 1}; {cause}"
            )
        self.train_loss_history.append(train_loss / len(y))
        self.val_acc_history.append(hits / len(val.y))
        self._after_epoch(self.val_acc_history[-1])

    def _after_epoch(self, val_acc: float) -> None:
        self.scheduler.step(val_acc)
        if val_acc > self.best_val_acc:
            self.best_val_acc, self.best_epoch = val_acc, self.epoch
            for name, value in self.model.state_dict().items():
                self.best_state[name].copy_(value)

    def restore_best(self) -> None:
        """Put the weights of the best epoch back."""
        self.model.load_state_dict(self.best_state)

    # Between two slices

    def state(self) -> FitState:
        """Weights, best weights, Adam's moments, random states; histories and the schedule."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_state.items()}
        tensors |= {f"adam.{name}": value for name, value in self.optimizer.tensors().items()}
        tensors["rng.order"] = self.order.get_state()
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.data.train.x.is_cuda:
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        scheduler = self.scheduler.state_dict()
        rest = {
            "val_acc_history": self.val_acc_history,
            "train_loss_history": self.train_loss_history,
            "best_val_acc": self.best_val_acc,
            "best_epoch": self.best_epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "scheduler": {name: scheduler[name] for name in _PLATEAU_STATE},
        }
        return FitState(tensors, rest)

    def load_state(self, state: FitState) -> None:
        """Go on where `state` was taken. The random states of torch are replaced, too."""
        tensors, rest = state.tensors, state.rest
        self.model.load_state_dict(_part(tensors, "model."))
        for name, value in _part(tensors, "best.").items():
            self.best_state[name].copy_(value)
        self.optimizer.load_tensors(_part(tensors, "adam."))
        self.order.set_state(tensors["rng.order"])
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        self.val_acc_history = list(rest["val_acc_history"])
        self.train_loss_history = list(rest["train_loss_history"])
        self.best_val_acc, self.best_epoch = rest["best_val_acc"], rest["best_epoch"]
        self.optimizer.param_groups[0]["lr"] = rest["lr"]
        self.scheduler.load_state_dict(rest["scheduler"])

    def outcome(self) -> dict[str, Any]:
        """The best epoch, how many there were, and whether patience ran out."""
        return {
            "best_epoch": self.best_epoch,
            "epochs_run": self.epoch,
            "stopped_early": self.stopped_early,
        }

    def predict(self, x: Tensor) -> np.ndarray:
        """(n, n_features) float32 -> (n, n_classes) float64, with the weights of the best epoch."""
        self.restore_best()
        return self._network.predict(x)

    def export_state(self) -> FitState:
        """The weights of the best epoch."""
        return FitState(self.best_state, {})


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
