"""Adapters of several ranks in one set: what is of single tensors does not see the padding."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from lorasweep import RuntimeOptions, SweepSpec, cli, run_sweep
from lorasweep.features.adapters.adapter import open_adapter
from lorasweep.features.compute.cache import feature_matrix
from lorasweep.features.compute.dataset_matrix import dataset_matrix
from lorasweep.features.compute.stage import plan_stage, run_stage
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.representations import (
    DEFAULT_REPRESENTATIONS,
    get_representation,
    get_representations,
    stored_representations,
)
from lorasweep.sweep.models.new_adapters import Given, Stacked, read_adapters
from lorasweep.sweep.models.predict import find_models
from lorasweep.sweep.store.sweep_file import read_sweep_file
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.models.model_building import CLOSE
from lorasweep.trainables.models.model_input import ModelInput, model_input
from lorasweep.trainables.store.record import read_record
from tests.sweeps.test_imports import run
from tests.unit.reference import DIMENSIONLESS, REFERENCE

BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"
LAYERS = {f"{BLOCK}.attn1.to_q": (16, 16), f"{BLOCK}.attn2.to_k": (16, 24)}
FIRST, SECOND = LAYERS
RANKS = ((2, 2), (1, 3), (4, 4), (12, 2), (12, 4))
"""Of the two layers, as PEFT's `rank_pattern` may have them."""
ROWS = 60
NINE = get_representations(DEFAULT_REPRESENTATIONS)

pytestmark = pytest.mark.usefixtures("local_ray")


