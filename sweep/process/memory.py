"""Whether the largest trial fits this machine, known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.sweep.request.declared import Declared
from lorasweep.trainables.classifiers.base import DataSize
from lorasweep.trainables.store.trial_key import TrialKey


@dataclass(frozen=True)
class Largest:
    """The trial that takes the most main memory.

    Attributes:
        samples, features: of its matrix.
        matrix_bytes: of that, float32.
        trial_bytes: of the whole trial at most.
    """

    key: TrialKey
    samples: int
    features: int
    matrix_bytes: int
    trial_bytes: int

    def describe(self) -> str:
        """One line."""
        return (
            f"{'/'.join(self.key.cell)}, {self.samples} × {self.features} "
            f"({self.matrix_bytes / 1e9:.2g} GB), a trial of it takes up to "
            f"{self.trial_bytes / 1e9:.2g} GB"
        )


def largest_trial(declared: Declared, scan: DatasetScan, keys: list[TrialKey]) -> Largest | None:
    """The largest of some trials; None of none."""
    found = []
    for key in {key.cell: key for key in keys}.values():
        item = declared.classifiers[key.classifier]
        # A transform reads the whole matrix first.
        width = declared.cached_width(key.config, key.method, scan)
        samples, classes = scan.num_samples, len(scan.classes)
        layout = declared.layout(key.config, key.method, scan)
        need = item.classifier.host_bytes(DataSize(samples, width, classes, layout), item.settings)
        found.append(Largest(key, samples, width, 4 * samples * width, need))
    return max(found, key=lambda trial: trial.trial_bytes, default=None)


def require_memory(largest: Largest | None, available: int) -> None:
    """Raise a `UserError` if not even one trial fits."""
    if largest is not None and largest.trial_bytes > available:
        raise UserError(
            f"{largest.describe()}, and this machine has {available / 1e9:.2g} GB: "
            "leave that pair out, or give its representation a size (as in channel_norms:64)"
        )
