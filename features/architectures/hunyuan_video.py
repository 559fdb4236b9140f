"""HunyuanVideo: Flux' blocks, other names inside and a text refiner before them."""

from __future__ import annotations

import re

from .architecture import Architecture
from .flux import flux_like
from .joint_attention import DOUBLE_LIST, FUSED, block_renamer

_DOUBLE_MODULES = {
    "img_attn_qkv": "attn.to_qkv",
    "img_attn_proj": "attn.to_out.0",
    "img_mlp.fc1": "ff.net.0.proj",
    "img_mlp.fc2": "ff.net.2",
    "txt_attn_qkv": "attn.to_added_qkv",
    "txt_attn_proj": "attn.to_add_out",
    "txt_mlp.fc1": "ff_context.net.0.proj",
    "txt_mlp.fc2": "ff_context.net.2",
}
_OUTSIDE = {
    "img_in.proj": "x_embedder.proj",
    "time_in.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "time_in.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.mlp.0": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.mlp.2": "time_text_embed.guidance_embedder.linear_2",
    "txt_in.input_embedder": "context_embedder.proj_in",
    "txt_in.t_embedder.mlp.0": "context_embedder.time_text_embed.timestep_embedder.linear_1",
    "txt_in.t_embedder.mlp.2": "context_embedder.time_text_embed.timestep_embedder.linear_2",
    "txt_in.c_embedder.linear_1": "context_embedder.time_text_embed.text_embedder.linear_1",
    "txt_in.c_embedder.linear_2": "context_embedder.time_text_embed.text_embedder.linear_2",
}
_REFINER = re.compile(r"txt_in\.individual_token_refiner\.blocks\.(\d+)\.(.+)")
_REFINER_MODULES = {
    "self_attn_qkv": "attn.to_qkv",
    "self_attn_proj": "attn.to_out.0",
    "self_attn.qkv": "attn.to_qkv",
    "self_attn.proj": "attn.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm_out.linear",
}
_in_blocks = block_renamer({"double_blocks": (DOUBLE_LIST, _DOUBLE_MODULES)}, _OUTSIDE)


def _rename(path: str) -> str | None:
    """The authors' and musubi's path -> diffusers'."""
    if match := _REFINER.fullmatch(path):
        module = _REFINER_MODULES.get(match[2])
        block = f"context_embedder.token_refiner.refiner_blocks.{match[1]}"
        return f"{block}.{module}" if module else None
    return _in_blocks(path)


ARCHITECTURE = Architecture(
    "hunyuan-video",
    bases=(
        flux_like(
            "hunyuan-video", 20, 40, r"hunyuan.?video(?!.?1\.?5)",
            outside=r"x_embedder\.proj|context_embedder\..+|time_text_embed\..+|norm_out\.linear"
            r"|proj_out|image_projection\..+",
        ),
    ),
    words=("individual_token_refiner", "input_embedder", "t_embedder", "c_embedder", "self_attn"),
    plain_words=("fc1", "fc2", "blocks"),
    rename=_rename,
    fused=FUSED,
)  # fmt: skip
