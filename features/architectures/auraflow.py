"""AuraFlow."""

from __future__ import annotations

from .architecture import Architecture, KnownBase
from .joint_attention import JOINT, MODULATION, SINGLE_LIST

_LIST = "joint_transformer_blocks"

ARCHITECTURE = Architecture(
    "auraflow",
    bases=(
        KnownBase(
            "auraflow",
            3072,
            {
                _LIST: (
                    4,
                    {**JOINT, r"ff(_context)?\.(linear_[12]|out_projection)": None, **MODULATION},
                ),
                SINGLE_LIST: (
                    32,
                    {
                        r"attn\.(to_[qkv]|to_out\.0)": (1, 1),
                        r"ff\.(linear_[12]|out_projection)": None,
                        r"norm1\.linear": (6, 1),
                    },
                ),
            },
            r"context_embedder|time_step_proj\..+|norm_out\.linear|proj_out|pos_embed\.proj",
            r"aura.?flow",
            marks=rf"^{_LIST}\.",
        ),
    ),
    first_words=(_LIST,),
    words=(_LIST, "out_projection"),
)
