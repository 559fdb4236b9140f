"""The representations of layers against a float64 reference, and what they do not depend on."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lorasweep.features.common.errors import UserError
from lorasweep.features.numerics import decomposition, kernels, sketches
from lorasweep.features.numerics.update_batch import UpdateBatch
from lorasweep.features.representations import get_representation
from lorasweep.features.representations.evaluate import evaluate
from tests.unit import update_reference as reference

LAYER = "unet.mid_block.attn1.to_q"
SHAPES = [(48, 80, 1), (80, 48, 4), (70, 90, 16), (100, 72, 64), (5, 9, 7), (9, 5, 16), (1, 6, 1)]
SHAPES += [(1, 1, 4), (6, 1, 2)]
TINY = float(np.finfo(np.float32).smallest_subnormal)
NAMES = ["update_spectrum", "update_sketch:32", "update_sketch:64", "channel_norms", "canonical"]
REFERENCES = {
    "update_spectrum": reference.spectrum,
    "canonical": reference.canonical,
    "channel_norms": reference.channel_norms,
}


def compute(name, up, down, scale=None, layers=(LAYER,)):
    """(batch, width) float32 of NumPy factors."""
    item = get_representation(name)
    factors = (torch.from_numpy(np.asarray(x, np.float32)) for x in (down, up))
    scale = None if scale is None else torch.from_numpy(np.asarray(scale, np.float32))
    return evaluate(UpdateBatch(list(layers), *factors, scale), [item])[item.name].numpy()


def expected(name, up, down, scale=None):
    """The same by the reference, clipped to float32's range."""
    of, _, size = name.partition(":")
    scale = np.ones(len(up)) if scale is None else scale
    one = REFERENCES.get(of)
    if one is None:

        def one(*layer):
            return reference.sketch(*layer, layer=LAYER, size=int(size))

    values = np.stack([one(*layer) for layer in zip(up, down, scale)])
    return values.clip(-reference.FLOAT32_MAX, reference.FLOAT32_MAX)


def check(name, found, wanted, rtol=1e-4, atol=1e-5):
    """Each row within rtol, and atol times its largest magnitude."""
    assert found.shape == wanted.shape
    assert np.isfinite(found).all()
    if name == "update_spectrum":  # ranks and the logarithm are of a size of their own
        assert_close(found[:, 12:15], wanted[:, 12:15], rtol, 1e-5)
        found, wanted = (np.delete(x, slice(12, 15), axis=1) for x in (found, wanted))
    assert_close(found, wanted, rtol, atol * np.abs(wanted).max(axis=1, keepdims=True))


def assert_close(found, wanted, rtol, atol):
    error = np.abs(found.astype(np.float64) - wanted) - rtol * np.abs(wanted) - atol - TINY
    assert error.max() <= 0, f"off by {error.max()} too much at {np.argwhere(error > 0)[:5]}"


