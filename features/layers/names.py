"""Names of LoRA tensors and of the layers they belong to, parsed once into parts.

The tables of docs/layers.md show what is understood; a name that is not keeps its own spelling.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from lorasweep.features.architectures.architecture import (
    SECOND_TRANSFORMER,
    TRANSFORMER,
    UNET,
    Architecture,
)
from lorasweep.features.architectures.catalogue import BLOCK_LISTS
from lorasweep.features.formats.catalogue import FACTOR

from .spellings import diffusers_path, path_in_architecture, unwrapped

LANGUAGE_MODEL, OTHER = "language_model", "other"

COMPONENTS = (
    *(UNET, TRANSFORMER, LANGUAGE_MODEL),
    *("text_encoder", "text_encoder_2", "text_encoder_3", OTHER),
)
"""The networks that a layer may be of, in the order of tables."""

SELF_ATTENTION, CROSS_ATTENTION, FEED_FORWARD = "self_attention", "cross_attention", "feed_forward"
KINDS = (SELF_ATTENTION, CROSS_ATTENTION, FEED_FORWARD, OTHER)
"""What a layer may be part of."""


# Tensors


class TensorName(NamedTuple):
    """A LoRA tensor's column: its layer in the dataset's own spelling, and which factor it is.

    `down` is A (rank × inputs); otherwise it is B (outputs × rank), of ΔW = s·B·A.
    """

    layer: str
    down: bool


@cache
def parse_tensor(column: str) -> TensorName | None:
    """The layer and the factor of a dataset column; None if it holds no LoRA weights."""
    mark = FACTOR.search(column)
    return TensorName(column[: mark.start()], mark["down"] is not None) if mark else None


# Layers


@dataclass(frozen=True)
class LayerParts:
    """What a layer's name says.

    Attributes:
        name: the canonical name, the same in every spelling.
        component: one of `COMPONENTS`: the network it is of.
        block: `down_blocks.0`, `mid_block`, `transformer_blocks.3`, `layers.12`; "" outside of all.
        numbers: those of the lists inside the block, outermost first: (attention, transformer
            block) of a UNet.
        module: canonical name of the attention or feed-forward it is part of, else of its parent.
        kind: one of `KINDS`.
        projection: `q`, `k`, `v`, `out`, `qkv`; `add_q` … of the text in a joint attention; `gate`,
            `up`, `down` of a feed-forward; else the last word of the name.
    """

    name: str
    component: str
    block: str
    numbers: tuple[int, ...]
    module: str
    kind: str
    projection: str


_MODULES = {
    **dict.fromkeys(
        ("attn", "attn1", "self_attn", "attention", "self_attention", "SelfAttention"),
        SELF_ATTENTION,
    ),
    **dict.fromkeys(
        ("attn2", "cross_attn", "encoder_attn", "crossattention", "EncDecAttention"),
        CROSS_ATTENTION,
    ),
    **dict.fromkeys(
        ("ff", "ff_context", "ffn", "mlp", "feed_forward", "DenseReluDense", "block_sparse_moe"),
        FEED_FORWARD,
    ),
    "proj_mlp": FEED_FORWARD,  # of Flux' single blocks, which have no module for it
}
_ATTENTION_PROJECTIONS = {
    **dict.fromkeys(("to_q", "q_proj", "query", "wq", "q"), "q"),
    **dict.fromkeys(("to_k", "k_proj", "key", "wk", "k"), "k"),
    **dict.fromkeys(("to_v", "v_proj", "value", "wv", "v"), "v"),
    **dict.fromkeys(("to_out", "out_proj", "o_proj", "c_proj", "dense", "wo", "o"), "out"),
    **dict.fromkeys(("to_qkv", "qkv_proj", "query_key_value", "c_attn", "Wqkv"), "qkv"),
    **{"add_q_proj": "add_q", "add_k_proj": "add_k", "add_v_proj": "add_v"},
    **{"to_add_out": "add_out", "to_added_qkv": "add_qkv"},
}
_FEED_FORWARD_PROJECTIONS = {
    **dict.fromkeys(("gate_proj", "w1", "wi_0"), "gate"),
    **dict.fromkeys(("net.0.proj", "up_proj", "fc1", "c_fc", "dense_h_to_4h", "w3", "wi_1"), "up"),
    **dict.fromkeys(("wi", "proj_mlp"), "up"),
    **dict.fromkeys(("net.2", "down_proj", "fc2", "c_proj", "dense_4h_to_h", "w2", "wo"), "down"),
    **{"gate_up_proj": "gate_up", "gate": "router"},
}
# Queries, keys, values and the first half of a feed-forward in one matrix: neither kind.
_BOTH_KINDS = "to_qkv_mlp_proj"

_UNET_BLOCK = re.compile(r"(?:down_blocks|up_blocks)\.\d+|mid_block")
_LISTS = "|".join(sorted(BLOCK_LISTS | {"blocks", "block", "layers", "layer", "h"}))
_LIST_BLOCK = re.compile(rf"(?<![^.])(?:(?:encoder|decoder)\.)?(?:{_LISTS})\.\d+(?![^.])")
_NO_LANGUAGE = re.compile(
    r"vision|visual|vit\b|audio|diffusion_model|^text_encoders\.|^t5\.", re.IGNORECASE
)
_OF_LANGUAGE_MODELS = {"lm_head", "embed_out", "embed_tokens", "wte", "wpe", "word_embeddings"}


@cache
def parse_layer(layer: str) -> LayerParts:
    """The parts of a layer's name, in whatever spelling (see docs/layers.md).

    Arguments:
        layer: a column's name without the tensor's part, as `parse_tensor` gives it.
    """
    own = unwrapped(layer)
    found = diffusers_path(own)
    component, path = found or (_component(own), own)
    name = f"{component}.{path}" if found else own
    component = TRANSFORMER if component == SECOND_TRANSFORMER else component
    block = _block(component, path)
    words = path.split(".")
    at = next((i for i, word in enumerate(words) if word in _MODULES), None)
    kind = OTHER if at is None or words[-1] == _BOTH_KINDS else _MODULES[words[at]]
    tail = words[-1:] if at is None else words[at + 1 :] or words[at:]
    module = name.removesuffix(".".join(tail)).removesuffix(".")
    head = path.removesuffix(".".join(tail))
    inside = head.partition(block)[2] if block else ""
    numbers = tuple(int(word) for word in inside.split(".") if word.isdigit())
    return LayerParts(name, component, block, numbers, module, kind, _projection(kind, tail))


def canonical_name(layer: str, architecture: Architecture | None = None) -> str:
    """A layer's name without what differs between the ways of writing it.

    Arguments:
        architecture: the one that the layer's file shows, where names mean something else there.
    """
    own = path_in_architecture(unwrapped(layer), architecture) if architecture else None
    return own or parse_layer(layer).name


def _component(path: str) -> str:
    """Of what is no diffusion model's."""
    words = path.split(".")
    if _NO_LANGUAGE.search(path):
        return OTHER
    in_block = _LIST_BLOCK.search(path) and any(word in _MODULES for word in words)
    return LANGUAGE_MODEL if in_block or _OF_LANGUAGE_MODELS & set(words) else OTHER


