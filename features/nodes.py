"""A cluster's nodes, and which of them may share work whose last bits depend on the processor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CPU = "cpu"


@dataclass(frozen=True)
class Kind:
    """What the last bits of a result depend on besides its inputs and libraries.

    Attributes:
        device: the GPU's name, or `CPU`; "": any.
        instructions: torch's name for the processor's vector instructions; "": any.
    """

    device: str = ""
    instructions: str = ""

    def __str__(self) -> str:
        return " with ".join(filter(None, (self.device, self.instructions))) or "any"

    def fits(self, other: Kind) -> bool:
        """Whether work of this kind may be done on something of another."""
        return self.device in ("", other.device) and self.instructions in ("", other.instructions)


def assigned_device() -> torch.device:
    """The GPU that Ray gave this process, else the CPU: one that is visible need not be its own."""
    import ray
    import torch

    if not ray.is_initialized() or not torch.cuda.is_available():
        return torch.device(CPU)
    assigned = ray.get_runtime_context().get_accelerator_ids().get("GPU")
    return torch.device("cuda" if assigned else CPU)


def kind_of(device: torch.device) -> Kind:
    """Of this process, where it computes on a device."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else CPU
    return Kind(name, torch.backends.cpu.get_cpu_capability())


@dataclass(frozen=True)
class Node:
    """What a node has.

    Attributes:
        kind: of its GPU, or of its processor if it has none.
        gpu_bytes: memory of its smallest GPU; 0: it has none that torch sees.
    """

    kind: Kind
    gpu_bytes: int


@dataclass
class Nodes:
    """The nodes of the running Ray, but for those of another kind than the work.

    A node that joins is asked when the next piece of work is shared out; meanwhile the workers
    that come up there refuse work of another kind, and tell.

    Attributes:
        say: told, in one line, of every node that takes no part.
        instructions: the work's; "": not known yet.
        gpu: the work's; "": not known yet, or none.
        any_kind: every node takes part.
        wait: called after nodes were refused, before work is shared out anew; it may wait for
            others, or raise.
    """

    say: Callable[[str], None] = print
    instructions: str = ""
    gpu: str = ""
    any_kind: bool = False
    wait: Callable[[], None] | None = None
    refused: dict[str, Kind] = field(default_factory=dict)
    _known: dict[str, Node] = field(default_factory=dict)

    def look(self) -> None:
        """Ask the nodes that are not known yet, each with a task of its own. What most of all have
        becomes the work's kind, where that is not known."""
        alive = _alive()
        self._known |= _ask([node for node in alive if node["NodeID"] not in self._known])
        if self.any_kind:
            return
        here = [
            (node, self._known[node["NodeID"]]) for node in alive if node["NodeID"] in self._known
        ]
        if here:
            self.instructions = self.instructions or _most(
                {id_: own.kind.instructions for id_, own in self._known.items()}, alive, "CPU"
            )
            gpus = {
                node["NodeID"]: own.kind.device
                for node, own in here
                if own.gpu_bytes and own.kind.instructions == self.instructions
            }
            self.gpu = self.gpu or (_most(gpus, alive, "GPU") if gpus else "")
        for node, own in here:
            wanted = Kind(self.gpu if own.gpu_bytes else "", self.instructions)
            if not wanted.fits(own.kind):
                self.refuse(node["NodeID"], own.kind)

    def refuse(self, node: str, kind: Kind) -> None:
        """Leave a node out."""
        if node in self.refused or self.any_kind:
            return
        self.refused[node] = kind
        host = next((n["NodeManagerHostname"] for n in _alive() if n["NodeID"] == node), node[:8])
        self.say(f"node {host} has {kind}, the work {self.kind}: it takes no part")

    @property
    def kind(self) -> Kind:
        """Of the work, as far as it is known."""
        return Kind(self.gpu, self.instructions)

    def stage_kind(self, *, on_gpus: bool) -> Kind:
        """Of the workers of a stage."""
        if not self.instructions:
            return Kind()
        return Kind(self.gpu if on_gpus else CPU, self.instructions)

    def resources(self) -> dict[str, float]:
        """What the nodes that take part have in all, by name."""
        total: Counter[str] = Counter()
        for node in _alive():
            if node["NodeID"] not in self.refused:
                total.update(node["Resources"])
        return dict(total)

    def several(self) -> bool:
        """Whether the work may be on more than one node."""
        return len(_alive()) > 1

    def gpu_bytes(self) -> int | None:
        """Memory of the smallest GPU of those that take part; None where torch sees none."""
        sizes = [node.gpu_bytes for id_, node in self._known.items() if id_ not in self.refused]
        return min(filter(None, sizes), default=None)

    def selector(self) -> dict[str, str]:
        """As Ray's label selector, for tasks, actors and placement groups."""
        if not self.refused:
            return {}
        return {"ray.io/node-id": f"!in({','.join(sorted(self.refused))})"}


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _most(values: Mapping[str, str], nodes: list[dict[str, Any]], resource: str) -> str:
    """The value that goes with most of a resource; the first by name of several."""
    count: Counter[str] = Counter()
    for node in nodes:
        if node["NodeID"] in values:
            count[values[node["NodeID"]]] += node["Resources"].get(resource, 0)
    return max(sorted(count), key=lambda value: count[value])


def _ask(nodes: list[dict[str, Any]]) -> dict[str, Node]:
    """What nodes that work can be done on have; one that leaves meanwhile is left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in nodes:
        if node["Resources"].get("CPU"):
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(own_node).options(
                num_cpus=0,
                num_gpus=0.001 if node["Resources"].get("GPU") else 0,
                scheduling_strategy=there,
                max_retries=0,
            )
            asked[node["NodeID"]] = task.remote()
    found = {}
    for node_id, answer in asked.items():
        try:
            found[node_id] = ray.get(answer)
        except ray.exceptions.RayError:
            continue
    return found


def own_node() -> Node:
    """What this process's node has; asked of a task that was given a GPU where there is one."""
    import torch

    device, sizes = assigned_device(), [0]
    if device.type == "cuda":
        every = range(torch.cuda.device_count())
        sizes = [torch.cuda.get_device_properties(i).total_memory for i in every]
    return Node(kind_of(device), min(sizes))
