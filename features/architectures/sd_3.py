"""Stable Diffusion 3 and 3.5: joint blocks."""

from __future__ import annotations

from .architecture import Architecture, KnownBase
from .joint_attention import (
    DOUBLE_LIST,
    FEED_FORWARD,
    FUSED,
    JOINT,
    MODULATION,
    SWAPPED,
    block_renamer,
)

_MODULES = {
    "x_block.attn.qkv": "attn.to_qkv",
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn2.qkv": "attn2.to_qkv",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "context_block.attn.qkv": "attn.to_added_qkv",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
}


def _base(
    name: str, width: int, blocks: int, claim: str, *, second_attention: bool = False
) -> KnownBase:
    modules = {**JOINT, **FEED_FORWARD}
    if second_attention:
        modules |= {r"attn2\.(to_[qkv]|to_out\.0)": (1, 1), r"norm1(_context)?\.linear": None}
    else:
        modules |= MODULATION
    outside = r"pos_embed\.proj|context_embedder|time_text_embed\..+|norm_out\.linear|proj_out"
    return KnownBase(name, width, {DOUBLE_LIST: (blocks, modules)}, outside, claim)


ARCHITECTURE = Architecture(
    "sd-3",
    bases=(
        _base("sd-3-medium", 1536, 24, r"^(?!.*3\.?5).*(stable.?diffusion|sd).?3"),
        _base(
            "sd-3.5-medium", 1536, 24, r"(stable.?diffusion|sd).?3\.?5.*medium",
            second_attention=True,
        ),
        _base("sd-3.5-large", 2432, 38, r"(stable.?diffusion|sd).?3\.?5.*large"),
    ),
    words=("joint_blocks", "context_block", "x_block"),
    plain_words=("attn2", "mlp", "fc1", "fc2"),
    rename=block_renamer({"joint_blocks": (DOUBLE_LIST, _MODULES)}, {}),
    fused=FUSED,
    swapped=SWAPPED,
)  # fmt: skip
