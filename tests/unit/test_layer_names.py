"""Layers' names of many programs: one canonical name, the right parts, one order."""

import random
import re
from itertools import product
from pathlib import Path

import pytest
import torch
import xxhash

from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.layers.names import (
    COMPONENTS,
    KINDS,
    canonical_name,
    network_order,
    parse_layer,
    parse_tensor,
)
from lorasweep.features.layers.pairing import is_down, is_layer_tensor, layer_name
from lorasweep.features.layers.spellings import has_new_name
from lorasweep.features.numerics.update_batch import UpdateBatch
from lorasweep.zoo.random.sd15 import transformer_blocks

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "layers.md").read_text()
UNET_TAILS = [
    *(f"{a}.{p}" for a in ("attn1", "attn2") for p in ("to_q", "to_k", "to_v", "to_out.0")),
    *("ff.net.0.proj", "ff.net.2"),
]
UNET = [f"{block}.{tail}" for block, _ in transformer_blocks() for tail in UNET_TAILS]
TEXT = [
    f"text_model.encoder.layers.{i}.{tail}"
    for i in (0, 1, 11)
    for tail in (*(f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2")
]
FLUX = [
    *(
        f"transformer_blocks.{i}.{tail}"
        for i in (0, 18)
        for tail in ("attn.to_out.0", "attn.to_add_out", "ff.net.0.proj", "ff_context.net.2")
    ),
    *(f"single_transformer_blocks.{i}.{t}" for i in (0, 37) for t in ("attn.to_k", "proj_out")),
]


def docs_rows(heading):
    """Cells of the first table under a heading."""
    section = DOCS.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \|$", section, re.MULTILINE)
    return [[cell.strip("`") for cell in row.split(" | ")] for row in rows[1:]]


# Tensors


@pytest.mark.parametrize(("down", "up", "by"), docs_rows("Tensors"))
def test_the_documented_marks_tell_a_from_b_and_leave_the_layer(down, up, by):
    for layer in ("unet.mid_block.attentions.0.attn1.to_q", "lora_unet_mid_block_attn1_to_q"):
        for mark, is_a in ((down, True), (up, False)):
            assert is_layer_tensor(layer + mark)
            assert is_down(layer + mark) is is_a
            assert layer_name(layer + mark) == layer


def test_the_two_halves_of_a_joint_block_stay_two_layers():
    names = [f"double_blocks.0.processor.qkv_lora{i}.down.weight" for i in (1, 2)]
    assert [layer_name(name) for name in names] == [
        "double_blocks.0.processor.qkv_lora1", "double_blocks.0.processor.qkv_lora2",
    ]  # fmt: skip
    assert all(map(is_down, names))
    assert layer_name("single_blocks.3.processor.qkv_lora.up.weight").endswith(".qkv")


@pytest.mark.parametrize(
    "column", ["category_label", "lora_rank", "x.to_q.alpha", "x.to_q.scale", "x.down.weight", ""]
)
def test_other_columns_are_no_tensors(column):
    assert parse_tensor(column) is None
    with pytest.raises(ValueError, match="no layer tensor"):
        layer_name(column)


# Canonical names


@pytest.mark.parametrize(("spelling", "layer", "canonical"), docs_rows("Canonical names"))
def test_the_documented_names(spelling, layer, canonical):
    assert canonical_name(layer) == canonical
    assert (parse_layer(layer).component == "other") is (spelling == "unknown")


def test_every_spelling_of_a_unet_has_one_name():
    for layer in UNET:
        bare = layer.removeprefix("unet.")
        head, _, tail = layer.removesuffix(".0").rpartition(".")
        spellings = [
            layer,
            bare,
            f"base_model.model.{bare}",
            f"base_model.model.{layer}",
            "lora_unet_" + bare.replace(".", "_"),
        ]
        if "attn" in layer:
            spellings.append(f"{head}.processor.{tail}")
        assert {canonical_name(spelling) for spelling in spellings} == {layer}


def test_every_spelling_of_a_text_encoder_has_one_name():
    for path, (component, prefix) in product(
        TEXT, (("text_encoder", "te"), ("text_encoder", "te1"), ("text_encoder_2", "te2"))
    ):
        layer = f"{component}.{path}"
        kohya = f"lora_{prefix}_" + path.replace(".", "_")
        old = re.sub(r"self_attn\.(\w+)_proj", r"self_attn.to_\1", layer)
        assert {canonical_name(spelling) for spelling in (layer, kohya, old)} == {layer}


def test_every_spelling_of_flux_has_one_name():
    for path in FLUX:
        layer = f"transformer.{path}"
        kohya = "lora_transformer_" + path.replace(".", "_")
        spellings = (layer, path, f"base_model.model.{path}", kohya)
        assert {canonical_name(spelling) for spelling in spellings} == {layer}


def sdxl_keys():
    """kohya's names of the layers of SDXL's UNet that have transformer blocks or convolutions."""
    blocks = [(f"input_blocks_{i}", 2 if i < 6 else 10) for i in (4, 5, 7, 8)]
    blocks += [("middle_block", 10)]
    blocks += [(f"output_blocks_{i}", 10 if i < 3 else 2) for i in range(6)]
    for block, depth in blocks:
        for i, tail in product((0, depth - 1), UNET_TAILS):
            yield f"lora_unet_{block}_1_transformer_blocks_{i}_{tail.replace('.', '_')}"
        yield from (f"lora_unet_{block}_1_proj_{side}" for side in ("in", "out"))
        yield f"lora_unet_{block}_0_in_layers_2"
        yield f"lora_unet_{block}_0_out_layers_3"
        yield f"lora_unet_{block}_0_emb_layers_1"
    yield "lora_unet_output_blocks_8_0_skip_connection"
    yield from ("lora_unet_input_blocks_3_0_op", "lora_unet_input_blocks_6_0_op")
    yield from ("lora_unet_input_blocks_0_0", "lora_unet_out_2")
    yield from (f"lora_unet_time_embed_{i}" for i in (0, 2))
    yield from (f"lora_unet_label_emb_0_{i}" for i in (0, 2))


def test_stabilitys_unet_is_mapped_as_diffusers_maps_it():
    conversion = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    from types import SimpleNamespace

    for key in sdxl_keys():
        tensor = f"{key}.lora_down.weight"
        mapped = conversion._maybe_map_sgm_blocks_to_diffusers(
            {tensor: key}, SimpleNamespace(layers_per_block=2)
        )
        theirs = f"unet.{conversion._convert_unet_lora_key(next(iter(mapped)))}"
        assert canonical_name(layer_name(theirs)) == canonical_name(key), theirs
        assert parse_layer(key).component == "unet"


UNKNOWN = [
    "x",
    "some.module.weight",
    "lora_unet_pieces_0_self_attn_q",  # a video model's
    "lora_unet_down_blocks_0_novel_0_to_q",
    "lora_te_text_model_encoder_layers_0_novel_q",
    "lycoris_novel_0_attn1_to_q",
    "diffusion_model.pieces.0.self_attn.q",
    "double_blocks.0.processor.novel",
    "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
]


@pytest.mark.parametrize("layer", UNKNOWN)
def test_what_is_unknown_keeps_its_spelling(layer):
    parts = parse_layer(layer)
    assert parts.name == layer
    assert parts.component == "other"


def test_names_of_the_example_are_as_ever(tmp_path):
    """Cached `channel_norms:D` depend on them."""
    reader = find_dataset(DatasetRequest(str(ROOT / "examples/digits-zoo")), tmp_path).open()
    layers = sorted({layer_name(n) for n in reader.schema.names if is_layer_tensor(n)})
    assert len(layers) == 64
    assert [canonical_name(layer) for layer in layers] == layers
    joined = "\n".join(map(canonical_name, layers)).encode()
    assert xxhash.xxh3_128_hexdigest(joined) == "37161821c370daa449aeedd48ad4ae58"


@pytest.mark.parametrize(
    ("layer", "folded"),
    [
        ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k", [-8, -9, 3, 0]),
        ("base_model.model.model.layers.0.self_attn.q_proj", [-1, 0, -13, -2]),
        (
            "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_q",
            [-1, -9, 3, -1],
        ),
    ],
)
def test_folds_are_as_ever(layer, folded):
    batch = UpdateBatch([layer], torch.ones(1, 1, 6), torch.ones(1, 4, 1))
    values = torch.arange(1.0, 9.0, dtype=torch.float64)[None]
    assert batch.fold(values, "in", 4).tolist() == [folded]


# Parts

PARTS = [
    # layer, component, block, numbers, kind, projection
    ("unet.up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_v",
     "unet", "up_blocks.3", (2, 0), "cross_attention", "v"),
    ("unet.mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
     "unet", "mid_block", (0, 9), "feed_forward", "up"),
    ("unet.mid_block.attentions.0.proj_in", "unet", "mid_block", (0,), "other", "proj_in"),
    ("unet.up_blocks.1.resnets.2.conv1", "unet", "up_blocks.1", (2,), "other", "conv1"),
    ("unet.conv_in", "unet", "", (), "other", "conv_in"),
    ("text_encoder_2.text_model.encoder.layers.31.mlp.fc2",
     "text_encoder_2", "layers.31", (), "feed_forward", "down"),
    ("text_encoder_2.encoder.block.3.layer.0.SelfAttention.q",
     "text_encoder_2", "block.3", (0,), "self_attention", "q"),
    ("transformer.transformer_blocks.18.attn.add_k_proj",
     "transformer", "transformer_blocks.18", (), "self_attention", "add_k"),
    ("lora_unet_double_blocks_7_img_attn_qkv",
     "transformer", "transformer_blocks.7", (), "self_attention", "qkv"),
    ("lora_unet_double_blocks_7_txt_attn_qkv",
     "transformer", "transformer_blocks.7", (), "self_attention", "add_qkv"),
    ("transformer.single_transformer_blocks.3.proj_mlp",
     "transformer", "single_transformer_blocks.3", (), "feed_forward", "up"),
    ("lora_unet_single_blocks_3_linear1",
     "transformer", "single_transformer_blocks.3", (), "other", "to_qkv_mlp_proj"),
    ("transformer.time_text_embed.text_embedder.linear_1",
     "transformer", "", (), "other", "linear_1"),
    ("base_model.model.model.layers.12.self_attn.o_proj",
     "language_model", "layers.12", (), "self_attention", "out"),
    ("model.layers.12.mlp.gate_proj", "language_model", "layers.12", (), "feed_forward", "gate"),
    ("model.layers.12.mlp.down_proj", "language_model", "layers.12", (), "feed_forward", "down"),
    ("h.0.attn.c_attn", "language_model", "h.0", (), "self_attention", "qkv"),
    ("h.0.attn.c_proj", "language_model", "h.0", (), "self_attention", "out"),
    ("transformer.h.11.mlp.c_proj", "language_model", "h.11", (), "feed_forward", "down"),
    ("gpt_neox.layers.5.attention.query_key_value",
     "language_model", "layers.5", (), "self_attention", "qkv"),
    ("decoder.block.0.layer.1.EncDecAttention.v",
     "language_model", "decoder.block.0", (1,), "cross_attention", "v"),
    ("model.layers.3.block_sparse_moe.experts.5.w2",
     "language_model", "layers.3", (), "feed_forward", "down"),
    ("bert.encoder.layer.0.attention.self.query",
     "language_model", "encoder.layer.0", (), "self_attention", "q"),
    ("base_model.model.lm_head", "language_model", "", (), "other", "lm_head"),
]  # fmt: skip


@pytest.mark.parametrize(("layer", "component", "block", "numbers", "kind", "projection"), PARTS)
def test_parts(layer, component, block, numbers, kind, projection):
    parts = parse_layer(layer)
    found = parts.component, parts.block, parts.numbers, parts.kind, parts.projection
    assert found == (component, block, numbers, kind, projection)
    assert component in COMPONENTS
    assert kind in KINDS
    assert parts.name.startswith(parts.module)


def test_a_canonical_name_is_its_own():
    for layer, *_ in PARTS:
        assert parse_layer(parse_layer(layer).name) == parse_layer(layer)


def test_the_documented_kinds_are_all():
    table = DOCS[DOCS.index("| kind | layers in |") :]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(KINDS)


# Order


def test_the_order_is_that_of_the_networks():
    block = "attentions.0.transformer_blocks"
    ordered = [
        "unet.conv_in",
        f"unet.down_blocks.0.{block}.0.attn1.to_q",
        f"unet.down_blocks.0.{block}.0.attn1.to_k",
        f"unet.down_blocks.0.{block}.0.attn1.to_v",
        f"unet.down_blocks.0.{block}.0.attn1.to_out.0",
        f"unet.down_blocks.0.{block}.0.attn2.to_q",
        f"unet.down_blocks.0.{block}.0.ff.net.0.proj",
        f"unet.down_blocks.0.{block}.0.ff.net.2",
        f"unet.down_blocks.0.{block}.2.attn1.to_q",
        f"unet.down_blocks.0.{block}.10.attn1.to_q",
        f"lora_unet_down_blocks_1_{block.replace('.', '_')}_0_attn1_to_q",
        "unet.mid_block.resnets.0.conv1",
        f"unet.up_blocks.0.{block}.0.attn1.to_q",
        "unet.conv_out",
        "transformer.x_embedder",
        "transformer.transformer_blocks.2.attn.to_q",
        "transformer.transformer_blocks.10.attn.to_q",
        "transformer.single_transformer_blocks.0.attn.to_q",
        "transformer.norm_out.linear",
        "model.embed_tokens",
        "model.layers.2.self_attn.q_proj",
        "model.layers.2.self_attn.o_proj",
        "model.layers.10.self_attn.q_proj",
        "lm_head",
        "text_encoder.text_model.encoder.layers.2.self_attn.q_proj",
        "text_encoder.text_model.encoder.layers.10.self_attn.q_proj",
        "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj",
        "something.else",
    ]
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert sorted(shuffled, key=network_order) == ordered


WRAPPED = {
    "transformer.transformer_blocks.0.attn.to_q": [
        "transformer._orig_mod.transformer_blocks.0.attn.to_q",
        "transformer.transformer_blocks.0._orig_mod.attn.to_q",
        "_orig_mod.transformer.transformer_blocks.0.attn.to_q",
        "module.transformer_blocks.0.attn.to_q",
        "module._orig_mod.transformer_blocks.0.attn.to_q",
        "transformer.base_model.model.transformer_blocks.0.attn.to_q",
    ],
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q": [
        "unet._orig_mod.mid_block.attentions.0.transformer_blocks.0.attn2.to_q",
        "lora_unet__orig_mod_mid_block_attentions_0_transformer_blocks_0_attn2_to_q",
        "unet.base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_q",
        "base_model.model._orig_mod.mid_block.attentions.0.transformer_blocks.0.attn2.to_q",
    ],
    "model.layers.0.self_attn.q_proj": [
        "base_model.model.model.layers.0.self_attn.q_proj",
        "base_model.model.model.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module."
        "self_attn.q_proj",
        "_orig_mod.base_model.model.model.layers.0.self_attn.q_proj",
        "module.base_model.model.model.layers.0.self_attn.q_proj",
    ],
    "text_encoder.text_model.encoder.layers.0.mlp.fc1": [
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
    ],
    "transformer.blocks.7.attn2.to_k": [
        "diffusion_model.blocks.7.cross_attn.k",
        "blocks.7.cross_attn.k",
        "transformer.blocks.7.cross_attn.k",
        "lora_unet_blocks_7_cross_attn_k",
    ],
    "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj": [
        "text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.q_proj"
    ],
}
"""Canonical name -> how wrappers and ComfyUI spell it."""


@pytest.mark.parametrize(
    ("name", "spelled"), [(name, own) for name, of in WRAPPED.items() for own in of]
)
def test_wrappers_are_no_part_of_a_name(name, spelled):
    assert canonical_name(spelled) == name
    assert has_new_name(spelled) == (not spelled.startswith("base_model.model.model.layers.0.self"))
    assert not has_new_name(name)


def test_a_module_of_the_models_own_is_no_wrapper():
    for name in ("blocks.0.module.attn.q_proj", "module", "layers.0.my_orig_mod.q_proj"):
        assert canonical_name(name) == name
        assert not has_new_name(name)
