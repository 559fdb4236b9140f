"""From a layer's name in any format to diffusers' own module path.

Formats say what stands before a path (`features/formats`), architectures what the path is called in
diffusers (`features/architectures`). Queries, keys and values that are fused into one matrix stay
one layer, under the name that diffusers gives them when it fuses them.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

from lorasweep.features.architectures import catalogue, text_encoder
from lorasweep.features.architectures.architecture import (
    SECOND_TRANSFORMER,
    TRANSFORMER,
    UNET,
    Architecture,
)
from lorasweep.features.formats.catalogue import AUTHORS, COMFYUI, DIFFUSERS, KOHYA, OMI, PEFT

_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
    r"|^module\.(?=.*\.)|(?<=_)_orig_mod_"
)
"""Words that torch.compile, FSDP, checkpointing and DDP put into paths of wrapped modules."""
_PEFT_INSIDE = re.compile(
    r"^((?:unet|transformer|text_encoder(?:_[23])?)\.)base_model\.(?:model\.)?"
)
# Paths in language models (GPT-2, Falcon, ChatGLM) that begin like diffusers' component.
_LANGUAGE_MODEL = re.compile(r"transformer\.(h|encoder|wte|wpe|word_embeddings|output_layer)\.")


class Located(NamedTuple):
    """A layer's module path, and the component that its prefix names.

    Attributes:
        component: diffusers'; "": the path tells.
        path: with dots.
    """

    component: str
    path: str


@cache  # asked for every layer of every file
def unwrapped(layer: str) -> str:
    """Remove what wrappers put before and into a layer's name."""
    layer = _WRAPPERS.sub("", layer)
    for prefix in PEFT.prefixes:
        layer = layer.removeprefix(prefix)
    return _PEFT_INSIDE.sub(r"\1", layer)


def is_of_peft(layer: str) -> bool:
    """Return whether PEFT's wrapper stands before a layer's path."""
    return "base_model." in layer and _WRAPPERS.sub("", layer).startswith("base_model.")


def locate(layer: str) -> Located | None:
    """Take a layer's name apart into the component and the module path.

    Arguments:
        layer: its name in any format, without PEFT's wrapper and without the tensor's part.

    Returns:
        None: it has words that no architecture has, or is a language model's.
    """
    return _from_flat(layer) if "." not in layer else _from_dots(layer)


def diffusers_path(layer: str) -> tuple[str, str] | None:
    """(component, module path in it) of a diffusion model's layer, as diffusers has them.

    Arguments:
        layer: see `locate`.

    Returns:
        None: it is no layer of a diffusion model in a spelling that means one thing everywhere.
    """
    located = locate(layer)
    if located is None:
        return None
    component, path = located
    if path == layer and "." not in layer:  # one word means several things
        component = _component_of(path)
        return (component, path) if component else None
    if component.startswith("text_encoder"):
        return component, text_encoder.canonical_path(path)
    if component == SECOND_TRANSFORMER:
        return component, (catalogue.rename(path, TRANSFORMER) or ("", path))[1]
    # Outside of blocks a path behind a component is diffusers': Qwen-Image has Flux' `img_in`.
    is_theirs = component == TRANSFORMER and not re.search(r"\.\d+\.", path)
    found = None if is_theirs else catalogue.rename(path, component)
    if found is None:
        component = component or _component_of(path)
        found = (component, path) if component else None
    if found and found[0] == UNET and found[1].endswith(".to_out"):
        return UNET, f"{found[1]}.0"  # old names of attention processors are without it
    if found and found[0] == "text_encoder":
        return found[0], text_encoder.canonical_path(found[1])
    return found


def path_in_architecture(layer: str, architecture: Architecture) -> str | None:
    """The canonical name of a layer in a file that shows an architecture; None: it has no such path
    there.

    Arguments:
        layer: see `locate`.
    """
    located = locate(layer)
    if located is None or located.component not in ("", TRANSFORMER):
        return None
    path = architecture.rename(located.path)
    if not path and (located.component or located.path.startswith("final_layer.")):
        path = located.path  # Flux has another name for such a layer, this model has not
    return f"{TRANSFORMER}.{path}" if path else None


def _component_of(path: str) -> str:
    return "text_encoder" if path.startswith("text_model.") else catalogue.component_of(path)


# Flat names: kohya's


def _from_flat(layer: str) -> Located | None:
    prefix = next((p for p in KOHYA.prefixes if layer.startswith(p)), None)
    if prefix is None:
        return Located("", layer)  # outside of all blocks, as PEFT writes it: one word
    component = KOHYA.prefixes[prefix]
    words = _TEXT_WORDS if component.startswith("text_encoder") else _WORDS
    path = words.unflatten(layer.removeprefix(prefix))
    return Located(component, path) if path else None


class _Words:
    """Words of module paths, by which a name with underscores for dots is cut."""

    def __init__(self, joined: frozenset[str], plain: frozenset[str]) -> None:
        self._all = joined | plain
        dotted = sorted((re.escape(w.replace("_", ".")) for w in joined), key=len, reverse=True)
        self._join = re.compile(rf"(?<![^.])(?:{'|'.join(dotted)})(?![^.])")

    def unflatten(self, name: str) -> str:
        """Put the dots back; "": some word is not known."""
        path = self._join.sub(lambda match: match[0].replace(".", "_"), name.replace("_", "."))
        known = all(word in self._all or word.isdigit() for word in path.split("."))
        return path if known else ""


_TEXT_WORDS = _Words(frozenset(text_encoder.WORDS), frozenset(text_encoder.PLAIN_WORDS))
_WORDS = _Words(
    catalogue.WORDS | frozenset(text_encoder.WORDS),
    catalogue.PLAIN_WORDS | frozenset(text_encoder.PLAIN_WORDS),
)


# Names with dots


def _from_dots(layer: str) -> Located | None:
    for prefix, component in COMFYUI.prefixes.items():
        if layer.startswith(prefix):
            return Located(component, layer.removeprefix(prefix))
    for prefix, component in OMI.prefixes.items():
        if re.match(rf"{prefix}(text_model\.|text_projection$)", layer):
            return Located(component, layer.removeprefix(prefix))
    path = re.sub(r"\.processor(?=\.|$)", "", layer)
    upstream = next((p for p in AUTHORS.prefixes if path.startswith(p)), "")
    if upstream:
        return Located("", path.removeprefix(upstream))
    for prefix, component in DIFFUSERS.prefixes.items():
        if path.startswith(prefix) and path != prefix:
            if _LANGUAGE_MODEL.match(path):
                return None
            return Located(component, path.removeprefix(prefix))
    return Located("", path)


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
            r"^((model\.)?diffusion_model\.)?(distilled_guidance_layer|joint_transformer_blocks|"
            r"(double|single)_stream_blocks|(double_stream_modulation_(img|txt)|"
            r"single_stream_modulation))\.",
            r"img_in[._]proj|txt_in[._](individual|input|[tc]_embedder)|(time|guidance)_in[._]mlp",
            r"^lora_transformer_(double_|single_|joint_)?blocks_",
        )
    )
)


def has_new_name(layer: str) -> bool:
    """Return whether a layer tensor's layer has another canonical name than in version 0.1: names
    feed numbers."""
    flat = layer.partition(".")[0]
    located = locate(flat) if layer.startswith(tuple(KOHYA.prefixes)) else None
    if located and not catalogue.NEW_WORDS.isdisjoint(located.path.split(".")):
        return diffusers_path(flat) is not None
    return any(of.search(layer) for of in (_WRAPPERS, _PEFT_INSIDE, _NEW_NAMES))
