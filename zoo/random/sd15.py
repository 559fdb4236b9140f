"""Names and shapes of Stable Diffusion 1.5's attention layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorasweep.features.datasets.columns import matrix_column as matrix_column
from lorasweep.features.datasets.columns import matrix_type as matrix_type

TEXT_WIDTH = 768


def transformer_blocks() -> Iterator[tuple[str, int]]:
    """(name, channel width) of the 16 transformer blocks of the UNet."""
    stages = [
        *(("down_blocks", i, 2, width) for i, width in enumerate((320, 640, 1280))),
        ("mid_block", None, 1, 1280),
        *(("up_blocks", i, 3, width) for i, width in ((1, 1280), (2, 640), (3, 320))),
    ]
    for stage, index, count, width in stages:
        prefix = stage if index is None else f"{stage}.{index}"
        for i in range(count):
            yield f"unet.{prefix}.attentions.{i}.transformer_blocks.0", width


def layer_tensors(
    block: str, width: int, projections: Sequence[str], rank: int
) -> dict[str, tuple[int, int]]:
    """Layer tensor -> (m, n) of a block's LoRA on the given projections.

    Arguments:
        projections: like "attn1.to_q"; keys and values of attn2 read the text embedding.
    """
    shapes = {}
    for projection in projections:
        attention, to = projection.split(".", 1)
        reads_text = attention == "attn2" and to in ("to_k", "to_v")
        shapes[f"{block}.{projection}.lora.down.weight"] = (
            rank,
            TEXT_WIDTH if reads_text else width,
        )
        shapes[f"{block}.{projection}.lora.up.weight"] = (width, rank)
    return shapes
