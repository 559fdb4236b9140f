import pytest

from features.core.errors import UserError
from features.layers import is_down, is_layer_tensor, select_layers, uncovered

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
    assert select_layers("all_layers", LAYERS) == sorted(LAYERS)
    assert select_layers("visual_only", LAYERS) == [LAYERS[1]]
    assert select_layers("text_only", LAYERS) == [LAYERS[0]]
    assert uncovered(LAYERS) == [LAYERS[2]]
    assert is_down(LAYERS[1])
    assert is_down(LAYERS[2])
    assert not is_down(LAYERS[0])


def test_a_config_that_selects_nothing_names_itself_and_some_columns():
    with pytest.raises(UserError, match=r"'visual_only' selects none of the 1 .*attn2"):
        select_layers("visual_only", LAYERS[:1])


def test_an_unknown_config_gets_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'visual_only'"):
        select_layers("visual", LAYERS)
