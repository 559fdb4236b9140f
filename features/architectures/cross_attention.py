"""Blocks of self- and cross-attention under one list: what several architectures share."""

from __future__ import annotations

from collections.abc import Mapping

from .architecture import KnownBase, Size

BLOCKS = "transformer_blocks"


def cross_attention_base(
    name: str,
    width: int,
    blocks: int,
    claim: str,
    *,
    context: float = 1.0,
    extra: Mapping[str, Size] | None = None,
    outside: str,
    marks: str = "",
) -> KnownBase:
    """Describe a transformer of such blocks.

    Arguments:
        context: inputs of its cross-attention's keys and values, in widths.
        extra: other modules of a block.
    """
    modules: dict[str, Size] = {
        r"attn1\.(to_[qkv]|to_out\.0)": (1, 1),
        r"attn2\.(to_q|to_out\.0)": (1, 1),
        r"attn2\.to_[kv]": (1, context),
        r"ff\.net\.0\.proj": (4, 1),
        r"ff\.net\.2": (1, 4),
        **(extra or {}),
    }
    return KnownBase(name, width, {BLOCKS: (blocks, modules)}, outside, claim, marks)
