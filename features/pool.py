"""Work shared out to Ray Data's actors; what a disk does to them reaches the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from .core.files import is_disk_error

Row = dict[str, Any]

_DISK = "disk_error"
"""In a worker's result: the number, text and file of the error it met."""

_INIT_DEATHS = 10
"""How many workers in a row may die before they are ready; nodes that leave take theirs along."""


def run_on_workers(
    make_worker: Callable[..., Callable[[Row], Row]],
    arguments: list[Any],
    rows: list[Row],
    name: str,
    *,
    on_gpus: bool = False,
) -> Iterator[Row]:
    """Share rows out to workers; yields their results as they arrive.

    Arguments:
        make_worker: makes a worker, in a process of its own, of `arguments`.
        name: what Ray's dashboard and its metrics call it.
        on_gpus: two workers have a GPU, where there are some.

    Raises:
        OSError: the disk is full, or fails, under a worker.
    """
    import ray
    import ray.data

    inputs = ray.data.from_items(rows, override_num_blocks=len(rows))
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0)) * on_gpus
    # Two per GPU overlap reading with computing.
    per_gpu = 2 if cpus >= 2 * gpus else 1
    workers = max(1, min(per_gpu * gpus or cpus, len(rows)))
    several = len(ray.nodes()) > 1
    inputs.context.max_consecutive_actor_init_deaths = _INIT_DEATHS
    # Actors, not tasks: each keeps its files open (and its CUDA context), and has its next rows
    # at hand while the driver does other things.
    dataset = inputs.map(
        PoolWorker,  # type: ignore[arg-type]  # Ray's stubs know functions only
        fn_constructor_args=[make_worker, *arguments],
        num_cpus=1,
        num_gpus=1 / per_gpu if gpus else 0,
        # Nodes of a cluster may join, and leave for good.
        compute=ray.data.ActorPoolStrategy(
            min_size=1 if several else workers,
            max_size=len(rows) if several else workers,
            initial_size=workers,
            max_tasks_in_flight_per_actor=3,
        ),
    )
    dataset.set_name(name)
    for result in dataset.iter_rows():
        if _DISK in result:
            number, text, path = result[_DISK]
            raise OSError(int(number), text, path or None)
        yield result


class PoolWorker:
    """What `make` makes, as a class that Ray Data makes an actor of."""

    def __init__(self, make: Callable[..., Callable[[Row], Row]], *arguments: Any) -> None:
        self.work = make(*arguments)

    def __call__(self, row: Row) -> Row:
        try:
            return self.work(row)
        except OSError as error:
            # As a result: of what is raised, Ray hands on the text alone.
            if not is_disk_error(error):
                raise
            return {_DISK: [str(error.errno), error.strerror, str(error.filename or "")]}
