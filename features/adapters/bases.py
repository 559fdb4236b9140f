"""Which model an adapter was trained on, guessed from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from lorasweep.features.layers.names import LANGUAGE_MODEL, parse_layer
from lorasweep.features.layers.spellings import TRANSFORMER, UNET

# Width of the text embedding, which keys and values of cross-attention read -> base.
# Sources: `cross_attention_dim` of the models' published configurations.
_TEXT_WIDTHS = {768: "sd-1", 1024: "sd-2", 2048: "sdxl", 1280: "sdxl-refiner"}
# Inputs of a joint attention's queries -> base, where all blocks are double ones.
_SD3_WIDTHS = {1536: "sd-3-medium", 2432: "sd-3.5-large"}
_FLUX_WIDTH = 3072
_UNKNOWN = "unknown"
_NOTHING = ("sd-1-or-2", "unet", "text-encoder", "transformer", "llm", _UNKNOWN)
_WIDTH_ONLY = re.compile(r"(llm|transformer)-\d+|unet-of-\d+-channels")


def certainty(base: str) -> int:
    """How much the name of a base says: 2 a model, 1 only the width of its layers, which many
    models have, 0 less."""
    if base in _NOTHING:
        return 0
    return 1 if _WIDTH_ONLY.fullmatch(base) else 2


def is_other(base: str, known: Collection[str]) -> bool:
    """Whether a base is none of some others. As long as one side does not name a model it is not
    said to be; shapes tell then."""
    models = {name.casefold() for name in known if certainty(name) == 2}
    return certainty(base) == 2 and bool(models) and base.casefold() not in models


def may_be(base: str, model: str) -> bool:
    """Whether an adapter that shows one base may be of a model all the same: it shows nothing, or
    the width of that model's double blocks alone."""
    if base == model or not certainty(base):
        return True
    name, _, width = model.partition("-")
    return name == "flux" and base == f"transformer-{width or _FLUX_WIDTH}"


def guess_base(
    shapes: Mapping[str, tuple[int, int, int]],
    header: Mapping[str, str],
    config: Mapping[str, Any],
) -> str:
    """A short name: `sd-1`, `sd-2`, `sdxl`, `flux`, `sd-3-medium`, a language model's own name, or
    what can be said: `unet-32` for a UNet whose text embedding is 32 wide, `llm-64` for a language
    model whose attention is 64 wide, `transformer-64`, `unknown`. See `certainty`.

    Shapes come before what a header or a configuration claims; for language models, of which many
    have the same shapes, PEFT's `base_model_name_or_path` comes first.

    Arguments:
        shapes: canonical layer -> (outputs, inputs, rank).
        header: a safetensors header's strings.
        config: PEFT's configuration.
    """
    by_component: dict[str, dict[str, tuple[int, int, int]]] = {}
    for name, shape in shapes.items():
        by_component.setdefault(parse_layer(name).component, {})[name] = shape
    if UNET in by_component:
        return _unet(by_component[UNET], header)
    if TRANSFORMER in by_component:
        return _transformer(by_component[TRANSFORMER])
    claimed = str(config.get("base_model_name_or_path") or "").rstrip("/")
    if LANGUAGE_MODEL in by_component:
        return claimed.rsplit("/", 1)[-1] or _language_model(by_component[LANGUAGE_MODEL])
    if any(component.startswith("text_encoder") for component in by_component):
        return "sdxl" if "text_encoder_2" in by_component else "text-encoder"
    return claimed.rsplit("/", 1)[-1] or _UNKNOWN


def _unet(shapes: Mapping[str, tuple[int, int, int]], header: Mapping[str, str]) -> str:
    widths = [s[1] for name, s in shapes.items() if re.search(r"\.attn2\.to_[kv]$", name)]
    if widths:
        return _TEXT_WIDTHS.get(widths[0], f"unet-{widths[0]}")
    # SDXL alone has several transformer blocks in a row, and none at its finest level.
    if any(re.search(r"\.transformer_blocks\.[1-9]", name) for name in shapes):
        return "sdxl"
    # What a file of the base was called says nothing: `v2` is the second version of many.
    claimed = " ".join(
        header.get(key, "") for key in ("ss_base_model_version", "modelspec.architecture")
    ).lower()
    for word, base in (("sdxl", "sdxl"), ("xl-v1", "sdxl"), ("v2", "sd-2"), ("v1", "sd-1")):
        if word in claimed:
            return base
    # SD 1 and 2 differ in nothing else that an adapter of self-attention shows.
    finest = re.compile(r"unet\.(down_blocks\.0|up_blocks\.3)\.attentions\.\d\..*attn1\.to_q$")
    fine = [s[1] for name, s in shapes.items() if finest.match(name)]
    if fine:
        return "sd-1-or-2" if fine[0] == 320 else f"unet-of-{fine[0]}-channels"
    return "unet"


def _transformer(shapes: Mapping[str, tuple[int, int, int]]) -> str:
    widths = [s[1] for name, s in shapes.items() if name.endswith(".attn.to_q")]
    width = widths[0] if widths else 0
    if any(".single_transformer_blocks." in name for name in shapes):
        return "flux" if width in (0, _FLUX_WIDTH) else f"flux-{width}"
    return _SD3_WIDTHS.get(width, f"transformer-{width}" if width else "transformer")


def _language_model(shapes: Mapping[str, tuple[int, int, int]]) -> str:
    queries = re.compile(r"\.(q_proj|query_key_value|c_attn|qkv_proj|query|Wqkv)$")
    widths = [s[1] for name, s in shapes.items() if queries.search(name)]
    return f"llm-{widths[0]}" if widths else "llm"
