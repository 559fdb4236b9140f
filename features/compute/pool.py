"""Work shared out to Ray Data's actors; what a disk does to them reaches the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lorasweep.features.common.files import is_disk_error
from lorasweep.features.common.hardware import Hardware, assigned_device, hardware_of

from .nodes import Nodes, first_missing, misplacement

Row = dict[str, Any]

_DISK = "disk_error"
"""In a worker's result: the number, text and file of the error it met."""

_MISPLACED = "misplaced"
"""In a worker's result, beside the row: why its node takes no part; see `misplacement`."""

_INIT_DEATHS = 10
"""How many workers in a row may die before they are ready; nodes that leave take theirs along."""


def run_on_workers(
    make_worker: Callable[..., Callable[[Row], Row]],
    arguments: list[Any],
    rows: list[Row],
    name: str,
    nodes: Nodes | None = None,
    *,
    seen: Sequence[Path] = (),
    on_gpus: bool = False,
) -> Iterator[Row]:
    """Share rows out to workers; yields their results as they arrive.

    Arguments:
        make_worker: makes a worker, in a process of its own, of `arguments`.
        name: what Ray's dashboard and its metrics call it.
        nodes: those that take part, where not all do; one that turns out to be of another kind, or
            not to see the work's files, is left out.
        seen: what workers must see: a node may have joined since the others were asked.
        on_gpus: two workers have a GPU, where there are some.

    Raises:
        OSError: the disk is full, or fails, under a worker.
    """
    nodes = nodes or Nodes(any_hardware=True)
    while rows:
        again = []
        paths = [str(path) for path in seen]
        for result in _share_out(make_worker, arguments, rows, name, nodes, paths, on_gpus):
            if _MISPLACED in result:
                nodes.misplaced(*result.pop(_MISPLACED))
                again.append(result)
            elif _DISK in result:
                number, text, path = result[_DISK]
                raise OSError(int(number), text, path or None)
            else:
                yield result
        rows = again
        if rows and nodes.wait:
            nodes.wait()


def _share_out(
    make_worker: Callable[..., Callable[[Row], Row]],
    arguments: list[Any],
    rows: list[Row],
    name: str,
    nodes: Nodes,
    paths: list[str],
    on_gpus: bool,
) -> Iterator[Row]:
    import ray.data

    inputs = ray.data.from_items(rows, override_num_blocks=len(rows))
    resources = nodes.resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0)) * on_gpus
    # Two per GPU overlap reading with computing.
    per_gpu = 2 if cpus >= 2 * gpus else 1
    workers = max(1, min(per_gpu * gpus or cpus, len(rows)))
    several = nodes.several()
    inputs.context.max_consecutive_actor_init_deaths = _INIT_DEATHS
    # Actors, not tasks: each keeps its files open (and its CUDA context), and has its next rows
    # at hand while the driver does other things.
    dataset = inputs.map(
        PoolWorker,  # type: ignore[arg-type]  # Ray's stubs know functions only
        fn_constructor_args=[
            nodes.stage_hardware(on_gpus=gpus > 0),
            paths,
            make_worker,
            *arguments,
        ],
        num_cpus=1,
        num_gpus=1 / per_gpu if gpus else 0,
        # Nodes of a cluster may join, and leave for good.
        compute=ray.data.ActorPoolStrategy(
            min_size=1 if several else workers,
            max_size=len(rows) if several else workers,
            initial_size=workers,
            max_tasks_in_flight_per_actor=3,
        ),
        label_selector=nodes.selector(),
    )
    dataset.set_name(name)
    yield from dataset.iter_rows()


class PoolWorker:
    """What `make` makes, as a class that Ray Data makes an actor of.

    On a node of another kind than the work's, or on one that does not see its files, it hands every
    row back.
    """

    def __init__(
        self,
        wanted: Hardware,
        paths: list[str],
        make: Callable[..., Callable[[Row], Row]],
        *arguments: Any,
    ) -> None:
        unseen = first_missing(paths)
        own = hardware_of(assigned_device()) if wanted != Hardware() else wanted
        self.misplaced = misplacement(own, unseen) if unseen or not wanted.fits(own) else None
        if not self.misplaced:
            self.work = make(*arguments)

    def __call__(self, row: Row) -> Row:
        if self.misplaced:
            return {**row, _MISPLACED: list(self.misplaced)}
        try:
            return self.work(row)
        except OSError as error:
            # As a result: of what is raised, Ray hands on the text alone.
            if not is_disk_error(error):
                raise
            return {_DISK: [str(error.errno), error.strerror, str(error.filename or "")]}
