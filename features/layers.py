"""Layer tensors and layer configs: named predicates on dataset column names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .core.errors import UserError
from .core.names import check_names

_LAYER_MARKS = ("lora.down.weight", "lora.up.weight", "lora_A.", "lora_B.")
_DOWN_MARKS = ("lora.down.weight", "lora_A.")

LAYER_CONFIGS: dict[str, Callable[[str], bool]] = {
    "all_layers": lambda name: True,
    "visual_only": lambda name: ".attn1." in name,
    "text_only": lambda name: ".attn2." in name,
}
"""Config name -> whether a layer tensor belongs to it.

In Stable Diffusion's transformer blocks `attn1` is self-attention (the image attends to itself)
and `attn2` cross-attention to the text embedding.
"""


def is_layer_tensor(column: str) -> bool:
    """Whether a dataset column holds LoRA weights (diffusers or PEFT naming)."""
    return any(mark in column for mark in _LAYER_MARKS)


def is_down(column: str) -> bool:
    """Whether a layer tensor is the down projection (r × in); the other is up (out × r)."""
    return any(mark in column for mark in _DOWN_MARKS)


def select_layers(config: str, layers: Iterable[str]) -> list[str]:
    """The layer tensors of a config, in sorted order of their names.

    Raises:
        UserError: the config is unknown or selects nothing.
    """
    check_names("layer config", [config], LAYER_CONFIGS)
    names = sorted(layers)
    selected = [name for name in names if LAYER_CONFIGS[config](name)]
    if not selected:
        some = ", ".join(names[:3])
        raise UserError(
            f"layer config {config!r} selects none of the {len(names)} layer tensors "
            f"(they are named like {some}); leave it out with --configs"
        )
    return selected


def uncovered(layers: Iterable[str]) -> list[str]:
    """Layer tensors that are neither self- nor cross-attention."""
    return [
        name
        for name in sorted(layers)
        if not (LAYER_CONFIGS["visual_only"](name) or LAYER_CONFIGS["text_only"](name))
    ]
