"""Flux.1 and the models that are built like it: Chroma, Bria, LongCat-Image, Ovis-Image."""

from __future__ import annotations

from .architecture import Architecture, KnownBase, Size
from .joint_attention import (
    DOUBLE_LIST,
    FEED_FORWARD,
    FUSED,
    JOINT,
    MODULATION,
    SINGLE_LIST,
    SWAPPED,
    block_renamer,
)

DOUBLE_MODULES = {
    "img_attn.qkv": "attn.to_qkv",
    "img_attn.proj": "attn.to_out.0",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "img_mod.lin": "norm1.linear",
    "img_mod.linear": "norm1.linear",
    "txt_attn.qkv": "attn.to_added_qkv",
    "txt_attn.proj": "attn.to_add_out",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
    "txt_mod.lin": "norm1_context.linear",
    "txt_mod.linear": "norm1_context.linear",
    # OneTrainer numbers the parts of a fused module.
    **{f"img_attn.qkv.{i}": f"attn.to_{part}" for i, part in enumerate("qkv")},
    **{f"txt_attn.qkv.{i}": f"attn.add_{part}_proj" for i, part in enumerate("qkv")},
    # XLabs: `qkv_lora1` is the image's, `qkv_lora2` the text's.
    "qkv_lora1": "attn.to_qkv",
    "proj_lora1": "attn.to_out.0",
    "qkv_lora2": "attn.to_added_qkv",
    "proj_lora2": "attn.to_add_out",
}
SINGLE_MODULES = {
    "linear1": "attn.to_qkv_mlp_proj",
    "linear2": "proj_out",
    "modulation.lin": "norm.linear",
    "modulation.linear": "norm.linear",
    **{f"linear1.{i}": f"attn.to_{part}" for i, part in enumerate("qkv")},
    "linear1.3": "proj_mlp",
    "qkv": "attn.to_qkv",
    "proj": "proj_out",
}
OUTSIDE = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}

_SINGLE: dict[str, Size] = {
    r"attn\.to_[qkv]": (1, 1),
    r"attn\.to_qkv": (3, 1),
    r"attn\.to_qkv_mlp_proj": (7, 1),
    r"proj_mlp": (4, 1),
    r"proj_out": (1, 5),
}
_SINGLE_MODULATION: dict[str, Size] = {r"norm\.linear": (3, 1)}
# Gated feed-forwards: twice as many outputs.
_GATED: dict[str, Size] = {r"ff(_context)?\.net\.0\.proj": (8, 1), r"proj_mlp": (8, 1)}
_END = r"norm_out\.linear|proj_out"
_EMBEDDERS = r"x_embedder|context_embedder"


def flux_like(
    name: str,
    double: int,
    single: int,
    claim: str,
    *,
    outside: str,
    modulation: bool = True,
    gated: bool = False,
    marks: str = "",
) -> KnownBase:
    """Describe a transformer with Flux' blocks, 3,072 wide.

    Arguments:
        double, single: numbers of blocks.
    """
    first = {**JOINT, **FEED_FORWARD, **(MODULATION if modulation else {})}
    second = {**_SINGLE, **(_SINGLE_MODULATION if modulation else {})}
    if gated:
        first, second = {**first, **_GATED}, {**second, **_GATED, r"attn\.to_qkv_mlp_proj": (11, 1)}
    blocks = {DOUBLE_LIST: (double, first), SINGLE_LIST: (single, second)}
    return KnownBase(name, 3072, blocks, outside, claim, marks)


_FLUX_OUTSIDE = rf"{_EMBEDDERS}|time_text_embed\..+|{_END}"
_TIME_EMBED_OUTSIDE = rf"{_EMBEDDERS}|time_embed\..+|{_END}"

ARCHITECTURE = Architecture(
    "flux",
    bases=(
        flux_like(
            "flux", 19, 38, r"^(?!.*(flux\W?[23]\b|chroma|lite|flex)).*flux", outside=_FLUX_OUTSIDE
        ),
        flux_like("flux-lite", 8, 38, r"flux.*lite|flex.?1", outside=_FLUX_OUTSIDE),
        flux_like(
            "chroma", 19, 38, r"chroma", modulation=False, marks=r"^distilled_guidance_layer\.",
            outside=rf"{_EMBEDDERS}|distilled_guidance_layer\..+|proj_out",
        ),
        flux_like("bria", 8, 28, r"^(?!.*fibo).*bria", outside=_TIME_EMBED_OUTSIDE),
        flux_like(
            "bria-fibo", 8, 38, r"fibo", marks=r"^caption_projection\.\d+\.linear$",
            outside=rf"{_TIME_EMBED_OUTSIDE}|caption_projection\.\d+\.linear",
        ),
        flux_like("longcat-image", 10, 20, r"longcat.?image", outside=_TIME_EMBED_OUTSIDE),
        flux_like(
            "ovis-image", 6, 27, r"ovis.?image", gated=True,
            outside=rf"{_EMBEDDERS}|timestep_embedder\..+|{_END}",
        ),
    ),
    first_words=(
        *(DOUBLE_LIST, SINGLE_LIST, "x_embedder", "context_embedder", "time_text_embed"),
        "distilled_guidance_layer",
    ),
    words=(
        *(DOUBLE_LIST, SINGLE_LIST, "double_blocks", "single_blocks", "img_attn", "txt_attn"),
        *("img_mlp", "txt_mlp", "img_mod", "txt_mod", "img_in", "txt_in", "time_in", "vector_in"),
        *("guidance_in", "in_layer", "out_layer", "final_layer", "adaLN_modulation"),
        *("ff_context", "norm1_context", "to_add_out", "add_q_proj", "add_k_proj", "add_v_proj"),
        *("proj_mlp", "x_embedder", "context_embedder", "time_text_embed", "timestep_embedder"),
        *("text_embedder", "guidance_embedder", "norm_out"),
    ),
    plain_words=(
        *("attn", "ff", "mlp", "qkv", "mod", "lin", "linear", "modulation", "linear1", "linear2"),
        *("norm", "norm1"),
    ),
    rename=block_renamer(
        {
            "double_blocks": (DOUBLE_LIST, DOUBLE_MODULES),
            "single_blocks": (SINGLE_LIST, SINGLE_MODULES),
        },
        OUTSIDE,
    ),
    fused=FUSED,
    swapped=SWAPPED,
)  # fmt: skip
