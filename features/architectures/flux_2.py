"""FLUX.2 and its klein: Flux' names, gated feed-forwards, and one modulation for all blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .architecture import Architecture, KnownBase, Shape, Size
from .flux import DOUBLE_MODULES, OUTSIDE, SINGLE_MODULES
from .joint_attention import DOUBLE_LIST, FUSED, JOINT, SINGLE_LIST, SWAPPED, block_renamer

_MODULATIONS = (
    *("double_stream_modulation_img", "double_stream_modulation_txt"),
    "single_stream_modulation",
)
_DOUBLE_MODULES = {
    **DOUBLE_MODULES,
    "img_mlp.0": "ff.linear_in",
    "img_mlp.2": "ff.linear_out",
    "txt_mlp.0": "ff_context.linear_in",
    "txt_mlp.2": "ff_context.linear_out",
}
_OUTSIDE = {
    **{
        name: path.replace("time_text_embed", "time_guidance_embed")
        for name, path in OUTSIDE.items()
    },
    **{f"{name}.lin": f"{name}.linear" for name in _MODULATIONS},
}
_in_blocks = block_renamer(
    {
        "double_blocks": (DOUBLE_LIST, _DOUBLE_MODULES),
        "single_blocks": (SINGLE_LIST, {**SINGLE_MODULES, "linear2": "attn.to_out"}),
    },
    _OUTSIDE,
)


def _rename(path: str) -> str | None:
    """The authors' path -> diffusers'; some cut `transformer_blocks` short."""
    if path.startswith("sformer_blocks."):
        return path.replace("sformer", "transformer", 1)
    return _in_blocks(path)


# Module of the authors -> (outputs, inputs) in widths, where Flux has another size.
_SIZES = {
    r"double_blocks\.\d+\.(img|txt)_mlp\.0": (6, 1),
    r"double_blocks\.\d+\.(img|txt)_mlp\.2": (1, 3),
    r"single_blocks\.\d+\.linear1": (9, 1),
    r"single_blocks\.\d+\.linear2": (1, 4),
}


def _is_shown_by(shapes: Mapping[str, Shape]) -> bool:
    for path, (outputs, inputs) in shapes.items():
        if path.startswith(_MODULATIONS) or path.startswith("sformer_blocks."):
            return True
        for pattern, (m, n) in _SIZES.items():
            if re.fullmatch(pattern, path):
                return outputs * n == inputs * m
    return False


def _base(name: str, width: int, double: int, single: int, claim: str) -> KnownBase:
    first: dict[str, Size] = {
        **JOINT,
        r"ff(_context)?\.(linear_in|net\.0\.proj)": (6, 1),
        r"ff(_context)?\.(linear_out|net\.2)": (1, 3),
    }
    second: dict[str, Size] = {
        r"attn\.to_[qkv]": (1, 1),
        r"attn\.to_qkv_mlp_proj": (9, 1),
        r"proj_mlp": (6, 1),
        r"proj_out|attn\.to_out": (1, 4),
    }
    outside = (
        rf"x_embedder|context_embedder|({'|'.join(_MODULATIONS)})\.lin(ear)?"
        r"|time_guidance_embed\..+|norm_out\.linear|proj_out"
    )
    blocks = {DOUBLE_LIST: (double, first), SINGLE_LIST: (single, second)}
    marks = rf"^({'|'.join(_MODULATIONS)})\.|^transformer_blocks\.\d+\.ff(_context)?\.linear_"
    return KnownBase(name, width, blocks, outside, claim, marks)


ARCHITECTURE = Architecture(
    "flux-2",
    bases=(
        _base("flux-2-dev", 6144, 8, 48, r"^(?!.*klein).*flux\W?2"),
        _base("flux-2-klein-4b", 3072, 5, 20, r"^(?!.*9b).*flux\W?2.*klein"),
        _base("flux-2-klein-9b", 4096, 8, 24, r"flux\W?2.*klein.*9b"),
    ),
    first_words=_MODULATIONS,
    words=(*_MODULATIONS, "linear_in", "linear_out", "time_guidance_embed"),
    rename=_rename,
    is_shown_by=_is_shown_by,
    fused=FUSED,
    swapped=SWAPPED,
)