def factors(shape, seed=0):
    """Normal, ill-conditioned, with dead columns, zero, repeated and graded layers of a shape."""
    outputs, inputs, rank = shape
    rng = np.random.default_rng([seed, *shape])
    up, down = rng.standard_normal((6, outputs, rank)), rng.standard_normal((6, rank, inputs))
    up[1] = up[1, :, :1] + 1e-6 * up[1]
    up[2, :, rank // 2 :] = 0
    down[2, : rank // 4] = 0
    up[3] = 0
    down[4, -1] = down[4, 0]
    up[5] *= np.logspace(0, -6, rank)
    return up.astype(np.float32), down.astype(np.float32)


@pytest.fixture(params=["native", "elsewhere"])
def anywhere(request, monkeypatch):
    """On the CPU, and with what other devices run."""
    if request.param == "elsewhere":
        for module in (kernels, sketches):
            monkeypatch.setattr(module, "is_native", lambda values: False)


@pytest.mark.parametrize("scale", [None, [1.0, -2.0, 0.5, 3.0, 1.0, 0.0]], ids=["no α", "α"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("anywhere")
def test_agrees_with_float64_reference(name, shape, scale):
    up, down = factors(shape)
    found, wanted = compute(name, up, down, scale), expected(name, up, down, scale)
    if name == "canonical":  # only where singular values are apart are their vectors defined
        clear = [i for i in range(len(up)) if is_clear(up[i], down[i], shape[2])]
        assert clear or shape[2] > 4
        found, wanted = found[clear], wanted[clear]
    if len(found):
        check(name, found, wanted)


def is_clear(up, down, rank, gap=1e-3):
    """Whether gaps of σ, the last from 0, are above a part of σ₁, or the values are zero, and the
    largest entries of every u are as far apart in magnitude, or of one sign."""
    u, sigma, _ = np.linalg.svd(reference.update(up, down), full_matrices=False)
    sigma = sigma[:rank]
    if sigma[0] == 0:
        return True
    kept = sigma > 1e-10 * sigma[0]
    edges = np.append(sigma[kept], 0.0)
    if (-np.diff(edges) <= gap * sigma[0]).any():
        return False
    for i in np.flatnonzero(kept):
        ends = u[:, i].max(), -u[:, i].min()
        if min(ends) > 0 and abs(ends[0] - ends[1]) <= gap * max(ends):
            return False
    return True


@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize(
    "size", [(1e30, 1e30), (1e-30, 1e-30), (1e30, 1e-30), (1e-30, 1e8)], ids=str
)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("anywhere")
def test_huge_and_tiny_weights(name, size, rank):
    rng = np.random.default_rng(rank)
    up = (size[0] * rng.standard_normal((2, 40, rank))).astype(np.float32)
    down = (size[1] * rng.standard_normal((2, rank, 30))).astype(np.float32)
    check(name, compute(name, up, down), expected(name, up, down))


@pytest.mark.parametrize("rank", [1, 4])
def test_a_zero_layer_is_zero(rank):
    zero, down = np.zeros((2, 6, rank)), np.ones((2, rank, 5))
    for name in NAMES[1:]:
        np.testing.assert_array_equal(compute(name, zero, down), 0)
    found = compute("update_spectrum", zero, down)
    np.testing.assert_allclose(found[:, 13:15], [[1, np.log(1e-8)]] * 2, rtol=1e-6)
    found[:, 13:15] = 0
    np.testing.assert_array_equal(found, 0)


def test_dead_columns_need_no_second_look(monkeypatch):
    """A padded update is as well conditioned as without the padding."""
    monkeypatch.setattr(torch.linalg, "qr", None)
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((3, 20, 4)), rng.standard_normal((3, 4, 30))
    up[:, :, 1] = 0
    down[:, 3] = 0
    for name in ("update_spectrum", "canonical"):
        check(name, compute(name, up, down), expected(name, up, down))


def test_small_singular_values_are_found():
    """Four orders of magnitude below what squares in float64 resolve."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((40, 4)))[0] for _ in range(2))
    up = (u * [1, 1e-2, 1e-7, 4e-8])[None].astype(np.float32)
    down = v.T[None].astype(np.float32)
    found = compute("update_spectrum", up, down)[:, :4]
    np.testing.assert_allclose(found, expected("update_spectrum", up, down)[:, :4], rtol=1e-5)


shapes = st.tuples(st.integers(2, 30), st.integers(2, 30), st.sampled_from([1, 2, 4, 6]))


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(0, 2**32 - 1), st.sampled_from([1e-3, 1.0, 50.0]), st.integers(0, 3))
def test_another_factoring_of_the_same_update_changes_nothing(shape, seed, size, padding):
    outputs, inputs, rank = shape
    rng = np.random.default_rng(seed)
    up, down = (
        rng.standard_normal((1, outputs, rank)),
        size * rng.standard_normal((1, rank, inputs)),
    )
    u, v = (np.linalg.qr(rng.standard_normal((rank, rank)))[0] for _ in range(2))
    change = u * np.geomspace(1, rng.uniform(1, 10), rank) @ v
    before = up.astype(np.float32), down.astype(np.float32)
    turned = (up @ change).astype(np.float32), (np.linalg.inv(change) @ down).astype(np.float32)
    padded = np.zeros((1, outputs, padding)), np.zeros((1, padding, inputs))
    after = np.concatenate([turned[0], padded[0]], 2), np.concatenate([turned[1], padded[1]], 1)
    for name in NAMES[:-1]:
        check(name, compute(name, *after), compute(name, *before))
    assume(is_clear(up[0], down[0], rank))
    sides = [
        compute("canonical", *factors)[0] for factors in (before, after)
    ]  # of another width: each side has a part for every i up to the rank
    for first, count in ((0, outputs), (1, inputs)):
        parts = []
        for side, own in zip(sides, (rank, rank + padding)):
            start = first * own * outputs
            parts.append(side[start : start + own * count])
        check("canonical", parts[1][None, : len(parts[0])], parts[0][None])
        np.testing.assert_array_equal(parts[1][len(parts[0]) :], 0)


def test_the_sketch_s_inner_products_are_unbiased():
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((2, 12, 3)), rng.standard_normal((2, 3, 9))
    up[1] += up[0]
    down[1] += down[0]
    found = []
    for i in range(400):
        x, y = compute("update_sketch:32", up, down, layers=[f"layer.{i}"]).astype(np.float64)
        found.append(x @ y)
    deltas = [reference.update(*layer) for layer in zip(up, down)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - np.sum(deltas[0] * deltas[1])) < 4 * error
    assert error < 0.05 * np.sum(deltas[0] * deltas[1])


FROZEN = {
    "output": [[95, 62, 40, 29, 120, 56, 36, 91], [-1, 1, 1, -1, -1, -1, 1, 1]],
    "sketch_output": [[84, 22, 49, 28, 71, 104, 52, 69], [1, -1, -1, 1, -1, -1, -1, -1]],
    "sketch_input": [[50, 76, 55, 86, 31, 9, 57, 52], [-1, 1, 1, 1, 1, -1, 1, 1]],
}


def test_hashes_are_frozen():
    """The same on every machine, in every version."""
    found = {
        side: [x.int().tolist() for x in sketches._hashed(LAYER, side, 128, 8)]
        for side in ("output", "sketch_output", "sketch_input")
    }
    assert found == FROZEN


def test_two_spellings_of_a_layer_s_name_have_one_hash():
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((1, 12, 2)), rng.standard_normal((1, 2, 9))
    spellings = ("unet.attn1.processor.to_q", "base_model.model.unet.attn1.to_q", "unet.attn1.to_q")
    for name in ("update_sketch:32", "channel_norms:8"):
        first, *others = (compute(name, up, down, layers=[layer]) for layer in spellings)
        for other in others:
            np.testing.assert_array_equal(other, first)
        assert (compute(name, up, down, layers=["unet.attn1.to_k"]) != first).any()


def test_every_layer_of_a_batch_has_its_own_hash():
    up, down = factors((20, 30, 2))
    layers = ["a.to_q", "a.to_k", "a.to_v"]
    together = compute("update_sketch", up, down, layers=layers)
    alone = [
        compute("update_sketch", up[own], down[own], layers=[layer])
        for layer, own in zip(layers, (slice(0, 2), slice(2, 4), slice(4, 6)))
    ]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16, 21])
def test_rows_are_folded_alike_however_many_there_are(rows):
    values = torch.randn(rows, 30, generator=torch.Generator().manual_seed(rows))
    found = sketches.count_sketch(values, [LAYER], "output", 16)
    places, signs = reference.hashed(LAYER, "output", 16, 30)
    wanted = np.zeros((rows, 16))
    for channel in range(30):
        wanted[:, places[channel]] += signs[channel] * values[:, channel].double().numpy()
    np.testing.assert_array_equal(found.numpy(), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_on_the_meta_device(name):
    item = get_representation(name)
    tensors = [torch.empty(shape, device="meta") for shape in ((4, 3, 9), (4, 6, 3))]
    values = evaluate(UpdateBatch([LAYER], *tensors), [item])[item.name]
    assert values.shape == (4, item.width((6, 9, 3)))
    assert values.device.type == "meta"


@pytest.mark.usefixtures("anywhere")
def test_values_of_the_sketch_that_nothing_is_added_to_are_zero():
    """Not rounding, which would be scaled up to a feature."""
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((50, 6, 2)), rng.standard_normal((50, 2, 9))
    found = compute("update_sketch", up.astype(np.float32), down.astype(np.float32))
    (rows, _), (columns, _) = (
        reference.hashed(LAYER, side, 128, n)
        for side, n in (("sketch_output", 6), ("sketch_input", 9))
    )
    reached = np.isin(np.arange(128), np.add.outer(rows, columns) % 128)
    assert 20 < reached.sum() < 60
    assert (found[:, ~reached] == 0).all()
    assert (found[:, reached] != 0).all()


def test_sizes_of_the_sketch():
    assert get_representation("update_sketch").name == "update_sketch:128"
    with pytest.raises(UserError, match="the size must be one of 32, 64, 128, 256"):
        get_representation("update_sketch:100")


def test_noise_of_an_update_of_lower_rank_is_zero():
    rng = np.random.default_rng(0)
    up, down = rng.standard_normal((1, 20, 4)), rng.standard_normal((1, 4, 30))
    up[:, :, 3] = up[:, :, 2]
    assert (compute("update_spectrum", up, down)[:, 3] == 0).all()
    assert decomposition._NOISE < 1e-8
    assert (compute("canonical", up, down)[:, 60:80] == 0).all()
