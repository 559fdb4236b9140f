"""Training one classifier, epoch by epoch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .data import SplitTensors, TrialData
from .footprint import EVALUATION_ROWS
from .hyperparameters import Hyperparameters
from .modules import Dropout, FusedAdam

_PLATEAU_FACTOR = 0.5
_PLATEAU_PATIENCE = 10


_PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch", "_last_lr")


class TrainingDivergedError(RuntimeError):
    """The training loss is no longer finite."""


def build_classifier(n_features: int, n_classes: int, hyper: Hyperparameters) -> nn.Sequential:
    """Three times Linear → BatchNorm → ReLU → Dropout, then Linear to the classes."""
    layers: list[nn.Module] = []
    width = n_features
    for _ in range(3):
        layers += [
            nn.Linear(width, hyper.hidden_dim),
            nn.BatchNorm1d(hyper.hidden_dim),
            nn.ReLU(inplace=True),
            Dropout(hyper.dropout),
        ]
        width = hyper.hidden_dim
    return nn.Sequential(*layers, nn.Linear(width, n_classes))


def batch_bounds(n: int, batch_size: int) -> list[int]:
    """Bounds of an epoch's batches. A last batch of one sample joins the one before it, since
    BatchNorm cannot normalise a single sample."""
    bounds = [*range(0, n, batch_size), n]
    if len(bounds) > 2 and bounds[-1] - bounds[-2] == 1:
        del bounds[-2]
    return bounds


class Training:
    """One classifier's way from its seed to its best weights.

    Adam (fused), halved learning rate after 10 epochs without a better validation accuracy, early
    stopping, best weights kept. All randomness comes from `seed`. The host waits for the device
    once an epoch.

    Arguments:
        data: split tensors on one device.
        hyper: hyperparameters.
        seed: decides initial weights, batch order and dropout.
    """

    def __init__(self, data: TrialData, hyper: Hyperparameters, seed: int) -> None:
        self.data, self.hyper = data, hyper
        device = data.train.x.device
        torch.manual_seed(seed)
        self.model = build_classifier(data.n_features, data.n_classes, hyper).to(device)
        self.optimizer = FusedAdam(
            self.model.parameters(), lr=hyper.lr, weight_decay=hyper.weight_decay
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

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.val_acc_history)

    @property
    def stopped_early(self) -> bool:
        """Whether patience has run out."""
        return self.epoch - self.best_epoch >= self.hyper.patience

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.epoch >= self.hyper.epochs or self.stopped_early

    def run_epoch(self) -> None:
        """One pass over the training split and one look at the validation split.

        Raises:
            TrainingDivergedError: the loss is not finite.
        """
        x, y = self.data.train.x, self.data.train.y
        order = torch.randperm(len(y), generator=self.order).to(x.device)
        bounds = batch_bounds(len(y), self.hyper.batch_size)
        total = torch.zeros((), device=x.device)
        self.model.train()
        for start, stop in pairwise(bounds):
            index = order[start:stop]
            loss = nn.functional.cross_entropy(self.model(x.index_select(0, index)), y[index])
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * (stop - start)
        val = self.data.val
        correct = (self._logits(val.x).argmax(1) == val.y).sum()
        train_loss, hits = torch.stack([total, correct.float()]).tolist()
        if not math.isfinite(train_loss):
            raise TrainingDivergedError(
                f"training loss is {train_loss} in epoch {self.epoch + 1}; try a smaller --lr"
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

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how training goes on: tensors, and the rest as JSON."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_state.items()}
        tensors |= {f"adam.{name}": value for name, value in self.optimizer.tensors().items()}
        tensors["rng.order"] = self.order.get_state()
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.data.train.x.is_cuda:
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        scheduler = self.scheduler.state_dict()
        return tensors, {
            "val_acc_history": self.val_acc_history,
            "train_loss_history": self.train_loss_history,
            "best_val_acc": self.best_val_acc,
            "best_epoch": self.best_epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "scheduler": {name: scheduler[name] for name in _PLATEAU_STATE},
        }

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on where `state` was taken. The random states of torch are replaced, too."""
        self.model.load_state_dict(_part(tensors, "model."))
        for name, value in _part(tensors, "best.").items():
            self.best_state[name].copy_(value)
        self.optimizer.load_tensors(_part(tensors, "adam."))
        self.order.set_state(tensors["rng.order"])
        torch.set_rng_state(tensors["rng.cpu"])
        if "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        self.val_acc_history = list(state["val_acc_history"])
        self.train_loss_history = list(state["train_loss_history"])
        self.best_val_acc, self.best_epoch = state["best_val_acc"], state["best_epoch"]
        self.optimizer.param_groups[0]["lr"] = state["lr"]
        self.scheduler.load_state_dict(state["scheduler"])

    def log_probabilities(self, split: SplitTensors) -> np.ndarray:
        """(n, n_classes) float64 of a split, with the current weights."""
        return self._logits(split.x).double().log_softmax(1).cpu().numpy()

    @torch.no_grad()
    def _logits(self, x: Tensor) -> Tensor:
        self.model.eval()
        return torch.cat([self.model(part) for part in x.split(EVALUATION_ROWS)])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
