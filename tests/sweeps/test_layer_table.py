"""`lorasweep layers`: what a dataset's layers are, without labels and without reading it all."""

import json

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from lorasweep import cli
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.zoo.random.sd15 import matrix_column

# (tensor, m, n) in three spellings; the last two are no layer.
TENSORS = [
    ("lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_v.lora_down.weight", 2, 12),
    ("lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_v.lora_up.weight", 8, 2),
    ("base_model.model.model.layers.10.mlp.gate_proj.lora_A.weight", 4, 6),
    ("base_model.model.model.layers.10.mlp.gate_proj.lora_B.weight", 16, 4),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight", 3, 5),
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora.up.weight", 7, 3),
    ("unet.mid_block.resnets.0.conv1.lora.down.weight", 2, 4),
    ("unet.mid_block.resnets.1.conv1.lora.up.weight", 4, 2),
]


@pytest.fixture
def dataset(tmp_path):
    """Two adapters without a label; one layer has a scale."""
    columns = {name: matrix_column(np.ones((2, m, n), np.float32)) for name, m, n in TENSORS}
    columns["base_model.model.model.layers.10.mlp.gate_proj.scale"] = pa.array([0.5, 2.0])
    write_dataset(tmp_path / "mixed", pa.table(columns))
    return tmp_path / "mixed"


def layers(*args):
    given = ["layers", *map(str, args)]
    return CliRunner().invoke(cli.app, given, prog_name="lorasweep", catch_exceptions=False)


def test_layers_are_listed_as_data_flows_with_what_their_names_say(dataset):
    found = json.loads(layers(dataset, "--json").stdout)
    first, second, third = found["layers"]
    assert first == {
        "name": "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "spelling": "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "component": "unet",
        "block": "down_blocks.0",
        "numbers": [0, 0],
        "kind": "self_attention",
        "projection": "q",
        "outputs": 7,
        "inputs": 5,
        "rank": 3,
        "scale_column": None,
        "configs": first["configs"],
    }
    assert {"all_layers", "visual_only"} <= set(first["configs"])
    assert second["name"] == "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
    assert second["spelling"] == TENSORS[0][0].removesuffix(".lora_down.weight")
    assert (second["outputs"], second["inputs"], second["rank"]) == (8, 12, 2)
    assert third["component"] == "language_model"
    assert third["scale_column"] == "base_model.model.model.layers.10.mlp.gate_proj.scale"
    assert found["unpaired"] == [name for name, *_ in TENSORS[-2:]]
    assert found["configs"]["all_layers"] == 3
    assert found["configs"]["visual_only"] == 1


def test_the_table_for_people(dataset):
    text = layers(dataset, "--configs", "all_layers,visual_only").stdout.splitlines()
    assert text[:2] == ["layers   3", "configs  all_layers 3, visual_only 1"]
    assert text[2] == "families each_layer 5, each_block 4, each_side 2"
    assert text[3].startswith("without a fitting other half: 2 tensors (unet.mid_block.resnets.0")
    rows = [line.split("  ") for line in text[5:]]
    assert [[cell.strip() for cell in row if cell.strip()] for row in rows] == [
        ["layer", "component", "kind", "projection", "out × in", "rank", "scale", "configs"],
        ["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "unet",
         "self_attention", "q", "7 × 5", "3", "no", "all_layers, visual_only"],
        ["unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v", "unet",
         "cross_attention", "v", "8 × 12", "2", "no", "all_layers"],
        ["model.layers.10.mlp.gate_proj", "language_model",
         "feed_forward", "gate", "16 × 6", "4", "yes", "all_layers"],
    ]  # fmt: skip


def test_flat_lists_get_their_shape_from_the_rank(tmp_path):
    names = [name for name, *_ in TENSORS[4:6]]
    rows = pa.array(np.ones((2, 12), np.float32).tolist(), pa.list_(pa.float32()))
    write_dataset(tmp_path / "flat", pa.table(dict.fromkeys(names, rows)))
    (layer,) = json.loads(layers(tmp_path / "flat", "--lora-rank", 4, "--json").stdout)["layers"]
    assert (layer["outputs"], layer["inputs"], layer["rank"]) == (3, 3, 4)


def test_what_cannot_be_used_is_one_line_and_exit_code_2(dataset, tmp_path):
    write_dataset(tmp_path / "labels", pa.table({"category_label": pa.array([1, 2])}))
    write_dataset(
        tmp_path / "empty", pa.table({TENSORS[0][0]: pa.array([], pa.list_(pa.float32()))})
    )
    whole = pa.array([[[1, 2]], [[3, 4]]])
    write_dataset(tmp_path / "whole", pa.table({TENSORS[0][0]: whole}))
    for args, message in (
        (["no/such/path/x"], "is no existing path"),
        ([tmp_path / "labels"], "no layer tensors"),
        ([tmp_path / "empty"], "is empty"),
        ([tmp_path / "whole"], "not floating-point numbers"),
        ([dataset, "--configs", "visual"], "did you mean 'visual_only'?"),
        ([dataset, "--lora-rank", "0"], "--lora-rank must be at least 1"),
        ([dataset, "--dataset-config", "x"], "--dataset-config is for datasets of the hub"),
    ):
        result = layers(*args)
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_a_config_that_was_asked_for_and_has_nothing_is_refused(tmp_path):
    columns = {name: matrix_column(np.ones((2, m, n), np.float32)) for name, m, n in TENSORS[2:4]}
    write_dataset(tmp_path / "llm", pa.table(columns))
    assert json.loads(layers(tmp_path / "llm", "--json").stdout)["configs"]["visual_only"] == 0
    result = layers(tmp_path / "llm", "--configs", "visual_only")
    assert result.exit_code == 2
    assert "'visual_only' selects none of the 2 layer tensors" in result.stderr
