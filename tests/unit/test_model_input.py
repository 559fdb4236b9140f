"""What is read of a new adapter: the same values as of a dataset, and what does not fit."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorasweep.features.adapters.adapter import open_adapter
from lorasweep.features.adapters.bases import Base
from lorasweep.features.compute.dataset_matrix import dataset_matrix
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.representations import REPRESENTATIONS, Unit, get_representation
from lorasweep.sweep.models.new_adapters import Given, Problem, Stacked, read_adapters
from lorasweep.trainables.models.model_input import ModelInput, model_input
from tests.adapter_folder import write_rows

STORED = [name for name, item in REPRESENTATIONS.items() if not item.kernel]


@pytest.fixture
def scanned(make_dataset, tmp_path):
    """(dataset folder, source, scan) of 12 random adapters of rank 2."""
    folder = make_dataset()
    source = find_dataset(DatasetRequest(str(folder)), tmp_path)
    return folder, source, scan_dataset(source, "category_label", None, tmp_path)


@pytest.mark.parametrize("name", STORED)
def test_a_file_has_the_values_of_its_row(scanned, tmp_path, name):
    folder, source, scan = scanned
    item = get_representation(name)
    columns = sorted(scan.columns(item.unit))
    read = model_input(item, columns, scan, (), dora=False)
    paths = write_rows(folder, range(12), tmp_path / "files")
    stack = read.stack(20)
    for row, path in enumerate(paths):
        adapter = open_adapter(path)
        assert read.problem(item, adapter.shapes, adapter.base, 2) is None
        stack.read(row, adapter, frozenset(read.layers))
    expected = dataset_matrix(source, scan, item, columns).load()
    np.testing.assert_allclose(read.values(item, stack, 12), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "ranks", "fits"),
    [
        ("stats", (), {2}),
        ("stats", (1, 2), {1, 2}),
        ("flat", (), {2}),
        ("flat", (1, 2), {1, 2}),
        ("canonical", (), {1, 2}),
        ("update_spectrum", (), {1, 2, 3, 64}),
        ("channel_norms", (), {1, 2, 3, 64}),
        ("update_pca", (), {1, 2, 3, 64}),
        ("flat_pca", (), {2}),
    ],
)
def test_ranks_that_a_representation_reads(scanned, name, ranks, fits):
    _, _, scan = scanned
    item = get_representation(name)
    unit = Unit.LAYER if item.unit is Unit.ADAPTER else item.unit
    read = model_input(item, sorted(scan.columns(unit)), scan, ranks, dora=False)
    for rank in (1, 2, 3, 64):
        shapes = {layer: (m, n, rank) for layer, (m, n, _) in read.layers.items()}
        reason = read.problem(item, shapes, Base.parse(read.bases[0]), rank)
        assert (reason is None) == (rank in fits)
        assert reason is None or f"rank {rank}" in reason


def test_another_language_model_of_the_same_shapes_is_told_by_its_name(scanned):
    _, _, scan = scanned
    item = get_representation("channel_norms")
    columns = sorted(scan.columns(item.unit))
    read = model_input(item, columns, scan, (), dora=False, bases=["Llama-2-7b", "llm-4096"])
    for base, fits in {"Llama-2-7b": True, "llm-4096": True, "Mistral-7B": False}.items():
        reason = read.problem(item, read.layers, Base.parse(base), 2)
        assert (reason is None) == fits
        assert fits or "seems to be of Mistral-7B, the model of Llama-2-7b" in reason
    # Of what does not say its model, nothing is said.
    assert replace(read, bases=("llm-4096",)).problem(
        item, read.layers, Base.parse("Mistral-7B"), 2
    ) is None  # fmt: skip


def of_layers(layers, **more):
    """A model's input of `channel_norms`, trained on adapters of rank 2 and 4."""
    return ModelInput(tuple(layers), {}, layers, tuple(layers), (2, 4), False, ("x",), **more)


def judged(path, read, name="channel_norms"):
    """What comes of one file."""
    (found,) = read_adapters(Given([path], []), read, get_representation(name), None)
    return found


