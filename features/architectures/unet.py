"""UNets: Stable Diffusion 1, 2 and XL, Kolors, Stable Video Diffusion, Zeroscope, AnimateDiff."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from .architecture import UNET, Architecture, Shape

# Stability's UNet: block number -> diffusers' block and place in it, for two layers per block.
_INNER = {"0": "resnets", "1": "attentions"}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_RESNET = {
    "in_layers.2": "conv1",
    "out_layers.3": "conv2",
    "emb_layers.1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
_OUTSIDE = {
    "input_blocks.0.0": "conv_in",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}


def _rename(path: str) -> str | None:
    """Stability's path -> diffusers'."""
    if path in _OUTSIDE:
        return _OUTSIDE[path]
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", path):
        return f"mid_block.{_MIDDLE[match[1]]}.{_RESNET.get(match[2], match[2])}"
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d+)\.(.+)", path)
    if not match:
        return None
    down, number, inner, rest = match[1] == "input", int(match[2]), match[3], match[4]
    block, place = divmod(number - 1 if down else number, 3)
    side = "down" if down else "up"
    if rest in ("op", "conv"):
        return f"{side}_blocks.{block}.{side}samplers.0.conv"
    if inner not in _INNER or block < 0:
        return None
    return f"{side}_blocks.{block}.{_INNER[inner]}.{place}.{_RESNET.get(rest, rest)}"


ARCHITECTURE = Architecture(
    "unet",
    UNET,
    first_words=(
        *("down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out"),
        *("time_embedding", "add_embedding"),
    ),
    words=(
        *("down_blocks", "mid_block", "up_blocks", "transformer_blocks"),
        *("input_blocks", "middle_block", "output_blocks", "in_layers", "out_layers"),
        *("emb_layers", "skip_connection", "time_embed", "label_emb", "time_embedding"),
        *("add_embedding", "time_emb_proj", "linear_1", "linear_2", "conv_in", "conv_out"),
        *("to_q", "to_k", "to_v", "to_out", "proj_in", "proj_out", "conv_shortcut"),
    ),
    plain_words=(
        *("attentions", "resnets", "downsamplers", "upsamplers", "conv", "conv1", "conv2", "op"),
        *("out", "attn1", "attn2", "ff", "net", "proj"),
    ),
    rename=_rename,
)

# Width of the text embedding, which keys and values of cross-attention read -> bases.
# Sources: `cross_attention_dim` of the models' published configurations.
_TEXT_WIDTHS = {
    768: ("sd-1",),
    1024: ("sd-2", "svd", "zeroscope"),
    1280: ("sdxl-refiner",),
    2048: ("kolors", "sdxl"),
}
UNETS = tuple(sorted(name for names in _TEXT_WIDTHS.values() for name in names))
FINEST_320 = ("sd-1", "sd-2", "svd", "zeroscope")
"""UNets whose finest level with attention has 320 channels."""
UNET_MARKS = {
    "temporal_transformer_blocks": "svd",
    "temp_attentions": "zeroscope",
    "temp_convs": "zeroscope",
    "motion_modules": "animatediff",
}
"""Words of paths that only one UNet has."""
UNET_CLAIMS = {
    "kolors": r"kolors",
    "sdxl-refiner": r"refiner",
    "sdxl": (r"^(?!.*refiner).*(sdxl|xl-(base-)?v?1|xl-base|stable.?diffusion.?xl|playground-v2)"),
    "zeroscope": r"zeroscope|text-to-video-ms|modelscope",
    "svd": r"stable.?video|svd",
    "sd-2": r"sd_v2|v2-[01]|diffusion.?v?2\b|stable-diffusion-2|sd-?2",
    "sd-1": r"sd_v1|v1-[1-5]|diffusion-v1|stable-diffusion-1|sd-?1",
}
"""Base -> pattern of its name in headers and configurations."""
_WITHOUT_CLIP = {"kolors", "svd"}
_WITH_TWO_CLIPS = {"sdxl", "sdxl-refiner"}


def fitting_unets(
    shapes: Mapping[str, Shape], components: Collection[str]
) -> tuple[tuple[str, ...], str]:
    """The UNets that layers fit, and what can be said where there is none.

    Arguments:
        shapes: canonical path in the UNet -> (outputs, inputs).
        components: the adapter's components.
    """
    for mark, name in UNET_MARKS.items():
        if any(f".{mark}." in path for path in shapes):
            return (name,), ""
    names: Collection[str] = UNETS
    widths = [s[1] for path, s in shapes.items() if re.search(r"\.attn2\.to_[kv]$", path)]
    if widths:
        if widths[0] not in _TEXT_WIDTHS:
            return (), f"unknown-unet-{widths[0]}"
        names = _TEXT_WIDTHS[widths[0]]
    else:
        # These alone have several transformer blocks in a row, the refiner no more than four.
        rows = [int(n) for path in shapes for n in re.findall(r"\.transformer_blocks\.(\d+)", path)]
        if max(rows, default=0) > 0:
            names = {"kolors", "sdxl"} | ({"sdxl-refiner"} if max(rows) < 4 else set())
        else:
            finest = re.compile(r"(down_blocks\.0|up_blocks\.3)\.attentions\.\d\..*attn1\.to_q$")
            fine = [s[1] for path, s in shapes.items() if finest.match(path)]
            if fine and fine[0] != 320:
                return (), f"unknown-unet-of-{fine[0]}-channels"
            if fine:
                names = FINEST_320
    if "text_encoder_2" in components:
        names = [name for name in names if name in _WITH_TWO_CLIPS] or names
    elif "text_encoder" in components:
        names = [name for name in names if name not in _WITHOUT_CLIP] or names
    return tuple(sorted(names)), ""
