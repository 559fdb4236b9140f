import pytest

from lorasweep.features.common.errors import UserError
from lorasweep.features.layers.configs import (
    LAYER_CONFIGS,
    fitting_defaults,
    get_config,
    get_configs,
    parse_regexes,
    uncovered,
)
from lorasweep.features.layers.pairing import is_down, is_layer_tensor, pair_layers

LAYERS = [
    "unet.b.attn2.to_q.lora.up.weight",
    "unet.b.attn1.to_q.lora.down.weight",
    "unet.b.ff.net.lora_A.default.weight",
]


@pytest.mark.parametrize(
    ("column", "is_layer"),
    [
        ("unet.x.attn1.to_q.lora.down.weight", True),
        ("unet.x.attn1.to_q.lora.up.weight", True),
        ("base_model.x.q_proj.lora_A.default.weight", True),
        ("base_model.x.q_proj.lora_B.weight", True),
        ("category_label", False),
        ("lora_rank", False),
        ("text_encoder.weight", False),
    ],
)
def test_layer_tensors_are_told_from_metadata(column, is_layer):
    assert is_layer_tensor(column) is is_layer


def test_configs_select_by_name_in_sorted_order():
    assert LAYER_CONFIGS["all_layers"].tensors(LAYERS) == sorted(LAYERS)
    assert LAYER_CONFIGS["visual_only"].tensors(LAYERS) == [LAYERS[1]]
    assert LAYER_CONFIGS["text_only"].tensors(LAYERS) == [LAYERS[0]]
    assert uncovered(LAYERS) == [LAYERS[2]]
    assert uncovered(LAYERS[2:]) == []
    assert is_down(LAYERS[1])
    assert is_down(LAYERS[2])
    assert not is_down(LAYERS[0])


def test_a_config_that_selects_nothing_names_itself_and_some_columns():
    with pytest.raises(UserError, match=r"'visual_only' selects none of the 1 .*attn2"):
        LAYER_CONFIGS["visual_only"].tensors(LAYERS[:1])


def test_an_unknown_config_gets_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'visual_only'"):
        get_config("visual")


def test_tensors_are_paired_into_layers_by_what_their_names_share():
    tensors = {
        "unet.b.attn1.to_q.lora.down.weight": (4, 320),
        "unet.b.attn1.to_q.lora.up.weight": (640, 4),
        "base_model.model.x.q_proj.lora_A.default.weight": (2, 8),
        "base_model.model.x.q_proj.lora_B.default.weight": (6, 2),
        "unet.b.attn2.to_q.lora.down.weight": (1, 320),  # flat lists of rank 1
        "unet.b.attn2.to_q.lora.up.weight": (1, 640),
        "unet.b.attn2.to_k.lora.down.weight": (4, 320),  # alone
        "unet.b.ff.lora.down.weight": (4, 320),  # of another rank than its other half
        "unet.b.ff.lora.up.weight": (640, 8),
    }
    layers = pair_layers(tensors, ["unet.b.attn1.to_q.scale"])
    assert {layer.name: (layer.shape, layer.scale) for layer in layers} == {
        "base_model.model.x.q_proj": ((6, 8, 2), None),
        "unet.b.attn1.to_q": ((640, 320, 4), "unet.b.attn1.to_q.scale"),
        "unet.b.attn2.to_q": ((640, 320, 1), None),
    }
    config = LAYER_CONFIGS["visual_only"]
    assert config.layers(layers) == ["unet.b.attn1.to_q"]


NETWORK = {
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight":
        "attention down_blocks",
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora.up.weight":
        "attention mid_block text_only",
    "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v.lora_A.weight":
        "attention up_blocks visual_only",
    "lora_unet_output_blocks_0_1_transformer_blocks_3_ff_net_2.lora_up.weight":
        "feedforward up_blocks",
    "unet.up_blocks.2.resnets.0.conv1.lora.down.weight": "up_blocks",
    "lora_te2_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight":
        "attention text_encoder",
    "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.up.weight":
        "feedforward text_encoder",
    "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": "attention",
    "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": "feedforward",
    "unet.conv_in.lora.down.weight": "",
}  # fmt: skip


@pytest.mark.parametrize(("tensor", "configs"), NETWORK.items())
def test_what_the_built_in_configs_select_in_every_spelling(tensor, configs):
    found = {name for name, config in LAYER_CONFIGS.items() if config.selects(tensor)}
    assert found == {"all_layers", *configs.split()}


def test_the_first_three_configs_are_of_version_1_for_ever():
    """Their records' fingerprints are without a version."""
    versions = {name: LAYER_CONFIGS[name].version for name in list(LAYER_CONFIGS)[:3]}
    assert versions == dict.fromkeys(("all_layers", "visual_only", "text_only"), "1")


def test_default_configs_are_those_that_a_dataset_has():
    assert fitting_defaults(LAYERS) == ("all_layers", "visual_only")
    llm = ["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"]
    assert fitting_defaults(llm) == ("all_layers",)


def test_a_regular_expression_is_searched_for_in_canonical_names():
    regexes = parse_regexes(["queries=to_q$", "odd=(blocks|layers)\\.[13579]\\."])
    queries, odd = get_configs((), regexes)
    assert [name for name in NETWORK if queries.selects(name)] == [
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
        "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
    ]
    assert [name for name in NETWORK if odd.selects(name)] == [
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
        "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_v.lora_A.weight",
        "lora_unet_output_blocks_0_1_transformer_blocks_3_ff_net_2.lora_up.weight",
    ]
    assert queries.version != get_configs((), {"queries": "to_q"})[0].version
    with pytest.raises(UserError, match=r"'x': its regular .* 'to_z' is found in no .* like model"):
        get_configs((), {"x": "to_z"})[0].tensors(NETWORK)


def test_regular_expressions_come_after_the_others_unless_they_are_named():
    regexes = {"queries": "to_q"}
    assert [c.name for c in get_configs(("all_layers",), regexes)] == ["all_layers", "queries"]
    named = get_configs(("queries", "all_layers"), regexes)
    assert [c.name for c in named] == ["queries", "all_layers"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["queries"], "'queries': need NAME=REGEX"),
        (["queries="], "need NAME=REGEX"),
        (["a/b=x"], "'a/b' is no name for a layer config"),
        (["attention=x"], "'attention' is that of a built-in layer config"),
        (["x=("], r"x: '\(' is no regular expression: missing \)"),
        (["x=a", "x=b"], "'x' is given twice"),
    ],
)
def test_bad_regular_expressions_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        parse_regexes(given)
