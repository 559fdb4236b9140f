"""Qwen-Image and its editing models."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .architecture import Architecture, KnownBase, Shape
from .joint_attention import DOUBLE_LIST, JOINT

_IN_BLOCK = re.compile(r"transformer_blocks\.\d+\.(img|txt)_(mlp|mod)\.")
_OWN = {"img_in", "txt_in", "proj_out", "norm_out.linear"}


def _rename(path: str) -> str | None:
    """Its authors' paths are diffusers', also those that Flux has under other names."""
    return path if path in _OWN or path.startswith(("transformer_blocks.", "time_text")) else None


def _is_shown_by(shapes: Mapping[str, Shape]) -> bool:
    beside = any(path.startswith("transformer_blocks.") for path in shapes)
    return any(
        _IN_BLOCK.match(path) or (beside and path in ("img_in", "txt_in")) for path in shapes
    )


ARCHITECTURE = Architecture(
    "qwen-image",
    bases=(
        KnownBase(
            "qwen-image",
            3072,
            {
                DOUBLE_LIST: (
                    60,
                    {
                        **JOINT,
                        r"(img|txt)_mlp\.net\.0\.proj": (4, 1),
                        r"(img|txt)_mlp\.net\.2": (1, 4),
                        r"(img|txt)_mod\.1": (6, 1),
                    },
                )
            },
            r"img_in|txt_in|time_text_embed\..+|norm_out\.linear|proj_out",
            r"qwen.?image",
            marks=rf"^{_IN_BLOCK.pattern}",
        ),
    ),
    words=("img_mlp", "txt_mlp", "img_mod", "txt_mod", "img_in", "txt_in"),
    rename=_rename,
    is_shown_by=_is_shown_by,
)
