"""How other programs spell the layers that diffusers has: to diffusers' own module paths.

Covered are kohya's names, in which every dot is an underscore, Stability's own UNet and the fused
Flux and SD3 transformers of their authors. Queries, keys and values that are fused into one matrix
stay one layer, under the name that diffusers gives them when it fuses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

PEFT_PREFIXES = ("base_model.model.", "base_model.")
"""What PEFT's wrapper puts before a model's own path."""

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
    r"|^module\.(?=.*\.)|(?<=_)_orig_mod_"
)
"""Words that torch.compile, FSDP, checkpointing and DDP put into paths of wrapped modules."""
_PEFT_INSIDE = re.compile(
    r"^((?:unet|transformer|text_encoder(?:_[23])?)\.)base_model\.(?:model\.)?"
)

UNET, TRANSFORMER = "unet", "transformer"
"""diffusers' names of the network that denoises."""
SECOND_TRANSFORMER = "transformer_2"
"""diffusers' name of Wan 2.2's network for the last, least noisy steps."""

_KOHYA = {
    "lora_unet_": "",  # a UNet or a transformer: what follows tells
    "lora_transformer_": TRANSFORMER,
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lycoris_": "",  # LyCORIS' own wrapper
}
_UPSTREAM_PREFIXES = ("model.diffusion_model.", "diffusion_model.")

# A name of kohya's is cut at every underscore; those in one of these words are none of its dots.
_JOINED = (
    "down_blocks", "mid_block", "up_blocks", "transformer_blocks", "single_transformer_blocks",
    "input_blocks", "middle_block", "output_blocks", "in_layers", "out_layers", "emb_layers",
    "skip_connection", "time_embed", "label_emb", "time_embedding", "add_embedding",
    "time_emb_proj", "linear_1", "linear_2", "to_q", "to_k", "to_v", "to_out", "proj_in",
    "proj_out", "conv_in", "conv_out", "conv_shortcut", "text_model", "text_projection",
    "self_attn", "cross_attn", "k_img", "v_img", "q_proj", "k_proj", "v_proj", "out_proj",
    "wi_0", "wi_1", "double_blocks",
    "single_blocks", "joint_blocks", "context_block", "x_block", "img_attn", "txt_attn",
    "img_mlp", "txt_mlp", "img_mod", "txt_mod", "img_in", "txt_in", "time_in", "vector_in",
    "guidance_in", "in_layer", "out_layer", "final_layer", "adaLN_modulation", "ff_context",
    "norm1_context", "to_add_out", "add_q_proj", "add_k_proj", "add_v_proj", "proj_mlp",
    "x_embedder", "context_embedder", "time_text_embed", "timestep_embedder", "text_embedder",
    "guidance_embedder", "norm_out",
)  # fmt: skip
_PLAIN = (
    "attentions", "resnets", "downsamplers", "upsamplers", "conv", "conv1", "conv2", "op", "out",
    "attn", "attn1", "attn2", "ff", "ff_context", "net", "proj", "encoder", "layers", "mlp",
    "fc1", "fc2", "block", "layer", "SelfAttention", "DenseReluDense", "q", "k", "v", "o", "wo",
    "qkv", "mod", "lin", "blocks", "ffn", "linear", "modulation", "linear1", "linear2", "norm",
    "norm1",
)  # fmt: skip
_WORDS = {*_JOINED, *_PLAIN}
_JOIN = re.compile(
    r"(?<![^.])(?:"
    + "|".join(sorted((re.escape(w.replace("_", ".")) for w in _JOINED), key=len, reverse=True))
    + r")(?![^.])"
)

# Stability's UNet: block number -> diffusers' block and place in it, for two layers per block.
_SGM_INNER = {"0": "resnets", "1": "attentions"}
_SGM_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_SGM_RESNET = {
    "in_layers.2": "conv1",
    "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_SGM_OUTSIDE = {
    "input_blocks.0.0": "conv_in",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}

