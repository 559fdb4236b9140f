"""The contract of every representation there is, whatever it is called."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from lorasweep.features.common.errors import UserError
from lorasweep.features.numerics.update_batch import UpdateBatch
from lorasweep.features.representations import (
    DEFAULT_REPRESENTATIONS,
    GROUPS,
    REPRESENTATIONS,
    Unit,
    get_representation,
    get_representations,
)
from lorasweep.features.representations.base import NAME
from lorasweep.features.representations.evaluate import evaluate_each, matrix_batch


def sizes(item):
    """What may follow a name: nothing where it may be left out, and a size where it takes one."""
    given = [f":{size}" for size in item.sizes or (7,)] if item.sized else []
    return given if item.sized == "required" else ["", *given]


EVERY = [
    f"{name}{size}"
    for name, item in REPRESENTATIONS.items()
    for size in sizes(item)
    if not item.kernel  # fitted ones have tests of their own: they are no function of one adapter
]
SHAPES = [(1, 1, 1), (6, 9, 1), (9, 6, 4), (3, 3, 3)]


def layer_batch(shape, count=5, seed=0, scale=None):
    outputs, inputs, rank = shape
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(count, rank, inputs, generator=generator)
    up = torch.randn(count, outputs, rank, generator=generator)
    return UpdateBatch(["unet.x.to_q"], down, up, scale)


def values_of(item, shape, seed=0):
    """(5, width) of random matrices, or layers, of a shape; and the shape its names depend on."""
    failed = {}
    if item.unit is Unit.LAYER:
        found = evaluate_each(layer_batch(shape, seed=seed), [item], failed)
    else:
        parts = list(item.stored)
        matrices = torch.randn(5, *shape[:2], generator=torch.Generator().manual_seed(seed))
        values = evaluate_each(matrix_batch(matrices, parts), parts, failed)
        found = {item.name: np.concatenate([values[part.name] for part in parts], axis=1)}
        shape = shape[:2]
    assert failed == {}
    return found[item.name], shape


@pytest.mark.parametrize("reference", EVERY)
def test_it_keeps_what_it_declares(reference):
    item = get_representation(reference)
    assert NAME.fullmatch(item.name.partition(":")[0])
    assert item.version
    assert item.doc
    assert item.reference == item.name
    for shape in SHAPES:
        values, of = values_of(item, shape)
        names = item.values(of)
        assert len(set(names)) == len(names) == values.shape[1] == item.width(of)
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        again, _ = values_of(get_representation(reference), shape)
        np.testing.assert_array_equal(values, again)


@pytest.mark.parametrize("name", [name for name, item in REPRESENTATIONS.items() if item.kernel])
def test_a_fitted_one_is_declared_whole(name):
    item = get_representation(name)
    assert item.unit is Unit.ADAPTER
    assert item.doc
    assert len(set(item.values(()))) == item.width(()) == item.size
    assert item.stored == ()
    assert item.name == get_representation(item.name).name == f"{name}:{item.size}"


def test_the_default_grid_is_the_original_experiment():
    assert DEFAULT_REPRESENTATIONS == (
        "simple_stats", "rank_based", "stats", "spectral", "matrix_norms", "distribution",
        "frequency", "info_theoretic", "ensemble",
    )  # fmt: skip
    assert list(REPRESENTATIONS)[: len(DEFAULT_REPRESENTATIONS)] == list(DEFAULT_REPRESENTATIONS)


def test_groups_stand_for_their_members():
    names = {group: [item.name for item in get_representations([group])] for group in GROUPS}
    assert tuple(names["nine"]) == DEFAULT_REPRESENTATIONS
    assert names["all"] == [*names["nine"], *names["update"]]
    assert all(item.unit is not Unit.TENSOR for item in get_representations(["update"]))
    others = {n for n, item in REPRESENTATIONS.items() if item.unit is not Unit.TENSOR}
    assert {name.partition(":")[0] for name in names["update"]} == others
    assert not GROUPS.keys() & REPRESENTATIONS.keys()
    with pytest.raises(UserError, match="'stats' is given twice"):
        get_representations(["nine", "stats"])
    with pytest.raises(UserError, match="did you mean 'update'"):
        get_representation("updat")


@pytest.mark.parametrize("sized", [None, 16])
def test_channel_norms_do_not_depend_on_how_an_update_is_factored(sized):
    item = get_representation("channel_norms" + (f":{sized}" if sized else ""))
    batch = layer_batch((40, 30, 3), count=20, seed=3)
    change = torch.linalg.qr(torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(1)))[0]
    change = change * torch.tensor([0.5, 1.0, 3.0])
    padded = torch.zeros(20, 2, 30), torch.zeros(20, 40, 2)
    other = UpdateBatch(
        batch.layers,
        torch.cat([torch.linalg.solve(change, batch.down), padded[0]], 1),
        torch.cat([batch.up @ change, padded[1]], 2),
    )
    before, after = (item.compute(b).numpy() for b in (batch, other))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * np.abs(before).max())


def test_channel_norms_are_those_of_the_update():
    scale = torch.tensor([-2.0, 0.0, 1.0, 0.5, 3.0])
    batch = layer_batch((7, 5, 2), scale=scale)
    update = scale[:, None, None].double() * (batch.up.double() @ batch.down.double())
    expected = torch.cat([update.norm(dim=2), update.norm(dim=1)], 1)
    found = get_representation("channel_norms").compute(batch)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_folding_keeps_inner_products_on_average():
    """A count sketch's inner products are unbiased: over many layers' hashes, they average out."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 60, dtype=torch.float64, generator=generator)
    sketches = []
    for i in range(400):
        batch = UpdateBatch([f"layer.{i}"], torch.ones(2, 1, 1), torch.ones(2, 60, 1))
        a, b = batch.fold(torch.stack([x, y]), "output", 32)
        sketches.append(float(a @ b))
    expected = float(x @ y)
    error = np.std(sketches) / np.sqrt(len(sketches))
    assert abs(np.mean(sketches) - expected) < 4 * error


def test_doubled_and_unknown_names_are_refused():
    with pytest.raises(UserError, match="given twice"):
        get_representations(["stats", "channel_norms:4", "channel_norms:4"])
    with pytest.raises(UserError, match="did you mean 'spectral'"):
        get_representation("spectrall")
    with pytest.raises(UserError, match="takes no size"):
        get_representation("stats:4")


def test_declarations_load_no_heavy_library():
    code = (
        "import sys, lorasweep.features.representations, lorasweep.features.layers.configs; "
        "assert not {'torch', 'ray', 'datasets', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