def test_a_lokr_has_as_many_singular_values_as_in_training(tmp_path):
    rng = np.random.default_rng(0)
    halves = {f"x.lokr_w{i}": rng.standard_normal((2, 2), np.float32) for i in (1, 2)}
    save_file(halves, tmp_path / "a.safetensors")
    for rank, expected in ((2, 2), (3, 3), (64, 4)):
        read = of_layers({"x": (4, 4, 4)}, lokr_rank=rank)
        assert judged(tmp_path / "a.safetensors", read).stack.ranks["x"][0] == expected


def test_ranks_are_those_of_parts_that_were_trained_apart(tmp_path):
    module = "lora_unet_double_blocks_0_img_attn_qkv"
    up = np.kron(np.eye(3), np.ones((12, 2))).astype(np.float32)
    content = {f"{module}.lora_down.weight": np.ones((6, 12), "f4"), f"{module}.lora_up.weight": up}
    save_file(content, tmp_path / "a.safetensors")
    names = [f"transformer.transformer_blocks.0.attn.to_{part}" for part in "qkv"]
    read = of_layers({name: (12, 12, 12) for name in names})
    read = replace(
        read,
        columns=tuple(f"{name}.lora.down.weight" for name in names),
        tensors={f"{name}.lora.down.weight": (12, 12) for name in names},
    )
    found = judged(tmp_path / "a.safetensors", read, "stats")
    assert isinstance(found, Stacked)
    assert {int(ranks[0]) for ranks in found.stack.ranks.values()} == {2}


def test_layers_that_training_data_lacked_may_be_missing(tmp_path):
    content = {"x.lora.down.weight": np.ones((2, 4)), "x.lora.up.weight": np.ones((4, 2))}
    path = tmp_path / "a.safetensors"
    save_file({name: value.astype("f4") for name, value in content.items()}, path)
    layers = {"x": (4, 4, 4), "y": (4, 4, 4)}
    found = judged(path, of_layers(layers))
    assert isinstance(found, Problem)
    assert "lacks 1 of 2 layers, like y" in found.reason
    found = judged(path, of_layers(layers, lacking=("y",)))
    assert isinstance(found, Stacked)
    assert not found.stack.up["y"].any()
    # Whatever else it changes there is not what the training data had.
    save_file({**{n: v.astype("f4") for n, v in content.items()}, "y.diff": np.ones(4, "f4")}, path)
    found = judged(path, of_layers(layers, lacking=("y",)))
    assert isinstance(found, Problem)
    assert "more than B·A (diff)" in found.reason
    assert isinstance(judged(path, of_layers(layers, lacking=("y",), unread=("diff",))), Stacked)


def test_inputs_of_older_models_are_read():
    read = of_layers({"x": (4, 4, 4)})
    note = {k: v for k, v in read.to_json().items() if k not in ("bases", "lokr_rank", "lacking")}
    assert ModelInput.from_json({**note, "base": "x"}) == read


def test_an_assumed_scale_lets_adapters_of_any_alpha_be_judged(scanned, tmp_path):
    """A file with an α has the values of one whose B is multiplied by α / r."""
    folder, _, scan = scanned
    item = get_representation("channel_norms")
    columns = sorted(scan.columns(item.unit))
    (path,) = write_rows(folder, range(1), tmp_path / "files")
    tensors = load_file(path)
    downs = [name for name in tensors if ".lora.down." in name]
    alphas = {name.replace("lora.down.weight", "alpha"): np.array(3.0, "f4") for name in downs}
    save_file({**tensors, **alphas}, tmp_path / "alpha.safetensors")
    folded = {n: v if n in downs else v * np.float32(1.5) for n, v in tensors.items()}
    save_file(folded, tmp_path / "folded.safetensors")

    def values(name, **known):
        read = model_input(item, columns, scan, (), dora=False, **known)
        stack = read.stack(1)
        stack.read(0, open_adapter(tmp_path / name), frozenset(read.layers))
        return read.unknown_scale(item, stack, 0), read.values(item, stack, 1)

    reason, _ = values("alpha.safetensors")
    assert "has a scale of 1.5" in reason
    assert "--assume-scale 1" in reason
    reason, found = values("alpha.safetensors", assume_scale=True)
    assert reason is None
    for known in ({}, {"assume_scale": True}):
        reason, expected = values("folded.safetensors", **known)
        assert reason is None
        np.testing.assert_allclose(found, expected, rtol=1e-5)
