"""A cluster's nodes, and which of them may share work: those of one kind that see its files."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.hardware import (
    CPU,
    Hardware,
    assigned_device,
    hardware_of,
    same_instructions,
)

_ANSWER_SECONDS = 60.0
"""A node's GPUs may be busy with others' work; it is asked again."""

_SEE_SECONDS = 3.0
"""NFS may take a moment to show what another host has made."""


def misplacement(own: Hardware, unseen: str = "") -> tuple[str, str, str, str]:
    """What a worker tells that does no work where it is: its node, its kind, and what it does not
    see, "" if that is not why."""
    import ray

    return ray.get_runtime_context().get_node_id(), own.device, own.instructions, unseen


@dataclass(frozen=True)
class RequiredPaths:
    """What every node that takes part must see at the same path.

    Attributes:
        folders: the work writes in them.
        files: the work reads them.
    """

    folders: Sequence[Path] = ()
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class Node:
    """What a node has.

    Attributes:
        kind: of its GPU, or of its processor if it has none.
        gpu_bytes: memory of its smallest GPU; 0: it has none that torch sees.
    """

    hardware: Hardware
    gpu_bytes: int


@dataclass
class Nodes:
    """The nodes of the running Ray, but for those of another kind than the work, and those that do
    not see its files.

    A node that joins is asked when the next piece of work is shared out; meanwhile the workers
    that come up there refuse the work, and tell.

    Attributes:
        say: told, in one line, of every node that takes no part.
        shared: what nodes must see.
        joined: others may join, and they may be other machines.
        instructions: the work's; "": not known yet.
        gpu: the work's; "": not known yet, or none.
        any_kind: every node takes part.
        wait: called after nodes were refused, before work is shared out anew; it may wait for
            others, or raise.
    """

    say: Callable[[str], None] = print
    instructions: str = ""
    gpu: str = ""
    any_hardware: bool = False
    wait: Callable[[], None] | None = None
    required_paths: RequiredPaths = field(default_factory=RequiredPaths)
    joined: bool = False
    refused: dict[str, Hardware] = field(default_factory=dict)
    nodes_without_files: dict[str, str] = field(default_factory=dict)
    _known: dict[str, Node] = field(default_factory=dict)
    _seeing: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Ask the nodes that are not known yet, each with a task of its own. What most of all have
        becomes the work's kind, where that is not known."""
        alive = _alive()
        self._see([node for node in alive if node["NodeID"] not in self._seeing])
        unknown = [node for node in alive if node["NodeID"] not in self._known]
        if self.any_hardware:  # all that matters is the memory of GPUs
            unknown = [node for node in unknown if node["Resources"].get("GPU")]
        self._known |= _ask(unknown)
        if self.any_hardware:
            return
        here = [
            (node, self._known[node["NodeID"]]) for node in alive if node["NodeID"] in self._known
        ]
        if here:
            self.instructions = self.instructions or _most(
                {id_: own.hardware.instructions for id_, own in self._known.items()}, alive, "CPU"
            )
            gpus = {
                node["NodeID"]: own.hardware.device
                for node, own in here
                if own.gpu_bytes and same_instructions(own.hardware.instructions, self.instructions)
            }
            self.gpu = self.gpu or (_most(gpus, alive, "GPU") if gpus else "")
        for node, own in here:
            wanted = Hardware(self.gpu if own.gpu_bytes else "", self.instructions)
            if not wanted.fits(own.hardware):
                self.refuse(node["NodeID"], own.hardware)

    def _see(self, nodes: list[dict[str, Any]]) -> None:
        """Ask nodes whether they see what they must."""
        if not self.several():
            return
        for node, path in _unseen_on(nodes, self.required_paths).items():
            self._seeing.add(node)
            if path:
                self.leave_out(node, path)

    def refuse(self, node: str, hardware: Hardware) -> None:
        """Leave a node out, for it is of another kind."""
        if node in self.refused or self.any_hardware:
            return
        self.refused[node] = hardware
        self.say(f"node {_host(node)} has {hardware}, the work {self.hardware}: it takes no part")

    def leave_out(self, node: str, path: str) -> None:
        """Leave a node out, for it does not see a path."""
        if node not in self.nodes_without_files:
            self.nodes_without_files[node] = path
            self.say(f"node {_host(node)} does not see {path}: it takes no part")

    def misplaced(self, node: str, device: str, instructions: str, unseen: str) -> None:
        """Leave a node out, of which a worker told that it does no work there; see
        `misplacement`."""
        if unseen:
            self.leave_out(node, unseen)
        else:
            self.refuse(node, Hardware(device, instructions))

    def require_shared(self) -> None:
        """Raise a `UserError` if a node does not see what it must."""
        for node, path in self.nodes_without_files.items():
            raise UserError(
                f"node {_host(node)} does not see {path}: run directory, feature cache and "
                "dataset must lie at the same paths on every node, on a shared file system"
            )

    @property
    def hardware(self) -> Hardware:
        """Of the work, as far as it is known."""
        return Hardware(self.gpu, self.instructions)

    def stage_hardware(self, *, on_gpus: bool) -> Hardware:
        """Of the workers of a stage."""
        if not self.instructions:
            return Hardware()
        return Hardware(self.gpu if on_gpus else CPU, self.instructions)

    def each(self) -> list[dict[str, float]]:
        """What every node that takes part has, by name."""
        out = self._out()
        return [node["Resources"] for node in _alive() if node["NodeID"] not in out]

    def resources(self) -> dict[str, float]:
        """What they have in all, by name."""
        total: Counter[str] = Counter()
        for node in self.each():
            total.update(node)
        return dict(total)

    def several(self) -> bool:
        """Whether the work may be, or come to be, on other nodes than this."""
        return self.joined or len(_alive()) > 1

    def _out(self) -> set[str]:
        return self.refused.keys() | self.nodes_without_files.keys()

    def gpu_bytes(self) -> int | None:
        """Memory of the smallest GPU of those that take part; None where torch sees none."""
        out = self._out()
        sizes = [node.gpu_bytes for id_, node in self._known.items() if id_ not in out]
        return min(filter(None, sizes), default=None)

    def selector(self) -> dict[str, str]:
        """As Ray's label selector, for tasks, actors and placement groups."""
        out = self._out()
        return {"ray.io/node-id": f"!in({','.join(sorted(out))})"} if out else {}


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _host(node: str) -> str:
    return next((n["NodeManagerHostname"] for n in _alive() if n["NodeID"] == node), node[:8])


