"""How many trials share a GPU: what one asks Ray for, and how many run at once."""

from __future__ import annotations

from dataclasses import dataclass

from features.core.errors import UserError

from ..spec import RuntimeOptions

_MOST_TRIALS_PER_GPU = 8
"""A training step keeps a large GPU busy for an eighth of the time that launching it takes (see
docs/performance.md); more processes would only take turns."""

_GRAIN = 10_000
"""Ray counts fractions of a GPU in units of 1/10000."""


@dataclass(frozen=True)
class TrialResources:
    """What one trial asks Ray for, and how many trials that lets run at once."""

    cpus: int
    gpus: float
    slots: int


def trial_resources(
    options: RuntimeOptions,
    available: dict[str, float],
    trial_bytes: int = 0,
    gpu_bytes: int | None = None,
    most: int | None = None,
) -> TrialResources:
    """Work out a trial's share of what the cluster has.

    Without an explicit `--gpus-per-trial`, as many trials share a GPU as fit into its memory and
    as there are cores to feed them, eight at most.

    Arguments:
        available: what the nodes that take part have in all, by name.
        trial_bytes: device memory that the largest trial needs.
        gpu_bytes: memory of a GPU; None: not known.
        most: how many fit into main memory; None: not known.

    Raises:
        UserError: one trial asks for more than there is.
    """
    cores, gpus = int(available.get("CPU", 0)), available.get("GPU", 0.0)
    if options.cpus_per_trial > cores:
        raise UserError(f"--cpus-per-trial {options.cpus_per_trial}: Ray has only {cores} CPUs")
    by_cpu = cores // options.cpus_per_trial
    share = options.gpus_per_trial
    if share is None:
        share = 0.0
        if gpus:
            together = min(int(by_cpu // gpus), _MOST_TRIALS_PER_GPU)
            if gpu_bytes:
                together = min(together, gpu_bytes // max(1, trial_bytes))
            share = _share(max(1, together))
    if share > gpus:
        raise UserError(f"--gpus-per-trial {share:g}: Ray has only {gpus:g} GPUs")
    slots = by_cpu
    if share:
        by_gpu = int(gpus) * int(1 / share + 1e-9) if share <= 1 else int(gpus // share)
        slots = min(slots, by_gpu)
    if options.max_concurrent:
        slots = min(slots, options.max_concurrent)
    if most is not None:
        slots = max(1, min(slots, most))
    return TrialResources(options.cpus_per_trial, share, slots)


def _share(together: int) -> float:
    """The fraction of a GPU of which `together` fit."""
    return 1.0 if together == 1 else int(_GRAIN / together) / _GRAIN
