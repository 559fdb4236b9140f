import pytest

from features.core.errors import UserError
from features.layer_configs import LAYER_CONFIGS, get_config, uncovered
from features.layers import is_down, is_layer_tensor, pair_layers

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
