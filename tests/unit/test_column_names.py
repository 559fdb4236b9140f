"""Names of columns, and which belong together, for every representation there is."""

import json

import numpy as np
import pytest

from lorasweep.features.representations import get_representation
from lorasweep.features.representations.base import Unit
from lorasweep.trainables.data.column_names import (
    ColumnNames,
    kinds,
    names_from_json,
    names_to_json,
)
from tests.conftest import NAMES

SHAPES = [(2, 8), (8, 2), (2, 6), (8, 2)]
LAYERS = ("text_encoder.a", "unet.b", "unet.c")
LAYER_SHAPES = [(40, 20, 2), (20, 30, 2), (40, 20, 2)]


def names_of(reference):
    item = get_representation(reference)
    columns, shapes = (NAMES, SHAPES) if item.unit is Unit.TENSOR else (LAYERS, LAYER_SHAPES)
    return ColumnNames(tuple(columns), tuple(item.values(shape) for shape in shapes))


@pytest.mark.parametrize(
    "reference", ["stats", "ensemble", "channel_norms:32", "flat", "canonical"]
)
def test_every_column_is_in_one_layer_and_of_one_kind(reference):
    names = names_of(reference)
    for groups in (names.by_layer, names.by_kind):
        assert sorted(np.concatenate(list(groups.values()))) == list(range(names.count))
        assert all((np.diff(columns) > 0).all() for columns in groups.values())
    spelled = [(c, v) for c, values in zip(names.columns, names.values) for v in values]
    assert [names.name(i) for i in range(names.count)] == spelled
    for kind, columns in names.by_kind.items():
        assert all(names.name(i)[1].startswith(kind) for i in columns)
    with pytest.raises(IndexError):
        names.name(names.count)


def test_both_tensors_of_a_layer_are_one_group():
    names = names_of("stats")
    layers = names.by_layer
    assert list(layers) == [name.partition(".lora")[0] for name in NAMES[::2]]
    assert [columns.tolist() for columns in layers.values()] == [
        list(range(14)), list(range(14, 28)),
    ]  # fmt: skip
    assert names.by_kind["std"].tolist() == [1, 8, 15, 22]


def test_a_long_family_of_numbered_values_is_one_kind():
    assert list(names_of("spectral").by_kind) == list(names_of("spectral").values[0])
    assert "spectral.sigma_1" in names_of("ensemble").by_kind
    norms = names_of("channel_norms")
    assert {kind: len(columns) for kind, columns in norms.by_kind.items()} == {
        "output": 40 + 20 + 40,
        "input": 20 + 30 + 20,
    }
    assert list(names_of("flat").by_kind) == ["up", "down"]
    assert list(names_of("canonical").by_kind) == ["output", "input"]
    # The longest list decides for the others; what has no number is its own kind.
    short, long = ("mean", "x_0", "x_1"), tuple(f"x_{i}" for i in range(17))
    assert kinds([short]) == {name: name for name in short}
    assert kinds([short, long])["x_1"] == "x"


@pytest.mark.parametrize(
    "reference",
    ["spectral", "rank_based", "channel_norms", "flat", "canonical", "update_sketch:64"],
)
def test_names_survive_the_job_file_and_take_little_of_it(reference):
    values = names_of(reference).values
    text = json.dumps(names_to_json(values))
    assert names_from_json(json.loads(text)) == values
    assert len(text) < 300
    odd = (("a_01", "a_1", "a_2", "a_4", "b", "_3", "a_3"), (), ("b",), ("x_1_2", "x_1_3", "x_2_2"))
    odd += (("x_1_2", "x_2_2", "x_3_2", "x_1_3"), ("x_1_2_3", "x_1_2_4", "x_1_3_3", "x_1", "x_0_1"))
    assert names_from_json(json.loads(json.dumps(names_to_json(odd)))) == odd
