"""PixArt-α and PixArt-Σ."""

from __future__ import annotations

from .architecture import Architecture
from .cross_attention import cross_attention_base

_OUTSIDE = r"pos_embed\.proj|proj_out|caption_projection\..+|adaln_single\..+"

ARCHITECTURE = Architecture(
    "pixart",
    bases=(
        cross_attention_base("pixart-alpha", 1152, 28, r"^(?!.*sigma).*pixart", outside=_OUTSIDE),
        cross_attention_base("pixart-sigma", 1152, 28, r"pixart.*sigma", outside=_OUTSIDE),
    ),
)
