"""What a tracker is told of a trial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorasweep.trainables.store.trial_key import TrialKey

_CURVES = {"val_acc_history": "val/acc", "train_loss_history": "train/loss"}
"""What trackers call a record's curves."""


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
    key: TrialKey, record: dict[str, Any], settings: dict[str, Any], written: float
) -> TrackedTrial:
    """What there is to tell of a record.

    Arguments:
        written: when it was written, in seconds since 1970.
    """
    numbers = {**record["metrics"], **record["timing"]}
    return TrackedTrial(
        parameters={
            **key.to_json(),
            **settings,
            "feature_dim": record["feature_dim"],
            "num_layers": record["num_layers"],
        },
        metrics={name: float(v) for name, v in numbers.items() if isinstance(v, int | float)},
        curves={
            _CURVES.get(name, name): values for name, values in record["curves"].items() if values
        },
        origin={name: record[name] for name in ("fingerprint", "checksum")},
        began=written - record["timing"]["total_seconds"],
        ended=written,
    )
