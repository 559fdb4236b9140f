"""Lumina-Image 2 and NetaYume, which is built on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .architecture import Architecture, FusedModule, KnownBase, Shape, Size

_LISTS = ("layers", "noise_refiner", "context_refiner")
_PATH = re.compile(rf"({'|'.join(_LISTS)})\.(\d+)\.(.+)")
_MODULES = {
    "attention.qkv": "attn.to_qkv",
    "attention.out": "attn.to_out.0",
    "adaLN_modulation.1": "norm1.linear",
    **{f"feed_forward.w{i}": f"feed_forward.linear_{i}" for i in (1, 2, 3)},
}


def _rename(path: str) -> str | None:
    """The authors' path -> diffusers'."""
    match = _PATH.fullmatch(path)
    if match is None or match[3] not in _MODULES:
        return None
    return f"{match[1]}.{match[2]}.{_MODULES[match[3]]}"


def _grouped_queries(outputs: int, inputs: int) -> Sequence[int] | None:
    """Queries are as wide as the inputs; keys and values share the rest."""
    rest = outputs - inputs
    return [0, inputs, inputs + rest // 2, outputs] if rest > 0 and rest % 2 == 0 else None


def _is_shown_by(shapes: Mapping[str, Shape]) -> bool:
    """It has SiLU before its modulation's layer, and fewer keys than queries; Z-Image has not."""
    own = [(path, shape) for path, shape in shapes.items() if _PATH.fullmatch(path)]
    if not own or not all(map(_rename, (path for path, _ in own))):
        return False
    return any(
        path.endswith(".adaLN_modulation.1")
        or (path.endswith(".attention.qkv") and inputs < outputs < 3 * inputs)
        for path, (outputs, inputs) in own
    )


_BLOCK: dict[str, Size] = {
    r"attn\.(to_q|to_out\.0)": (1, 1),
    r"attn\.to_[kv]": (1 / 3, 1),
    r"feed_forward\.linear_[13]": (4, 1),
    r"feed_forward\.linear_2": (1, 4),
    r"norm1\.linear": None,
}

ARCHITECTURE = Architecture(
    "lumina-2",
    bases=(
        KnownBase(
            "lumina-2",
            2304,
            {"layers": (26, _BLOCK), "noise_refiner": (2, _BLOCK), "context_refiner": (2, _BLOCK)},
            r"x_embedder|time_caption_embed\..+|norm_out\.linear_[12]|final_layer\..+",
            r"lumina.*2|neta",
        ),
    ),
    words=("noise_refiner", "context_refiner", "feed_forward", "adaLN_modulation"),
    plain_words=("layers", "attention", "qkv", "out", "w1", "w2", "w3"),
    rename=_rename,
    is_shown_by=_is_shown_by,
    fused={"attn.to_qkv": FusedModule(("attn.to_q", "attn.to_k", "attn.to_v"), _grouped_queries)},
)
