"""Wan 2.1 and 2.2. Its bases are not told apart yet."""

from __future__ import annotations

import re

from .architecture import Architecture

_IN_BLOCK = re.compile(
    r"(?P<block>blocks\.\d+)\.(?:(?P<attention>self_attn|cross_attn)"
    r"\.(?P<projection>q|k|v|o|k_img|v_img)|ffn\.(?P<forward>[02]))"
)
_PROJECTIONS = {
    **{"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"},
    **{"k_img": "add_k_proj", "v_img": "add_v_proj"},
}


def _rename(path: str) -> str | None:
    """The authors' and musubi's path -> diffusers'."""
    match = _IN_BLOCK.fullmatch(path)
    if match is None:
        return None
    if match["forward"]:
        return f"{match['block']}.ffn.{'net.0.proj' if match['forward'] == '0' else 'net.2'}"
    attention = "attn1" if match["attention"] == "self_attn" else "attn2"
    return f"{match['block']}.{attention}.{_PROJECTIONS[match['projection']]}"


ARCHITECTURE = Architecture(
    "wan",
    words=("self_attn", "cross_attn", "k_img", "v_img"),
    plain_words=("blocks", "ffn", "q", "k", "v", "o"),
    rename=_rename,
)