def write(path, seed, ranks, shift=0.0):
    """An adapter of some ranks in diffusers' spelling."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for (name, (outputs, inputs)), rank in zip(LAYERS.items(), ranks):
        for side, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            values = rng.standard_normal(shape, np.float32) + np.float32(shift)
            tensors[f"{name}.lora_{side}.weight"] = values
        tensors[f"{name}.alpha"] = np.array(3.0, np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


def looked_at(dataset, memo):
    source = find_dataset(DatasetRequest(str(dataset)), memo)
    return source, scan_dataset(source, "category_label", None, memo)


@pytest.fixture(scope="module")
def mixed(local_ray, tmp_path_factory):
    """(files in the order of rows, dataset, source, scan); the last file lacks the second layer.
    Not to be changed."""
    root = tmp_path_factory.mktemp("mixed")
    files = [
        write(root / "in" / "ab"[i * 2 // ROWS] / f"{i:03}.safetensors", i, RANKS[i % len(RANKS)])
        for i in range(ROWS)
    ]
    tensors = {name: value for name, value in load_file(files[-1]).items() if FIRST in name}
    save_file(tensors, files[-1])
    run(root / "in", out=root / "out")
    return files, root / "out", *looked_at(root / "out", root / "memo")


@pytest.fixture(scope="module")
def computed(mixed, tmp_path_factory):
    """The cache that the stage has filled."""
    _, _, source, scan = mixed
    root = tmp_path_factory.mktemp("cache")
    plan = plan_stage(scan, stored_representations(NINE), root)
    assert not run_stage(source, scan, plan, root).failed
    return root


def own_matrices(path):
    """Layer tensor -> matrix, as the file has it; of a layer that it lacks, what the set has."""
    tensors = load_file(path)
    most = [max(ranks) for ranks in zip(*RANKS)]
    found = {}
    for (name, (outputs, inputs)), rank in zip(LAYERS.items(), most):
        zeros = np.zeros((rank, inputs)), np.zeros((outputs, rank))
        for side, own, zero in zip(("down", "up"), "AB", zeros):
            found[f"{name}.lora.{side}.weight"] = tensors.get(f"{name}.lora_{own}.weight", zero)
    return found


@pytest.mark.parametrize("item", NINE, ids=lambda item: item.name)
def test_the_nine_are_of_adapters_own_matrices(mixed, computed, item):
    files, _, _, scan = mixed
    own = [own_matrices(path) for path in files]
    for name in scan.tensors:
        assert len({matrices[name].shape for matrices in own}) == (4 if FIRST in name else 3)
        found = feature_matrix(computed, scan.weights, item, [name]).load()
        expected = np.array([REFERENCE[item.name](matrices[name]) for matrices in own])
        assert found.shape == expected.shape
        # Relative to the largest among adapters of the same ranks.
        for ranks in range(len(RANKS)):
            rows = slice(ranks, None, len(RANKS))
            largest = abs(expected[rows]).max(axis=0)
            atol = np.where(DIMENSIONLESS[item.name], 1e-6, 1e-6 * largest)
            error = abs(found[rows] - expected[rows])
            assert (error <= atol + 1e-4 * abs(expected[rows])).all(), name


def test_what_the_dataset_says(mixed):
    _, dataset, _, scan = mixed
    assert scan.ranks == [f"{FIRST}.rank", f"{SECOND}.rank"]
    assert [layer.shape for layer in scan.layers] == [(16, 16, 12), (16, 24, 4)]
    result = CliRunner().invoke(cli.app, ["inspect", str(dataset), "--json"])
    facts = json.loads(result.stdout)
    assert facts["ranks"] == {"1": 1, "2": 2, "3": 1, "4": 2, "12": 1}
    assert not [name for name in facts["columns"] if name.endswith(".rank")]


def test_an_adapter_has_the_values_it_has_among_its_equals(mixed, computed, tmp_path):
    """Those of one rank are imported alone, without any column of ranks, to the same bits."""
    files, _, _, scan = mixed
    rows = [row for row in range(ROWS - 1) if RANKS[row % len(RANKS)] == (4, 4)]
    for row in rows:
        path = tmp_path / "in" / files[row].parent.name / files[row].name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[row].read_bytes())
    run(tmp_path / "in", out=tmp_path / "out")
    source, alone = looked_at(tmp_path / "out", tmp_path)
    assert alone.ranks == []
    assert not [name for name in source.open().schema.names if name.endswith(".rank")]
    for item in NINE:
        among = feature_matrix(computed, scan.weights, item, list(scan.tensors)).load()[rows]
        own = dataset_matrix(source, alone, item, sorted(alone.tensors)).load()
        np.testing.assert_allclose(own, among, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", [*DEFAULT_REPRESENTATIONS, "canonical", "flat"])
def test_a_file_has_the_values_of_its_row(mixed, name):
    files, dataset, source, scan = mixed
    item = get_representation(name)
    columns = sorted(scan.columns(item.unit))
    ranks = sorted({max(ranks) for ranks in RANKS})
    made = model_input(item, columns, scan, ranks, dora=False, lacking=[SECOND])
    read = ModelInput.from_json(json.loads(json.dumps(made.to_json())))
    assert read == made
    expected = dataset_matrix(source, scan, item, columns).load()
    # The last has no second layer.
    (some,) = read_adapters(Given(files, []), read, item, None)
    assert isinstance(some, Stacked)
    values = read.values(item, some.stack, len(some.adapters))
    np.testing.assert_array_equal(values, expected)
    (rows,) = read_adapters(Given([], [(str(dataset), source)]), read, item, None)
    assert isinstance(rows, Stacked)
    np.testing.assert_array_equal(read.values(item, rows.stack, ROWS), expected)


def test_a_set_padded_further_is_read_as_its_files(mixed, tmp_path):
    files, _, source, scan = mixed
    item = get_representation("stats")
    read = model_input(item, sorted(scan.tensors), scan, (2, 3, 4, 12), dora=False)
    for file in files[:3]:
        path = tmp_path / "in" / "a" / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.read_bytes())
    write(tmp_path / "in" / "a" / "999.safetensors", 9, (12, 16))
    write(tmp_path / "in" / "b" / "998.safetensors", 9, (12, 4))
    run(tmp_path / "in", out=tmp_path / "out")
    other, _ = looked_at(tmp_path / "out", tmp_path)
    some, problem = read_adapters(Given([], [("out", other)]), read, item, None)
    assert "is of rank 16, and stats depends on the rank" in problem.reason
    values = read.values(item, some.stack, len(some.adapters))
    expected = dataset_matrix(source, scan, item, sorted(scan.tensors)).load()
    np.testing.assert_array_equal(values[:3], expected[:3])
    assert len(values) == 4


def test_models_of_an_older_version_see_the_padding_as_they_did(mixed):
    files, _, _, scan = mixed
    item = get_representation("stats")
    note = model_input(item, sorted(scan.tensors), scan, (2, 3, 4, 12), dora=False).to_json()
    older = ModelInput.from_json({k: v for k, v in note.items() if k != "padded"})
    stack = older.stack(1)
    stack.read(0, open_adapter(files[0]), frozenset(LAYERS))
    (values,) = older.values(item, stack, 1)
    for i, (name, matrix) in enumerate(own_matrices(files[0]).items()):
        m, n = scan.tensors[name]
        whole = np.zeros((m, n))
        whole[: matrix.shape[0], : matrix.shape[1]] = matrix
        expected = REFERENCE["stats"](whole)
        np.testing.assert_allclose(values[i * 7 : i * 7 + 7], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_files_are_judged_as_the_records_say(tmp_path):
    folder = tmp_path / "in"
    count = 100
    files = [
        write(folder / "ab"[i % 2] / f"{i:03}.safetensors", i, RANKS[i % 5], shift=(i % 2) * 0.4)
        for i in range(count)
    ]
    spec = SweepSpec(
        str(folder),
        configs=("all_layers",),
        pairs=(("stats", "linear"), ("ensemble", "mlp"), ("update_spectrum", "linear")),
        num_runs=1,
        settings={"mlp": dict(hidden_dim=32, epochs=12)},
    )
    options = RuntimeOptions(
        tmp_path / "results", "run", cache_dir=tmp_path / "cache", log_to="none", save_models="all"
    )
    run_dir = run_sweep(spec, options).run_dir
    sweep = read_sweep_file(run_dir)
    test = SplitRule().split(count).test
    ordered = sorted(files)
    (dataset,) = (tmp_path / "cache" / "imports").iterdir()
    source = find_dataset(DatasetRequest(str(dataset)), tmp_path)
    models = find_models(run_dir)
    assert len(models) == 3
    for model in models:
        (key,) = sweep.grid.keys_of(model.cell)
        loaded = model.load([0], tmp_path, run_plugins=False)
        given = Given([ordered[row] for row in test], [])
        (some,) = read_adapters(given, loaded.input, loaded.item, None)
        p = loaded.predict(some.stack, len(some.adapters))[0]
        recorded = np.array(read_record(run_dir, key)["predictions"]["test"])
        clear = abs(p[:, 0] - p[:, 1]) > CLOSE
        assert clear.sum() > len(test) / 2
        np.testing.assert_array_equal(p.argmax(1)[clear], recorded[clear])
        if model.note["representation"] == "stats":
            assert (recorded == [row >= count // 2 for row in test]).mean() > 0.8
        (whole,) = read_adapters(Given([], [("set", source)]), loaded.input, loaded.item, None)
        again = loaded.predict(whole.stack, count)[0][test]
        np.testing.assert_allclose(again, p, rtol=1e-3, atol=1e-4)


def test_parts_of_a_fused_module_have_the_rank_they_were_trained_with(tmp_path):
    """Written as one, A below A and B block-diagonal, they look as if of three times the rank."""
    rng = np.random.default_rng(0)
    width, rank, name = 12, 2, "lora_unet_double_blocks_0_img_attn_qkv"
    downs = rng.standard_normal((2, 3 * rank, width), np.float32)
    ups = rng.standard_normal((2, 3 * width, 3 * rank), np.float32)
    blocks = np.kron(np.eye(3), np.ones((width, rank)))
    ups[0] *= blocks.astype(np.float32)
    for i in range(2):
        path = tmp_path / "in" / "ab"[i] / "flux.safetensors"
        path.parent.mkdir(parents=True)
        save_file({f"{name}.lora_down.weight": downs[i], f"{name}.lora_up.weight": ups[i]}, path)
    run(tmp_path / "in", out=tmp_path / "out")
    source, scan = looked_at(tmp_path / "out", tmp_path)
    assert len(scan.ranks) == 3
    stats = get_representation("stats")
    for i, part in enumerate("qkv"):
        layer = f"transformer.transformer_blocks.0.attn.to_{part}.lora"
        columns = [f"{layer}.down.weight", f"{layer}.up.weight"]
        found = dataset_matrix(source, scan, stats, columns).load().reshape(2, 2, -1)
        rows, own = slice(i * width, (i + 1) * width), slice(i * rank, (i + 1) * rank)
        expected = (downs[0][own], ups[0][rows, own]), (downs[1], ups[1][rows])
        for row, matrices in enumerate(expected):
            for value, matrix in zip(found[row], matrices):
                np.testing.assert_allclose(value, REFERENCE["stats"](matrix), rtol=1e-4, atol=1e-6)
