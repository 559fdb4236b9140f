"""All formats. Sources: the loaders of diffusers, PEFT, LyCORIS, kohya's sd-scripts and ComfyUI."""

from __future__ import annotations

import re

from lorasweep.features.architectures.architecture import SECOND_TRANSFORMER, TRANSFORMER, UNET

from .format import ALPHA, DOWN, MAGNITUDE, MID, UP, Format

_COMPONENTS = (
    *(UNET, TRANSFORMER, SECOND_TRANSFORMER),
    *("text_encoder", "text_encoder_2", "text_encoder_3"),
)
_COMPONENT = rf"({'|'.join(_COMPONENTS)})\."
_LYCORIS = (
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
)

KOHYA = Format(
    "kohya",
    spelled=r"(lora_|lycoris_)[^.]+$",
    prefixes={
        "lora_unet_": "",  # also of a transformer
        "lora_transformer_": TRANSFORMER,
        "lora_te_": "text_encoder",
        "lora_te1_": "text_encoder",
        "lora_te2_": "text_encoder_2",
        "lora_te3_": "text_encoder_3",
        "lycoris_": "",  # LyCORIS' own wrapper
    },
    flat=True,
    down=(r"\.?lora_down\.weight",),
    up=(r"\.?lora_up\.weight",),
    parts={
        ".lora_mid.weight": MID,
        ".alpha": ALPHA,
        ".dora_scale": MAGNITUDE,
        **{f".{part}": part for part in _LYCORIS},
    },
)
# The `1` and `2` of `qkv_lora1` tell the image's layer from the text's, and stay in the name.
XLABS = Format(
    "xlabs",
    spelled=r"(diffusion_model\.)?(double|single)_blocks\.\d+\.processor\.",
    down=(r"(?<=_lora[12])\.down\.weight",),
    up=(r"(?<=_lora[12])\.up\.weight",),
)
PEFT = Format(
    "peft",
    spelled=r"base_model\.|.*\.base_model\.",
    prefixes={"base_model.model.": "", "base_model.": ""},
    down=(r"\.?lora_A\.",),
    up=(r"\.?lora_B\.",),
    parts={
        ".lora_magnitude_vector": MAGNITUDE,
        ".lora_magnitude_vector.weight": MAGNITUDE,
        ".lora_embedding_A": DOWN,
        ".lora_embedding_B": UP,
    },
    weights=("adapter_model.safetensors", "adapter_model.bin"),
    config="adapter_config.json",
)
AUTHORS = Format(
    "authors",
    spelled=r"(model\.)?diffusion_model\.|(double|single|joint)_blocks\.",
    prefixes={"model.diffusion_model.": "", "diffusion_model.": ""},
)
"""A model's own names, as ComfyUI, ai-toolkit and others write them."""
COMFYUI = Format(
    "comfyui",
    prefixes={
        "text_encoders.clip_l.transformer.": "text_encoder",
        "text_encoders.clip_g.transformer.": "text_encoder_2",
    },
)
"""Text encoders that ComfyUI saves; of T5 and others the component depends on the base model."""
OMI = Format("omi", prefixes={"clip_l.": "text_encoder", "clip_g.": "text_encoder_2"})
"""OneTrainer's."""
DIFFUSERS = Format(
    "diffusers",
    spelled=_COMPONENT,
    prefixes={f"{name}.": name for name in _COMPONENTS},
    weights=("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin"),
    header="lora_adapter_metadata",
)
OLD_DIFFUSERS = Format(
    "diffusers-old",
    down=(r"\.?lora_linear_layer\.down\.weight", r"[._]?lora\.down\.weight"),
    up=(r"\.?lora_linear_layer\.up\.weight", r"[._]?lora\.up\.weight"),
)

FORMATS = (PEFT, OLD_DIFFUSERS, KOHYA, XLABS, AUTHORS, COMFYUI, OMI, DIFFUSERS)

FOLDER_WEIGHTS = tuple(name for item in FORMATS for name in item.weights)
"""Names of weights that stand for their folder."""

_DOWN = "|".join(mark for item in FORMATS for mark in item.down)
_UP = "|".join(mark for item in FORMATS for mark in item.up)
FACTOR = re.compile(f"(?P<down>{_DOWN})|(?P<up>{_UP})")
"""What tells A from B; what stands before it is the layer's name."""

PARTS = {part: name for item in FORMATS for part, name in item.parts.items()}
"""What the names of a module's other tensors end with -> its part."""


def format_of(layer: str, down: str) -> str:
    """Return the name of the format that a layer is spelled in; "other": its name does not tell.

    Arguments:
        layer: its name in the file.
        down: the name of its A.
    """
    found = next(
        (item for item in (KOHYA, XLABS, PEFT, AUTHORS, DIFFUSERS) if item.spells(layer)), None
    )
    if found is DIFFUSERS and ".lora_A" not in down:
        found = OLD_DIFFUSERS
    return found.name if found else "other"