def _most(values: Mapping[str, str], nodes: list[dict[str, Any]], resource: str) -> str:
    """The value that goes with most of a resource; the first by name of several."""
    count: Counter[str] = Counter()
    for node in nodes:
        if node["NodeID"] in values:
            count[values[node["NodeID"]]] += node["Resources"].get(resource, 0)
    return max(sorted(count), key=lambda value: count[value])


def _ask(nodes: list[dict[str, Any]]) -> dict[str, Node]:
    """What nodes that work can be done on have."""
    return _on_each(nodes, own_node, on_gpu=True)


def _unseen_on(nodes: list[dict[str, Any]], required_paths: RequiredPaths) -> dict[str, str]:
    """Of nodes that work can be done on, what each does not see; "": it sees all."""
    if not (required_paths.folders or required_paths.files):
        return {}
    with _probes(required_paths.folders) as probes:
        paths = [str(path) for path in (*probes, *required_paths.files)]
        found = _on_each(nodes, first_missing, paths)
    shown = {str(probe): str(probe.parent) for probe in probes}
    return {node: shown.get(path, path) for node, path in found.items()}


@contextmanager
def _probes(folders: Sequence[Path]) -> Iterator[list[Path]]:
    """A new file in each folder: another machine may have a folder of the same name."""
    probes = [folder / f".probe-{uuid.uuid4().hex}" for folder in folders]
    try:
        for probe in probes:
            probe.touch()
        yield probes
    finally:
        for probe in probes:
            probe.unlink(missing_ok=True)


def _on_each(
    nodes: list[dict[str, Any]], function: Callable, *arguments: Any, on_gpu: bool = False
) -> dict[str, Any]:
    """What a function returns on each node that has CPUs; one that leaves, or does not answer
    soon, is left out.

    Arguments:
        on_gpu: it is given a GPU, a little of one, where there are some.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in nodes:
        if node["Resources"].get("CPU"):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(function).options(
                num_cpus=0,
                num_gpus=0.001 if on_gpu and node["Resources"].get("GPU") else 0,
                scheduling_strategy=there,
                max_retries=0,
            )
            asked[task.remote(*arguments)] = node["NodeID"]
    if not asked:
        return {}
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_SECONDS)
    for task in late:
        ray.cancel(task)
    found = {}
    for task in answered:
        with suppress(ray.exceptions.RayError):
            found[asked[task]] = ray.get(task)
    return found


def first_missing(paths: Sequence[str]) -> str:
    """The first of some paths that this machine does not see; "": it sees all."""
    until = time.monotonic() + _SEE_SECONDS
    for path in paths:
        while not os.path.exists(path):
            if time.monotonic() >= until:
                return path
            with suppress(OSError):
                os.listdir(os.path.dirname(path))  # makes NFS ask its server anew
            time.sleep(0.1)
    return ""


def own_node() -> Node:
    """What this process's node has; asked of a task that was given a GPU where there is one."""
    import torch

    device, sizes = assigned_device(), [0]
    if device.type == "cuda":
        every = range(torch.cuda.device_count())
        sizes = [torch.cuda.get_device_properties(i).total_memory for i in every]
    return Node(hardware_of(device), min(sizes))