# The authors' transformers: kind of block -> (diffusers' list, module there -> diffusers' module).
# Of a double block, XLabs writes `qkv_lora1` for the image's and `qkv_lora2` for the text's.
_TRANSFORMER_BLOCKS = {
    "double_blocks": (
        "transformer_blocks",
        {
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
            # HunyuanVideo's authors
            "img_attn_qkv": "attn.to_qkv",
            "img_attn_proj": "attn.to_out.0",
            "img_mlp.fc1": "ff.net.0.proj",
            "img_mlp.fc2": "ff.net.2",
            "txt_attn_qkv": "attn.to_added_qkv",
            "txt_attn_proj": "attn.to_add_out",
            "txt_mlp.fc1": "ff_context.net.0.proj",
            "txt_mlp.fc2": "ff_context.net.2",
            # OneTrainer numbers the parts of a fused module.
            **{f"img_attn.qkv.{i}": f"attn.to_{part}" for i, part in enumerate("qkv")},
            **{f"txt_attn.qkv.{i}": f"attn.add_{part}_proj" for i, part in enumerate("qkv")},
            "qkv_lora1": "attn.to_qkv",
            "proj_lora1": "attn.to_out.0",
            "qkv_lora2": "attn.to_added_qkv",
            "proj_lora2": "attn.to_add_out",
        },
    ),
    "single_blocks": (
        "single_transformer_blocks",
        {
            "linear1": "attn.to_qkv_mlp_proj",
            "linear2": "proj_out",
            "modulation.lin": "norm.linear",
            "modulation.linear": "norm.linear",
            **{f"linear1.{i}": f"attn.to_{part}" for i, part in enumerate("qkv")},
            "linear1.3": "proj_mlp",
            "qkv": "attn.to_qkv",
            "proj": "proj_out",
        },
    ),
    "joint_blocks": (
        "transformer_blocks",
        {
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
        },
    ),
}
_TRANSFORMER_OUTSIDE = {
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

_OTHER_TRANSFORMERS = (
    *("distilled_guidance_layer", "joint_transformer_blocks"),
    *("double_stream_blocks", "single_stream_blocks"),
    *("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"),
)
"""Chroma's, AuraFlow's, HiDream's and FLUX.2's: names that no other transformer has."""

_WAN = re.compile(
    r"(?P<block>blocks\.\d+)\.(?:(?P<attention>self_attn|cross_attn)"
    r"\.(?P<projection>q|k|v|o|k_img|v_img)|ffn\.(?P<forward>[02]))"
)
_WAN_PROJECTIONS = {
    **{"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"},
    **{"k_img": "add_k_proj", "v_img": "add_v_proj"},
}

# First words of a path in diffusers, for names that do not say which network they are of.
_FIRST_WORDS = {
    "down_blocks": UNET,
    "mid_block": UNET,
    "up_blocks": UNET,
    "conv_in": UNET,
    "conv_out": UNET,
    "time_embedding": UNET,
    "add_embedding": UNET,
    "transformer_blocks": TRANSFORMER,
    "single_transformer_blocks": TRANSFORMER,
    "x_embedder": TRANSFORMER,
    "context_embedder": TRANSFORMER,
    "time_text_embed": TRANSFORMER,
    **dict.fromkeys(_OTHER_TRANSFORMERS, TRANSFORMER),
    "text_model": "text_encoder",
}
_COMPONENT = re.compile(r"(unet|transformer(?:_2)?|text_encoder(?:_[23])?)\.(.+)")
# ComfyUI's names of text encoders; of T5 and others the component depends on the base model.
_COMFY_ENCODERS = re.compile(r"text_encoders\.(clip_[lg])\.transformer\.(.+)")
_OMI_ENCODERS = re.compile(r"(clip_[lg])\.(text_model\..+|text_projection)")
_CLIPS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
# Paths in language models (GPT-2, Falcon, ChatGLM) that begin like diffusers' component.
_LANGUAGE_MODEL = re.compile(r"transformer\.(h|encoder|wte|wpe|word_embeddings|output_layer)\.")
_TEXT_PROJECTIONS = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@cache  # asked for every layer of every file
def unwrapped(layer: str) -> str:
    """A layer's name without what wrappers put before and into it."""
    layer = _WRAPPERS.sub("", layer)
    for prefix in PEFT_PREFIXES:
        layer = layer.removeprefix(prefix)
    return _PEFT_INSIDE.sub(r"\1", layer)


_NEW_NAMES = re.compile(
    "|".join(
        (
            r"double_blocks[._]\d+[._](img|txt)_(attn_(qkv|proj)|mlp[._]fc[12]|mod[._]linear)",
            r"(double|single)_blocks\.\d+\..*(qkv|linear1)\.\d",
            r"single_blocks[._]\d+[._]modulation[._]linear",
            r"x_block[._]attn2",
            r"(?<![a-z_])(lora_unet_)?blocks[._]\d+[._](self|cross)_attn[._]([qkvo]|[kv]_img)(?=[._]|$)",
            r"(?<![a-z_])(lora_unet_)?blocks[._]\d+[._]ffn[._][02](?=[._]|$)",
            r"^transformer_2\.|^transformer\.(double|single|joint)_blocks\.",
            r"^(text_encoders|t5|clip_[lg])\.|^unet\.(input_blocks|middle_block|output_blocks)\.",
            rf"^((model\.)?diffusion_model\.)?({'|'.join(_OTHER_TRANSFORMERS)})\.",
        )
    )
)


def has_new_name(layer: str) -> bool:
    """Return whether a layer has another canonical name than in version 0.1: names feed numbers."""
    return any(of.search(layer) for of in (_WRAPPERS, _PEFT_INSIDE, _COMFY_ENCODERS, _NEW_NAMES))


def is_of_peft(layer: str) -> bool:
    """Return whether PEFT's wrapper stands before a layer's path."""
    return "base_model." in layer and _WRAPPERS.sub("", layer).startswith("base_model.")


def diffusers_path(layer: str) -> tuple[str, str] | None:
    """(component, module path in it) of a diffusion model's layer, in diffusers' spelling.

    Arguments:
        layer: a layer's name in any spelling, without PEFT's wrapper and without the tensor's part.

    Returns:
        None: it is no layer of a diffusion model in a spelling that is known here.
    """
    found = _from_kohya(layer) if "." not in layer else _from_dots(layer)
    if found is None:
        return None
    component, path = found
    if component == UNET and path.endswith(".to_out"):
        path += ".0"  # old names of attention processors are without it
    if component.startswith("text_encoder"):
        head, _, last = path.rpartition(".")
        path = f"{head}.{_TEXT_PROJECTIONS[last]}" if last in _TEXT_PROJECTIONS else path
        # transformers 5 has CLIP's layers without the module around them; T5's are called blocks.
        path = f"text_model.{path}" if path.startswith("encoder.layers.") else path
    return component, path


def _from_kohya(layer: str) -> tuple[str, str] | None:
    prefix = next((p for p in _KOHYA if layer.startswith(p)), None)
    if prefix is None:
        # A layer outside of all blocks, as PEFT writes it: one word.
        return (_FIRST_WORDS[layer], layer) if layer in _FIRST_WORDS else None
    path = _JOIN.sub(
        lambda match: match[0].replace(".", "_"), layer.removeprefix(prefix).replace("_", ".")
    )
    if not all(word in _WORDS or word.isdigit() for word in path.split(".")):
        return None
    component = _KOHYA[prefix]
    return (component, path) if component else _by_content(path)


def _from_dots(layer: str) -> tuple[str, str] | None:
    if match := _COMFY_ENCODERS.fullmatch(layer) or _OMI_ENCODERS.fullmatch(layer):
        return _CLIPS[match[1]], match[2]
    path = re.sub(r"\.processor(?=\.|$)", "", layer)
    upstream = next((p for p in _UPSTREAM_PREFIXES if path.startswith(p)), "")
    path = path.removeprefix(upstream)
    match = _COMPONENT.fullmatch(path)
    if upstream or not match:
        return _by_content(path)
    if _LANGUAGE_MODEL.match(path):
        return None
    # OneTrainer and others put a component before the authors' own names.
    translate = {
        UNET: _from_sgm,
        TRANSFORMER: lambda path: _from_authors_blocks(path) or _from_wan(path),
        SECOND_TRANSFORMER: _from_wan,
    }.get(match[1])
    return match[1], (translate and translate(match[2])) or match[2]


def _by_content(path: str) -> tuple[str, str] | None:
    """(component, diffusers' path) of a path that does not say what it is a path in."""
    for component, translated in (
        (UNET, _from_sgm(path)),
        (TRANSFORMER, _from_authors_transformer(path)),
        (TRANSFORMER, _from_wan(path)),
    ):
        if translated:
            return component, translated
    component = _FIRST_WORDS.get(path.split(".")[0], "")
    return (component, path) if component else None


def _from_wan(path: str) -> str | None:
    """Diffusers' path of a layer of Wan's blocks, as its authors and its trainers write it."""
    match = _WAN.fullmatch(path)
    if match is None:
        return None
    if match["forward"]:
        return f"{match['block']}.ffn.{'net.0.proj' if match['forward'] == '0' else 'net.2'}"
    attention = "attn1" if match["attention"] == "self_attn" else "attn2"
    return f"{match['block']}.{attention}.{_WAN_PROJECTIONS[match['projection']]}"


def _from_sgm(path: str) -> str | None:
    if path in _SGM_OUTSIDE:
        return _SGM_OUTSIDE[path]
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", path):
        return f"mid_block.{_SGM_MIDDLE[match[1]]}.{_SGM_RESNET.get(match[2], match[2])}"
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)", path)
    if not match:
        return None
    down, number, inner, rest = match[1] == "input", int(match[2]), match[3], match[4]
    block, place = divmod(number - 1 if down else number, 3)
    side = "down" if down else "up"
    if rest in ("op", "conv"):
        return f"{side}_blocks.{block}.{side}samplers.0.conv"
    if inner not in _SGM_INNER or block < 0:
        return None
    module = _SGM_RESNET.get(rest, rest)
    return f"{side}_blocks.{block}.{_SGM_INNER[inner]}.{place}.{module}"


