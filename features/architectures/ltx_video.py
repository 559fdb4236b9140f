"""LTX-Video, and LTX-2 with its audio."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .architecture import Architecture, Shape
from .cross_attention import cross_attention_base

_AUDIO = re.compile(r"(^|\.)audio_|^av_c|^transformer_blocks\.\d+\.video_to_audio_attn\.")
_RENAMED = {
    "audio_patchify_proj": "audio_proj_in",
    "patchify_proj": "proj_in",
    "audio_adaln_single": "audio_time_embed",
    "adaln_single": "time_embed",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
    "prompt_adaln_single": "prompt_adaln",
}
"""First word of a path -> diffusers', in LTX-2. Source: diffusers' conversion of LTX-2."""


def _rename(path: str) -> str | None:
    """The authors' path -> diffusers'."""
    first, dot, rest = path.partition(".")
    return f"{_RENAMED.get(first, first)}{dot}{rest}"


def _is_shown_by(shapes: Mapping[str, Shape]) -> bool:
    return any(map(_AUDIO.search, shapes))


_OUTSIDE = r"proj_in|patchify_proj|proj_out|caption_projection\..+|time_embed\..+|adaln_single\..+"
_LTX_2_OUTSIDE = rf"{_OUTSIDE}|audio_.+|av_cross_attn_.+|prompt_adaln\..+"
_LTX_2_MODULES = {
    r"audio_attn[12]\..+": None,
    r"(audio_to_video|video_to_audio)_attn\..+": None,
    r"audio_ff\.net\.(0\.proj|2)": None,
    r"(audio_)?attn[12]\.to_gate_logits": None,
}

ARCHITECTURE = Architecture(
    "ltx-2",
    bases=(
        cross_attention_base("ltx-video", 2048, 28, r"^(?!.*(13b|ltx.?2)).*ltx", outside=_OUTSIDE),
        cross_attention_base("ltx-video-13b", 4096, 48, r"ltx.*13b", outside=_OUTSIDE),
        cross_attention_base(
            "ltx-2", 4096, 48, r"ltx.?2", extra=_LTX_2_MODULES, outside=_LTX_2_OUTSIDE,
            marks=r"^transformer_blocks\.\d+\.(audio_to_video|video_to_audio)_attn\.|^av_cross_attn_",
        ),
    ),
    words=(
        *("audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn", "audio_ff"),
        *_RENAMED,
    ),
    rename=_rename,
    is_shown_by=_is_shown_by,
)  # fmt: skip
