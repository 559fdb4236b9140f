"""Cosmos Predict 2 and Anima, which is built on it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .architecture import Architecture, Shape
from .cross_attention import cross_attention_base

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_ATTENTION = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "output_proj": "to_out.0"}
_MODULES = {
    **{
        f"{theirs}.{projection}": f"{ours}.{path}"
        for theirs, ours in (("self_attn", "attn1"), ("cross_attn", "attn2"))
        for projection, path in _ATTENTION.items()
    },
    **{
        f"adaln_modulation_{part}.{i}": f"norm{number}.linear_{i}"
        for number, part in enumerate(("self_attn", "cross_attn", "mlp"), 1)
        for i in (1, 2)
    },
    "mlp.layer1": "ff.net.0.proj",
    "mlp.layer2": "ff.net.2",
}
_OUTSIDE = {
    "final_layer.adaln_modulation.1": "norm_out.linear_1",
    "final_layer.adaln_modulation.2": "norm_out.linear_2",
    "final_layer.linear": "proj_out",
    "x_embedder.proj.1": "patch_embed.proj",
    "t_embedder.1.linear_1": "time_embed.t_embedder.linear_1",
    "t_embedder.1.linear_2": "time_embed.t_embedder.linear_2",
}


def _rename(path: str) -> str | None:
    """The authors' path -> diffusers'. Source: diffusers' conversion of Anima."""
    match = _BLOCK.fullmatch(path)
    if match is None:
        return _OUTSIDE.get(path)
    module = _MODULES.get(match[2])
    return f"transformer_blocks.{match[1]}.{module}" if module else None


def _is_shown_by(shapes: Mapping[str, Shape]) -> bool:
    blocks = [path for path in shapes if path.startswith("blocks.")]
    return bool(blocks) and all(map(_rename, blocks))


_CANONICAL_OUTSIDE = r"patch_embed\.proj|time_embed\..+|norm_out\.linear_[12]|proj_out"
_NORMS = {r"norm[123]\.linear_[12]": None}

ARCHITECTURE = Architecture(
    "cosmos",
    bases=(
        cross_attention_base(
            "anima", 2048, 28, r"anima(?!te)", context=0.5, extra=_NORMS, outside=_CANONICAL_OUTSIDE
        ),
        cross_attention_base(
            "cosmos-predict2-2b", 2048, 28, r"cosmos.*2b", context=0.5, extra=_NORMS,
            outside=_CANONICAL_OUTSIDE,
        ),
        cross_attention_base(
            "cosmos-predict2-14b", 5120, 36, r"cosmos.*14b", context=0.2, extra=_NORMS,
            outside=_CANONICAL_OUTSIDE,
        ),
    ),
    words=(
        *("adaln_modulation_self_attn", "adaln_modulation_cross_attn", "adaln_modulation_mlp"),
        *("output_proj", "self_attn", "cross_attn", "final_layer", "x_embedder", "t_embedder"),
    ),
    plain_words=("layer1", "layer2"),
    rename=_rename,
    is_shown_by=_is_shown_by,
)  # fmt: skip
