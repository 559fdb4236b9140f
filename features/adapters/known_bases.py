"""Transformers of known base models: layers by which adapters of a base are told.

Numbers of blocks, widths and names of modules are those of the models' published configurations and
of diffusers' classes for them. Of each module the size is given in widths: (outputs, inputs).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

Size = tuple[int, int] | None
"""(outputs, inputs) of a module in widths of the transformer; None: any."""

_JOINT: dict[str, Size] = {
    r"attn\.(to_[qkv]|add_[qkv]_proj|to_out\.0|to_add_out)": (1, 1),
    r"attn\.to_(added_)?qkv": (3, 1),
}
_FEED_FORWARD: dict[str, Size] = {
    r"ff(_context)?\.net\.0\.proj": (4, 1),
    r"ff(_context)?\.net\.2": (1, 4),
}
_MODULATION: dict[str, Size] = {r"norm1(_context)?\.linear": (6, 1)}
_SINGLE: dict[str, Size] = {
    r"attn\.to_[qkv]": (1, 1),
    r"attn\.to_qkv": (3, 1),
    r"attn\.to_qkv_mlp_proj": (7, 1),
    r"proj_mlp": (4, 1),
    r"proj_out": (1, 5),
}
_SINGLE_MODULATION: dict[str, Size] = {r"norm\.linear": (3, 1)}
_CROSS: dict[str, Size] = {
    r"attn1\.(to_[qkv]|to_out\.0)": (1, 1),
    r"attn2\.(to_q|to_out\.0)": (1, 1),
    r"attn2\.to_[kv]": None,
    r"ff\.net\.(0\.proj|2)": None,
}

_DOUBLE_LIST, _SINGLE_LIST = "transformer_blocks", "single_transformer_blocks"
_FLUX_OUTSIDE = r"x_embedder|context_embedder|time_text_embed\..+|norm_out\.linear|proj_out"


@dataclass(frozen=True)
class KnownBase:
    """A base model's transformer.

    Attributes:
        width: of its attention.
        blocks: list of blocks -> how many there are, and their modules by patterns.
        outside: pattern of the layers outside of all blocks.
    """

    name: str
    width: int
    blocks: Mapping[str, tuple[int, Mapping[str, Size]]]
    outside: str

    @cached_property
    def _patterns(self) -> dict[str, list[tuple[re.Pattern[str], Size]]]:
        return {
            name: [(re.compile(pattern), size) for pattern, size in modules.items()]
            for name, (_, modules) in self.blocks.items()
        }

    def has(self, path: str, outputs: int, inputs: int) -> bool:
        """Return whether it may have a layer.

        Arguments:
            path: in the transformer, as diffusers spells it.
        """
        match = _IN_LIST.fullmatch(path)
        if match is None or match["list"] not in self.blocks:
            return bool(re.fullmatch(self.outside, path))
        if int(match["number"]) >= self.blocks[match["list"]][0]:
            return False
        return any(
            pattern.fullmatch(match["module"])
            and (size is None or (outputs, inputs) == (size[0] * self.width, size[1] * self.width))
            for pattern, size in self._patterns[match["list"]]
        )


_IN_LIST = re.compile(r"(?P<list>[a-z_]+)\.(?P<number>\d+)\.(?P<module>.+)")


def block_numbers(path: str) -> tuple[str, int] | None:
    """(list, number) of the block that a layer lies in; None: it lies in none."""
    match = _IN_LIST.fullmatch(path)
    return (match["list"], int(match["number"])) if match else None


def _flux_like(
    name: str, double: int, single: int, *, modulation: bool = True, outside: str = _FLUX_OUTSIDE
) -> KnownBase:
    first = {**_JOINT, **_FEED_FORWARD, **(_MODULATION if modulation else {})}
    second = {**_SINGLE, **(_SINGLE_MODULATION if modulation else {})}
    blocks = {_DOUBLE_LIST: (double, first), _SINGLE_LIST: (single, second)}
    return KnownBase(name, 3072, blocks, outside)


def _flux_2(name: str, width: int, double: int, single: int) -> KnownBase:
    """FLUX.2: gated feed-forwards three wide, and one modulation for all blocks."""
    first: dict[str, Size] = {
        **_JOINT,
        r"ff(_context)?\.(linear_in|net\.0\.proj)": (6, 1),
        r"ff(_context)?\.(linear_out|net\.2)": (1, 3),
    }
    second: dict[str, Size] = {
        r"attn\.to_[qkv]": (1, 1),
        r"attn\.to_qkv_mlp_proj": (9, 1),
        r"proj_mlp": (6, 1),
        r"proj_out|attn\.to_out": (1, 4),
    }
    outside = (
        r"x_embedder|context_embedder|(double_stream_modulation_(img|txt)|single_stream_modulation)"
        r"\.lin(ear)?|time_guidance_embed\..+|norm_out\.linear|proj_out"
    )
    blocks = {_DOUBLE_LIST: (double, first), _SINGLE_LIST: (single, second)}
    return KnownBase(name, width, blocks, outside)


def _sd_3(name: str, width: int, blocks: int, *, second_attention: bool = False) -> KnownBase:
    modules = {**_JOINT, **_FEED_FORWARD}
    if second_attention:
        modules |= {r"attn2\.(to_[qkv]|to_out\.0)": (1, 1), r"norm1(_context)?\.linear": None}
    else:
        modules |= _MODULATION
    outside = r"pos_embed\.proj|context_embedder|time_text_embed\..+|norm_out\.linear|proj_out"
    return KnownBase(name, width, {_DOUBLE_LIST: (blocks, modules)}, outside)


def _cross(name: str, width: int, blocks: int) -> KnownBase:
    """Blocks of self- and cross-attention."""
    outside = (
        r"pos_embed\.proj|proj_in|proj_out|caption_projection\..+|adaln_single\..+|time_embed\..+"
    )
    return KnownBase(name, width, {_DOUBLE_LIST: (blocks, _CROSS)}, outside)


_QWEN_IMAGE = KnownBase(
    "qwen-image",
    3072,
    {
        _DOUBLE_LIST: (
            60,
            {
                **_JOINT,
                r"(img|txt)_mlp\.net\.0\.proj": (4, 1),
                r"(img|txt)_mlp\.net\.2": (1, 4),
                r"(img|txt)_mod\.1": (6, 1),
            },
        )
    },
    r"img_in|txt_in|time_text_embed\..+|norm_out\.linear|proj_out",
)

_AURAFLOW = KnownBase(
    "auraflow",
    3072,
    {
        "joint_transformer_blocks": (
            4,
            {**_JOINT, r"ff(_context)?\.(linear_[12]|out_projection)": None, **_MODULATION},
        ),
        _SINGLE_LIST: (
            32,
            {
                r"attn\.(to_[qkv]|to_out\.0)": (1, 1),
                r"ff\.(linear_[12]|out_projection)": None,
                r"norm1\.linear": (6, 1),
            },
        ),
    },
    r"context_embedder|time_step_proj\..+|norm_out\.linear|proj_out|pos_embed\.proj",
)

KNOWN_BASES = (
    _flux_like("flux", 19, 38),
    _flux_like(
        "chroma", 19, 38, modulation=False,
        outside=r"x_embedder|context_embedder|distilled_guidance_layer\..+|proj_out",
    ),
    _flux_like(
        "hunyuan-video", 20, 40,
        outside=r"x_embedder\.proj|context_embedder\..+|time_text_embed\..+|norm_out\.linear|proj_out",
    ),
    _flux_2("flux-2-dev", 6144, 8, 48),
    _flux_2("flux-2-klein-4b", 3072, 5, 20),
    _flux_2("flux-2-klein-9b", 4096, 8, 24),
    _QWEN_IMAGE,
    _AURAFLOW,
    _sd_3("sd-3-medium", 1536, 24),
    _sd_3("sd-3.5-medium", 1536, 24, second_attention=True),
    _sd_3("sd-3.5-large", 2432, 38),
    _cross("pixart-alpha", 1152, 28),
    _cross("pixart-sigma", 1152, 28),
    _cross("ltx-video", 2048, 28),
    _cross("ltx-video-13b", 4096, 48),
)  # fmt: skip
"""Transformers that adapters are told by. UNets are told by their text embeddings' width."""

