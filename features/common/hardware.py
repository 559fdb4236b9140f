"""Kinds of processors and GPUs: what last bits depend on."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

CPU = "cpu"


@dataclass(frozen=True)
class Hardware:
    """What the last bits of a result depend on besides its inputs and libraries.

    Attributes:
        device: the GPU's name, or `CPU`; "": any.
        instructions: torch's name for the processor's vector instructions, and who made it, by
            which MKL chooses its own: "AVX2 (AuthenticAMD)"; "": any.
    """

    device: str = ""
    instructions: str = ""

    def __str__(self) -> str:
        return " with ".join(filter(None, (self.device, self.instructions))) or "any"

    def fits(self, other: Hardware) -> bool:
        """Whether work of this kind may be done on something of another."""
        if self.device not in ("", other.device):
            return False
        return not self.instructions or same_instructions(self.instructions, other.instructions)


def same_instructions(one: str, other: str) -> bool:
    """Whether two processors have the same, as far as both say who made them: earlier versions'
    records and caches do not."""
    (name, _, maker), (other_name, _, other_maker) = one.partition(" ("), other.partition(" (")
    return name == other_name and (maker == other_maker or not maker or not other_maker)


def same_origin(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two descriptions of what last bits depend on say the same; see
    `same_instructions`."""

    def same(name: str) -> bool:
        if name == "instructions":
            return same_instructions(one[name], other[name])
        if isinstance(one[name], dict) and isinstance(other[name], dict):
            return same_origin(one[name], other[name])
        return one[name] == other[name]

    return one.keys() == other.keys() and all(map(same, one))


def assigned_device() -> torch.device:
    """The GPU that Ray gave this process, else the CPU: one that is visible need not be its own."""
    import ray
    import torch

    if not ray.is_initialized() or not torch.cuda.is_available():
        return torch.device(CPU)
    assigned = ray.get_runtime_context().get_accelerator_ids().get("GPU")
    return torch.device("cuda" if assigned else CPU)


def hardware_of(device: torch.device) -> Hardware:
    """Of this process, where it computes on a device."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else CPU
    return Hardware(name, f"{torch.backends.cpu.get_cpu_capability()}{_maker()}")


@cache
def _maker() -> str:
    """Of this machine's processor, in parentheses; "" where Linux does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("vendor_id", "CPU implementer"):
                return f" ({value.strip()})"
    return ""
