"""How many trials share a GPU: what one asks Ray for, and how many run at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorasweep.features.common.errors import UserError
from lorasweep.sweep.request.spec import RuntimeOptions

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
    nodes: Sequence[Mapping[str, float]],
    trial_bytes: int = 0,
    gpu_bytes: int | None = None,
    most: int | None = None,
) -> TrialResources:
    """Work out a trial's share of what the cluster's nodes have; a trial is on one of them.

    Without an explicit `--gpus-per-trial`, as many trials share a GPU as fit into its memory and
    as there are cores to feed them, eight at most.

    Arguments:
        nodes: what each node that takes part has, by name.
        trial_bytes: device memory that the largest trial needs.
        gpu_bytes: memory of a GPU; None: not known.
        most: how many fit into main memory; None: not known.

    Raises:
        UserError: one trial asks for more than a node has.
    """
    cpus = options.cpus_per_trial
    has = [(int(node.get("CPU", 0)), node.get("GPU", 0.0)) for node in nodes]
    most_cpus = max((cores for cores, _ in has), default=0)
    most_gpus = max((gpus for _, gpus in has), default=0.0)
    where = " on a node" if len(has) > 1 else ""
    if cpus > most_cpus:
        raise UserError(f"--cpus-per-trial {cpus}: Ray has only {most_cpus} CPUs{where}")
    share = options.gpus_per_trial
    if share is None:
        share = 0.0
        if most_gpus:
            by_cpu = sum(cores // cpus for cores, gpus in has if gpus)
            together = min(int(by_cpu // sum(gpus for _, gpus in has)), _MOST_TRIALS_PER_GPU)
            if gpu_bytes:
                together = min(together, gpu_bytes // max(1, trial_bytes))
            share = _share(max(1, together))
    if share > most_gpus:
        raise UserError(f"--gpus-per-trial {share:g}: Ray has only {most_gpus:g} GPUs{where}")
    slots = sum(_slots(cores // cpus, gpus, share) for cores, gpus in has)
    if not slots:
        raise UserError(f"Ray has no node with both {cpus} CPUs and {share:g} GPUs for a trial")
    if options.max_concurrent:
        slots = min(slots, options.max_concurrent)
    if most is not None:
        slots = max(1, min(slots, most))
    return TrialResources(options.cpus_per_trial, share, slots)


def _slots(by_cpu: int, gpus: float, share: float) -> int:
    """How many trials fit on a node."""
    if not share:
        return by_cpu
    by_gpu = int(gpus) * int(1 / share + 1e-9) if share <= 1 else int(gpus // share)
    return min(by_cpu, by_gpu)


def _share(together: int) -> float:
    """The fraction of a GPU of which `together` fit."""
    return 1.0 if together == 1 else int(_GRAIN / together) / _GRAIN
