"""Z-Image."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .architecture import Architecture, FusedModule, KnownBase, Shape, Size

_LISTS = ("layers", "noise_refiner", "context_refiner", "siglip_refiner")
_PATH = re.compile(rf"({'|'.join(_LISTS)})\.(\d+)\.(.+)")
_MODULES = {
    "attention.out": "attention.to_out.0",
    "attention.to_out": "attention.to_out.0",
    **{
        name: name
        for name in (
            *("attention.qkv", "attention.to_q", "attention.to_k", "attention.to_v"),
            *("attention.to_out.0", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
            "adaLN_modulation.0",
        )
    },
}
_OUTSIDE = (
    r"all_x_embedder\.[-\d]+|all_final_layer\.[-\d]+\.(linear|adaLN_modulation\.1)"
    r"|t_embedder\.mlp\.[02]|cap_embedder\.1"
)


def _rename(path: str) -> str | None:
    """The authors' path -> diffusers'."""
    match = _PATH.fullmatch(path)
    if match is None:
        return path if re.fullmatch(_OUTSIDE, path) else None
    return f"{match[1]}.{match[2]}.{_MODULES[match[3]]}" if match[3] in _MODULES else None


def _is_shown_by(shapes: Mapping[str, Shape]) -> bool:
    own = [(path, shape) for path, shape in shapes.items() if _PATH.fullmatch(path)]
    if not own or not all(map(_rename, (path for path, _ in own))):
        return False
    return any(
        re.search(r"\.(attention\.to_[qkv]|attention\.to_out(\.0)?|adaLN_modulation\.0)$", path)
        or (path.endswith(".attention.qkv") and outputs == 3 * inputs)
        for path, (outputs, inputs) in own
    )


_BLOCK: dict[str, Size] = {
    r"attention\.(to_[qkv]|to_out\.0)": (1, 1),
    r"attention\.qkv": (3, 1),
    r"feed_forward\.w[13]": (8 / 3, 1),
    r"feed_forward\.w2": (1, 8 / 3),
    r"adaLN_modulation\.0": None,
}

ARCHITECTURE = Architecture(
    "z-image",
    bases=(
        KnownBase(
            "z-image",
            3840,
            {
                "layers": (30, _BLOCK),
                **{name: (2, _BLOCK) for name in _LISTS[1:]},
            },
            _OUTSIDE,
            r"z.?image",
            marks=r"^all_final_layer\.",
        ),
    ),
    words=("noise_refiner", "context_refiner", "feed_forward", "adaLN_modulation", "to_out"),
    plain_words=("layers", "attention", "qkv", "out", "w1", "w2", "w3"),
    rename=_rename,
    is_shown_by=_is_shown_by,
    fused={"attention.qkv": FusedModule(("attention.to_q", "attention.to_k", "attention.to_v"))},
)
