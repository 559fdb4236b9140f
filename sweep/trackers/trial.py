"""What a tracker is told of a trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainables.record import TrialKey


@dataclass(frozen=True)
class TrackedTrial:
    """What a tracker is told of a trial.

    Attributes:
        parameters: config, representation, seed, hyperparameters, size of the input.
        metrics: every defined metric of the record, and its times.
        curves: name -> one value per epoch.
        origin: fingerprint and checksum of the record.
        began: when the trial began, in seconds since 1970.
        ended: when its record was written.
    """

    parameters: dict[str, str | int | float]
    metrics: dict[str, float]
    curves: dict[str, list[float]]
    origin: dict[str, str]
    began: float
    ended: float

    def epochs(self) -> list[dict[str, float]]:
        """The curves' values by epoch; the first is that of epoch 1."""
        longest = max(map(len, self.curves.values()), default=0)
        return [
            {name: values[i] for name, values in self.curves.items() if i < len(values)}
            for i in range(longest)
        ]


def tracked_trial(
    key: TrialKey, record: dict[str, Any], hyperparameters: dict[str, Any], written: float
) -> TrackedTrial:
    """What there is to tell of a record.

    Arguments:
        written: when it was written, in seconds since 1970.
    """
    numbers = {**record["metrics"], **record["timing"]}
    return TrackedTrial(
        parameters={
            **key.to_json(),
            **hyperparameters,
            "feature_dim": record["feature_dim"],
            "num_layers": record["num_layers"],
        },
        metrics={name: float(value) for name, value in numbers.items() if value is not None},
        curves={
            "val/acc": record["curves"]["val_acc_history"],
            "train/loss": record["curves"]["train_loss_history"],
        },
        origin={name: record[name] for name in ("fingerprint", "checksum")},
        began=written - record["timing"]["total_seconds"],
        ended=written,
    )
