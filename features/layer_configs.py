"""Layer configs: named predicates on layer tensors, built in or a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .core.errors import UserError
from .core.names import check_doubles, nearest
from .core.plugins import Origin, find_origin, load
from .layers import Layer

GROUP = "lorasweep.configs"
"""The entry points that bring layer configs."""


@dataclass(frozen=True)
class LayerConfig:
    """Which layer tensors a classifier sees. Made by `layer_config`.

    Attributes:
        name: what users type and results are filed under.
        version: part of trial fingerprints.
        selects: whether it has a layer tensor of this name.
        doc: one line of documentation.
        origin: where it was loaded from, if it is not built in.
    """

    name: str
    version: str
    selects: Callable[[str], bool]
    doc: str = ""
    origin: Origin | None = None

    def tensors(self, names: Iterable[str]) -> list[str]:
        """Those of some layer tensors that it has, in sorted order.

        Raises:
            UserError: it has none of them.
        """
        names = sorted(names)
        selected = [name for name in names if self.selects(name)]
        if not selected:
            some = ", ".join(names[:3])
            raise UserError(
                f"layer config {self.name!r} selects none of the {len(names)} layer tensors "
                f"(they are named like {some}); leave it out with --configs"
            )
        return selected

    def copied(self, folder: Path) -> LayerConfig:
        """The same, its source copied to a folder if it is not built in."""
        return replace(self, origin=self.origin.copied(folder)) if self.origin else self

    def layers(self, layers: Iterable[Layer]) -> list[str]:
        """Names of those layers of which it has both tensors, in sorted order."""
        return sorted(
            layer.name for layer in layers if self.selects(layer.down) and self.selects(layer.up)
        )


def layer_config(name: str, *, version: int) -> Callable[[Callable[[str], bool]], LayerConfig]:
    """Declare a function of a layer tensor's name as a layer config.

    Arguments:
        version: raise it when it selects other tensors: its trials run again.
    """

    def declare(selects: Callable[[str], bool]) -> LayerConfig:
        doc = ((selects.__doc__ or "").strip().splitlines() or [""])[0]
        return LayerConfig(name, str(version), selects, doc)

    return declare


# In Stable Diffusion's transformer blocks `attn1` is self-attention (the image attends to itself)
# and `attn2` cross-attention to the text embedding.


@layer_config("all_layers", version=1)
def all_layers(tensor: str) -> bool:
    """Every layer tensor."""
    return True


@layer_config("visual_only", version=1)
def visual_only(tensor: str) -> bool:
    """Self-attention: `.attn1.` in the name."""
    return ".attn1." in tensor


@layer_config("text_only", version=1)
def text_only(tensor: str) -> bool:
    """Cross-attention to the text: `.attn2.` in the name."""
    return ".attn2." in tensor


LAYER_CONFIGS = {item.name: item for item in list(vars().values()) if isinstance(item, LayerConfig)}
"""Every built-in config by name."""

DEFAULT_CONFIGS = ("all_layers", "visual_only")


def get_config(reference: str) -> LayerConfig:
    """A config by its name, entry point, `package.module:object` or `path/to/file.py:object`.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    if reference in LAYER_CONFIGS:
        return LAYER_CONFIGS[reference]
    origin = find_origin(reference, GROUP)
    if origin is None:
        hint = nearest(reference, LAYER_CONFIGS) or ":"
        known = ", ".join(LAYER_CONFIGS)
        raise UserError(f"unknown layer config {reference!r}{hint} known are {known}")
    found = load(origin, "layer config", LayerConfig)
    if found.name in LAYER_CONFIGS:
        raise UserError(f"{reference}: the name {found.name!r} is that of a built-in layer config")
    return replace(found, version=f"{found.version}-{origin.digest[:12]}", origin=origin)


def get_configs(references: Sequence[str]) -> list[LayerConfig]:
    """Several of them; a `UserError` if there are none or two have the same name."""
    if not references:
        raise UserError(f"no layer config given; choose from {', '.join(LAYER_CONFIGS)}")
    found = [get_config(reference) for reference in references]
    check_doubles("layer config", [item.name for item in found])
    return found


def uncovered(tensors: Iterable[str]) -> list[str]:
    """Layer tensors that are neither self- nor cross-attention."""
    return [n for n in sorted(tensors) if not (visual_only.selects(n) or text_only.selects(n))]
