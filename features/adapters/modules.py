"""Which tensors of a file belong together: one module each, known by its canonical name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from lorasweep.features.architectures.architecture import TRANSFORMER, Architecture, Shape
from lorasweep.features.architectures.catalogue import recognise
from lorasweep.features.formats.catalogue import PARTS, format_of
from lorasweep.features.formats.format import ALPHA, DOWN, MAGNITUDE, MID, UP
from lorasweep.features.layers.names import canonical_name, parse_tensor
from lorasweep.features.layers.spellings import locate, unwrapped

_LAST = re.compile(
    "(?P<layer>.+?)(?P<part>"
    + "|".join(re.escape(part) for part in sorted(PARTS, key=len, reverse=True))
    + ")"
)

_NAMED = re.compile(r"(\.lora_magnitude_vector|\.lora_embedding_[AB])\.[^.]+?(\.weight)?$")

LORA, LOCON, LOHA, LOKR = "lora", "locon", "loha", "lokr"
"""What a module's update is made of."""

LOKR_RANK = 64
"""Most singular values of a LoKr layer that are kept by default."""

_NEEDED = {
    LOHA: ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    LORA: (DOWN, UP),
}


@dataclass
class Module:
    """An adapted module of a file.

    Attributes:
        name: canonical name of its layer.
        spelled: the name in the file.
        tensors: part -> tensor of the file.
    """

    name: str
    spelled: str
    tensors: dict[str, str] = field(default_factory=dict)

    @property
    def algorithm(self) -> str:
        """`lora`, `locon` (with a core), `loha` or `lokr`."""
        if "hada_w1_a" in self.tensors:
            return LOHA
        if "lokr_w1" in self.tensors or "lokr_w1_a" in self.tensors:
            return LOKR
        return LOCON if MID in self.tensors else LORA

    def lacks(self) -> str:
        """A part that the update cannot do without, and that is not there; else nothing."""
        if self.algorithm == LOKR:
            for half in ("lokr_w1", "lokr_w2"):
                if half not in self.tensors:
                    missing = next((s for s in "ab" if f"{half}_{s}" not in self.tensors), "")
                    if missing:
                        return f"{half}_{missing}"
            return ""
        needed = _NEEDED[LOHA if self.algorithm == LOHA else LORA]
        return next((part for part in needed if part not in self.tensors), "")


def group_modules(names: Iterable[str]) -> tuple[list[Module], list[str]]:
    """The modules of a file, in the order of its tensors, and tensors that are of none.

    A module needs more than an α or magnitudes: those alone are of none.

    Raises:
        ValueError: one layer is there in two spellings.
    """
    found: dict[str, Module] = {}
    rest: list[str] = []
    for tensor in names:
        layer, part = _split(tensor)
        if not part:
            rest.append(tensor)
            continue
        name = canonical_name(layer)
        module = found.setdefault(name, Module(name, layer))
        if part in module.tensors:
            raise ValueError(
                f"layer {name} is there twice, as {module.tensors[part]} and as {tensor}"
            )
        module.tensors[part] = tensor
    modules = []
    for module in found.values():
        if module.tensors.keys() <= {ALPHA, MAGNITUDE}:
            rest += module.tensors.values()
        else:
            modules.append(module)
    return modules, rest


def _split(tensor: str) -> tuple[str, str]:
    """The layer and the part of a tensor's name; no part: it is not of a module."""
    # Between the part and `.weight` PEFT writes an adapter's name, `default` mostly.
    tensor = _NAMED.sub(r"\1\2", tensor)
    match = _LAST.fullmatch(tensor)
    if match:
        # Some write the α of `to_q_lora.down.weight` as `to_q_lora.alpha`.
        return re.sub(r"[._]lora$", "", match["layer"]), PARTS[match["part"]]
    parsed = parse_tensor(tensor)
    if parsed is None or not tensor.endswith(".weight"):
        return tensor, ""
    return parsed.layer, DOWN if parsed.down else UP


def recognise_architecture(
    modules: Iterable[tuple[Module, Shape]],
) -> Architecture | None:
    """The architecture that a file's modules show, of those whose names mean something else in
    other models; None: none of them.

    Arguments:
        modules: every module and its (outputs, inputs).
    """
    located = ((locate(unwrapped(module.spelled)), shape) for module, shape in modules)
    return recognise(
        {of.path: shape for of, shape in located if of and of.component in ("", TRANSFORMER)}
    )


def rename_modules(modules: Iterable[Module], architecture: Architecture) -> None:
    """Give modules the names that their layers have in an architecture.

    Raises:
        ValueError: one layer is there in two spellings.
    """
    taken: dict[str, Module] = {}
    for module in modules:
        module.name = canonical_name(module.spelled, architecture)
        other = taken.setdefault(module.name, module)
        if other is not module:
            raise ValueError(
                f"layer {module.name} is there twice, as {other.spelled} and as {module.spelled}"
            )


def spelling(module: Module) -> str:
    """Name of the format that a module is spelled in."""
    return format_of(module.spelled, module.tensors.get(DOWN, ".lora_A"))