NAMES_OF_BASES = {
    r"flux\W?2.*klein.*9b": "flux-2-klein-9b",
    r"flux\W?2.*klein": "flux-2-klein-4b",
    r"flux\W?2": "flux-2-dev",
    r"chroma": "chroma",
    r"flux": "flux",
    r"hunyuan.?video": "hunyuan-video",
    r"qwen.?image": "qwen-image",
    r"aura.?flow": "auraflow",
    r"(stable.?diffusion|sd).?3\.?5.*medium": "sd-3.5-medium",
    r"(stable.?diffusion|sd).?3\.?5.*large": "sd-3.5-large",
    r"(stable.?diffusion|sd).?3|sd3": "sd-3-medium",
    r"pixart.*sigma": "pixart-sigma",
    r"pixart": "pixart-alpha",
    r"ltx.*13b": "ltx-video-13b",
    r"ltx": "ltx-video",
    r"kolors": "kolors",
    r"refiner": "sdxl-refiner",
    r"sdxl|xl-(base-)?v?1|xl-base|stable.?diffusion.?xl|playground-v2": "sdxl",
    r"zeroscope|text-to-video-ms|modelscope": "zeroscope",
    r"stable.?video|svd": "svd",
    r"sd_v2|v2-[01]|diffusion.?v?2\b|stable-diffusion-2|sd-?2": "sd-2",
    r"sd_v1|v1-[1-5]|diffusion-v1|stable-diffusion-1|sd-?1": "sd-1",
}
"""Names of bases in headers and configurations, as patterns, the most telling first. A claim only
chooses among the bases that an adapter's layers fit."""