def _block(component: str, path: str) -> str:
    match = _UNET_BLOCK.match(path) if component == UNET else _LIST_BLOCK.search(path)
    if match is None:
        return ""
    # One text encoder has one stack: only a language model may have two.
    return match[0] if component == LANGUAGE_MODEL else match[0].removeprefix("encoder.")


def _projection(kind: str, tail: list[str]) -> str:
    words = tail[:-1] if len(tail) > 1 and tail[-1].isdigit() else tail
    last = words[-1] if words else ""
    if kind in (SELF_ATTENTION, CROSS_ATTENTION):
        return _ATTENTION_PROJECTIONS.get(last, last)
    if kind == FEED_FORWARD:
        whole = _FEED_FORWARD_PROJECTIONS.get(".".join(tail))
        return whole or _FEED_FORWARD_PROJECTIONS.get(last, last)
    return last


# Order

_STAGES = {
    "down_blocks": 1,
    "transformer_blocks": 1,
    "mid_block": 2,
    "single_transformer_blocks": 2,
    "up_blocks": 3,
    **dict.fromkeys(("conv_out", "norm_out", "proj_out", "lm_head", "embed_out"), 4),
}
_PROJECTIONS = ("q", "k", "v", "qkv", "out", "add_q", "add_k", "add_v", "add_qkv", "add_out")
_PROJECTION_ORDER = {name: i for i, name in enumerate((*_PROJECTIONS, "gate", "up", "down"))}

Order = tuple[int, int, tuple[tuple[int, int, str], ...], int, tuple[tuple[int, int, str], ...]]


def network_order(layer: str) -> Order:
    """A sort key of layers' names: as data flows through the networks, one component after another.

    Down blocks, mid block, up blocks; numbers as numbers; queries, keys, values, output.
    """
    parts = parse_layer(layer)
    first = parts.name.removeprefix(f"{parts.component}.").split(".")[0]
    stage = _STAGES.get(first, 2 if parts.block.startswith("decoder.") else int(parts.block != ""))
    return (
        COMPONENTS.index(parts.component),
        stage,
        _natural(parts.module),
        _PROJECTION_ORDER.get(parts.projection, len(_PROJECTION_ORDER)),
        _natural(parts.name),
    )


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    return tuple(
        (0, int(piece), "") if piece.isdigit() else (1, 0, piece)
        for piece in re.findall(r"\d+|\D+", name)
    )
