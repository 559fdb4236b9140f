"""Double blocks, of joint attention over image and text, and single blocks: shared by several."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from .architecture import FusedModule, Size

DOUBLE_LIST, SINGLE_LIST = "transformer_blocks", "single_transformer_blocks"

JOINT: dict[str, Size] = {
    r"attn\.(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out)": (1, 1),
    r"attn\.to_(added_)?qkv": (3, 1),
}
FEED_FORWARD: dict[str, Size] = {
    r"ff(_context)?\.net\.0\.proj": (4, 1),
    r"ff(_context)?\.net\.2": (1, 4),
}
MODULATION: dict[str, Size] = {r"norm1(_context)?\.linear": (6, 1)}

_QKV = ("to_q", "to_k", "to_v")


def _beside_feed_forward(outputs: int, inputs: int) -> Sequence[int] | None:
    """Queries, keys and values are as wide as the inputs; what is left is the feed-forward's."""
    if outputs <= 3 * inputs:
        return None
    return [0, inputs, 2 * inputs, 3 * inputs, outputs]


FUSED = {
    "attn.to_qkv": FusedModule(tuple(f"attn.{part}" for part in _QKV)),
    "attn2.to_qkv": FusedModule(tuple(f"attn2.{part}" for part in _QKV)),
    "attn.to_added_qkv": FusedModule(("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")),
    "attn.to_qkv_mlp_proj": FusedModule(
        (*(f"attn.{part}" for part in _QKV), "proj_mlp"), _beside_feed_forward
    ),
}
"""Sources: the Flux and SD3 conversions of `diffusers.loaders.lora_conversion_utils` and of kohya's
`convert_flux_lora.py`."""

SWAPPED = r"(?:^|[._])final_layer[._]adaLN_modulation[._]1$"
"""The authors of Flux and SD3 have shift before scale in their last modulation, diffusers after."""


def block_renamer(
    blocks: Mapping[str, tuple[str, Mapping[str, str]]], outside: Mapping[str, str]
) -> Callable[[str], str | None]:
    """Make a function from other programs' paths to diffusers'.

    Arguments:
        blocks: list of blocks -> diffusers' list, and module there -> diffusers' module.
        outside: paths outside of all blocks.
    """
    in_block = re.compile(rf"({'|'.join(blocks)})\.(\d+)\.(.+)")

    def rename(path: str) -> str | None:
        if path in outside:
            return outside[path]
        match = in_block.fullmatch(path)
        if not match:
            return None
        theirs, modules = blocks[match[1]]
        return f"{theirs}.{match[2]}.{modules[match[3]]}" if match[3] in modules else None

    return rename
