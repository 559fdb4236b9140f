"""HiDream-I1: streams of blocks, whose feed-forwards are mixtures of experts."""

from __future__ import annotations

from .architecture import Architecture, KnownBase, Size

_DOUBLE, _SINGLE = "double_stream_blocks", "single_stream_blocks"
_FEED_FORWARD = r"(w[123]|gate|(experts\.\d+|shared_experts)\.w[123])"
_SINGLE_BLOCK: dict[str, Size] = {
    r"block\.attn1\.(to_[qkv]|to_out)": (1, 1),
    rf"block\.ff_i\.{_FEED_FORWARD}": None,
    r"block\.adaLN_modulation\.1": (6, 1),
}
_DOUBLE_BLOCK: dict[str, Size] = {
    r"block\.attn1\.(to_[qkv]|to_out)(_t)?": (1, 1),
    rf"block\.ff_[it]\.{_FEED_FORWARD}": None,
    r"block\.adaLN_modulation\.1": (12, 1),
}

ARCHITECTURE = Architecture(
    "hidream",
    bases=(
        KnownBase(
            "hidream-i1",
            2560,
            {_DOUBLE: (16, _DOUBLE_BLOCK), _SINGLE: (32, _SINGLE_BLOCK)},
            r"x_embedder\.proj|[tp]_embedder\..+|caption_projection\..+|final_layer\..+",
            r"hi.?dream",
            marks=rf"^({_DOUBLE}|{_SINGLE})\.\d+\.block\.",
        ),
    ),
    first_words=(_DOUBLE, _SINGLE),
    words=(
        *(_DOUBLE, _SINGLE, "ff_i", "ff_t", "shared_experts", "adaLN_modulation"),
        *("to_q_t", "to_k_t", "to_v_t", "to_out_t", "to_out", "final_layer"),
    ),
    plain_words=("experts", "gate", "w1", "w2", "w3", "block", "attn1"),
)
