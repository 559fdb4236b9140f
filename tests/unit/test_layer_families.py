"""Families of layer configs: their members' names, tensors, order and versions."""

import pytest

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import path_name
from lorasweep.features.layers.configs import get_config, get_configs, members, regex_config
from lorasweep.features.layers.families import FAMILIES, family_of, own_name

UNET = "unet.{}.attentions.0.transformer_blocks.0.{}"
LAYERS = [
    UNET.format("up_blocks.10", "attn1.to_q"),
    UNET.format("up_blocks.2", "attn1.to_q"),
    UNET.format("mid_block", "attn2.to_v"),
    UNET.format("down_blocks.0", "attn1.to_k"),
    UNET.format("down_blocks.0", "attn1.to_q"),
    "text_encoder.text_model.encoder.layers.11.mlp.fc1",
    "unet.conv_in",
]
IN_ORDER = [LAYERS[i] for i in (6, 4, 3, 2, 1, 0, 5)]


def sides(layer):
    return [f"{layer}.lora.down.weight", f"{layer}.lora.up.weight"]


TENSORS = [tensor for layer in LAYERS for tensor in sides(layer)]


def names_of(family, tensors=TENSORS):
    return [config.name for config in members(FAMILIES[family], tensors)]


def test_each_layer_has_both_tensors_of_one_in_the_order_of_the_network():
    found = members(FAMILIES["each_layer"], TENSORS)
    assert [config.name for config in found] == [f"each_layer:{layer}" for layer in IN_ORDER]
    for config, layer in zip(found, IN_ORDER):
        assert config.tensors(TENSORS) == sides(layer)
    assert names_of("each_layer", reversed(TENSORS)) == names_of("each_layer")


def test_a_member_has_its_layer_s_canonical_name_in_every_spelling():
    kohya = "lora_unet_up_blocks_2_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"
    assert names_of("each_layer", [kohya]) == [f"each_layer:{LAYERS[1]}"]


def test_each_block_has_what_lies_in_it_and_what_lies_outside_of_all_is_one():
    found = {c.name: c.tensors(TENSORS) for c in members(FAMILIES["each_block"], TENSORS)}
    assert list(found) == [
        "each_block:unet.no_block",
        "each_block:unet.down_blocks.0",
        "each_block:unet.mid_block",
        "each_block:unet.up_blocks.2",
        "each_block:unet.up_blocks.10",
        "each_block:text_encoder.layers.11",
    ]
    assert found["each_block:unet.down_blocks.0"] == [*sides(LAYERS[3]), *sides(LAYERS[4])]
    assert sorted(tensor for of in found.values() for tensor in of) == sorted(TENSORS)


def test_each_side_is_a_alone_and_b_alone():
    down, up = members(FAMILIES["each_side"], TENSORS)
    assert (down.name, up.name) == ("each_side:down", "each_side:up")
    assert down.tensors(TENSORS) == sorted(t for t in TENSORS if ".down." in t)
    assert names_of("each_side", sides("unet.x")[1:]) == ["each_side:up"]


def test_a_member_with_other_tensors_is_of_another_version():
    one, same = (members(FAMILIES["each_side"], TENSORS)[0].version for _ in range(2))
    assert one == same
    assert one.startswith("1-")
    assert members(FAMILIES["each_side"], TENSORS[2:])[0].version != one


def test_members_names_are_good_for_paths_however_long_a_layer_s_is():
    long = [f"model.{'deep.' * 60}layer{i}" for i in (1, 2)]
    found = names_of("each_layer", [tensor for layer in long for tensor in sides(layer)])
    assert len(set(found)) == 2
    for name in (*found, *names_of("each_layer")):
        assert len(path_name(name).encode()) <= 180
        assert not {"/", ":"} & set(path_name(name))
        assert family_of(name) == "each_layer"
    assert own_name("each_block:unet.mid_block") == "unet.mid_block"
    assert family_of("all_layers") is None
    assert family_of("other:thing") is None


def test_families_are_named_together_with_others_and_as_a_whole():
    found = get_configs(("all_layers", "each_side"), {"x": "to_q"}, TENSORS)
    assert [c.name for c in found] == ["all_layers", "each_side:down", "each_side:up", "x"]
    with pytest.raises(UserError, match="'each_side:up': name its whole family, each_side"):
        get_config("each_side:up")
    with pytest.raises(UserError, match="did you mean 'each_layer'"):
        get_config("each_layers")
    with pytest.raises(UserError, match="'each_block' is given twice"):
        get_configs(("each_block", "each_block"), {}, TENSORS)
    with pytest.raises(UserError, match="'each_block' is that of a built-in layer config"):
        regex_config("each_block", "x")