def _from_authors_transformer(path: str) -> str | None:
    return _TRANSFORMER_OUTSIDE.get(path) or _from_authors_blocks(path)


def _from_authors_blocks(path: str) -> str | None:
    match = re.fullmatch(r"(double|single|joint)_blocks\.(\d+)\.(.+)", path)
    if not match:
        return None
    blocks, modules = _TRANSFORMER_BLOCKS[f"{match[1]}_blocks"]
    return f"{blocks}.{match[2]}.{modules[match[3]]}" if match[3] in modules else None


_AUTHORS_BLOCKS = re.compile(r"(?<![a-z])(double|single|joint)_blocks[._]\d")
_ENCODERS = re.compile(r"lora_te\d?_|text_encoders?[._]|text_encoder_\d|clip_[lg]\.|t5\.")
_FINAL = re.compile(r"(?:^|[._])final_layer[._](linear|adaLN_modulation[._]1)(?=[._]|$)")


def has_foreign_blocks(tensors: Iterable[str]) -> bool:
    """Return whether blocks beside a final layer are none of Flux' or SD3's authors'.

    HiDream, Lumina 2 and others have layers of the same names outside of their blocks, and
    diffusers leaves those as they are.
    """
    names = list(tensors)
    if not any(_FINAL.search(name) for name in names):
        return False
    if any(_AUTHORS_BLOCKS.search(name) for name in names):
        return False
    others = (n for n in names if not _FINAL.search(n) and not _ENCODERS.match(n))
    return any(re.search(r"[._]\d+[._]", name) for name in others)


def own_outside_name(layer: str) -> str | None:
    """The canonical name of a final layer beside foreign blocks; None: it is no such layer."""
    match = _FINAL.search(layer)
    return f"{TRANSFORMER}.final_layer.{match[1].replace('_1', '.1')}" if match else None
