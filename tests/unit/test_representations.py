"""The representations against an independent float64 reference, and their invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lorasweep.features.numerics import kernels
from lorasweep.features.numerics import matrix_batch as batch
from lorasweep.features.representations import (
    DEFAULT_REPRESENTATIONS,
    REPRESENTATIONS,
    stored_representations,
)
from lorasweep.features.representations.evaluate import _bulk_quantities, evaluate, matrix_batch
from tests.unit.reference import DIMENSIONLESS, REFERENCE
from tests.unit.test_training import HostWaits

NINE = [REPRESENTATIONS[name] for name in DEFAULT_REPRESENTATIONS]
STORED = stored_representations(NINE)
SHAPES = [
    *[(rank, 320) for rank in (1, 4, 16, 64)],
    *[(96, rank) for rank in (1, 4, 16, 64)],
    (64, 64),
    (1, 1),
    (1, 2),
    (3, 1),
    (2, 2),
    (3, 3),
    (1, 9),
    (7, 5),
    (1, 321),
    (17, 1),
]


def evaluate_matrices(matrices: torch.Tensor) -> dict[str, torch.Tensor]:
    return evaluate(matrix_batch(matrices, STORED), STORED)


def compute(batch: np.ndarray) -> dict[str, np.ndarray]:
    """All nine of a (batch, m, n) float32 array, the view put together from its parts."""
    values = {k: v.numpy() for k, v in evaluate_matrices(torch.from_numpy(batch)).items()}
    for item in NINE:
        values.setdefault(
            item.name, np.concatenate([values[part.name] for part in item.stored], axis=1)
        )
    return values


def check_against_reference(batch: np.ndarray) -> None:
    for name, values in compute(batch).items():
        expected = np.stack([REFERENCE[name](matrix) for matrix in batch])
        assert values.shape == expected.shape
        assert values.dtype == np.float32
        assert np.isfinite(values).all(), name
        largest = np.abs(expected).max(axis=0)
        atol = np.where(DIMENSIONLESS[name], 1e-6, 1e-6 * largest)
        error = np.abs(values - expected) - (atol + 1e-4 * np.abs(expected))
        worst = np.unravel_index(error.argmax(), error.shape)
        assert error.max() <= 0, (
            f"{name} matrix {worst[0]} value {worst[1]}: {values[worst]} != {expected[worst]}"
        )


def random_batch(shape: tuple[int, int], seed: int = 0, count: int = 6) -> np.ndarray:
    """Normal, shifted, heavy-tailed, low-rank and few-valued matrices of one shape."""
    rng = np.random.default_rng(seed)
    m, n = shape
    low_rank = rng.standard_normal((m, 1)) @ rng.standard_normal((1, n))
    kinds = [
        rng.standard_normal(shape) * 0.02,
        rng.standard_normal(shape) * 0.01 + 0.3,
        rng.standard_normal(shape) * 1e-5 + 1.0,
        rng.standard_cauchy(shape) * 0.01,
        low_rank,
        rng.integers(-2, 3, shape) / 4,
    ]
    return np.stack(kinds[:count]).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_agrees_with_float64_reference(shape):
    check_against_reference(random_batch(shape, seed=sum(shape)))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s[0]}x{s[1]}")
def test_what_other_devices_run_agrees_too(shape, monkeypatch):
    monkeypatch.setattr(kernels, "is_native", lambda values: False)
    check_against_reference(random_batch(shape, seed=sum(shape)))


@pytest.mark.parametrize("block", [1, 700, 1 << 18])
def test_the_size_of_blocks_does_not_matter(block, monkeypatch):
    monkeypatch.setattr(batch, "_BLOCK_ENTRIES", block)
    check_against_reference(random_batch((4, 77)))


def test_what_is_computed_ahead_is_what_is_used():
    for item in STORED:
        quantities = _bulk_quantities((item,))
        shared = batch.MatrixBatch(torch.randn(3, 4, 7), quantities)
        ahead = {name for block in shared._blocks for name in vars(block)}
        item.compute(shared)
        assert shared.used - {"scale"} == quantities - {"scale"} <= ahead


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("shape", [(1, 320), (4, 77), (77, 4), (2, 2)], ids=str)
def test_degenerate_and_extreme_matrices(shape, native, monkeypatch):
    monkeypatch.setattr(kernels, "is_native", lambda values: native)
    rng = np.random.default_rng(1)
    normal = rng.standard_normal(shape)
    impulse = np.zeros(shape)
    impulse[0, -1] = 1.0
    for scale in (1.0, 1e30, 1e38, 1e-20, 1e-38):
        batch = np.stack(
            [normal, np.zeros(shape), np.ones(shape), -3 * np.ones(shape), impulse]
        ).astype(np.float64)
        clipped = np.clip(batch * scale, -3.4e38, 3.4e38).astype(np.float32)
        check_against_reference(clipped)


def test_result_does_not_depend_on_the_batch():
    batch = random_batch((4, 320))
    together = compute(batch)
    for i in range(len(batch)):
        alone = compute(batch[i : i + 1].copy())
        for name in together:
            np.testing.assert_allclose(together[name][i], alone[name][0], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("shape", [(1, 320), (320, 4)], ids=str)
def test_shapes_and_dtypes_on_the_meta_device(shape):
    values = evaluate_matrices(torch.empty((3, *shape), device="meta"))
    for item in STORED:
        assert values[item.name].shape == (3, item.width(shape))
        assert values[item.name].dtype == torch.float32
        assert values[item.name].device.type == "meta"


matrices = st.tuples(st.integers(1, 6), st.integers(1, 40)).flatmap(
    lambda shape: arrays(
        np.float32,
        (1, *shape),
        elements=st.floats(-1e3, 1e3, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x),
    )
)


@settings(max_examples=60, deadline=None)
@given(matrices)
def test_any_finite_matrix_gives_finite_values(batch):
    for name, values in compute(batch).items():
        assert np.isfinite(values).all(), name


@settings(max_examples=60, deadline=None)
@given(matrices, st.randoms(use_true_random=False))
def test_row_permutations_leave_order_statistics_alone(batch, random):
    order = list(range(batch.shape[1]))
    random.shuffle(order)
    before, after = compute(batch), compute(np.ascontiguousarray(batch[:, order]))
    for name in ("rank_based", "info_theoretic"):
        np.testing.assert_array_equal(before[name], after[name])
    for name in ("simple_stats", "stats", "matrix_norms"):
        scale = np.abs(batch).max() * batch.size
        np.testing.assert_allclose(before[name], after[name], rtol=1e-4, atol=1e-6 * scale)


@settings(max_examples=60, deadline=None)
@given(matrices, st.sampled_from([-1.0, 2.0, -8.0, 0.25]))
def test_scaling_scales_the_norms(batch, factor):
    before, after = compute(batch), compute(batch * np.float32(factor))
    np.testing.assert_allclose(
        after["matrix_norms"][:, :5], before["matrix_norms"][:, :5] * abs(factor), rtol=1e-5
    )
    np.testing.assert_allclose(
        after["frequency"][:, :13], before["frequency"][:, :13] * abs(factor), rtol=1e-4, atol=1e-3
    )


@settings(max_examples=60, deadline=None)
@given(matrices)
def test_transposition_leaves_spectra_alone(batch):
    transposed = np.ascontiguousarray(batch.transpose(0, 2, 1))
    before, after = compute(batch), compute(transposed)
    largest = max(float(np.abs(batch).max()), 1e-6) * batch.size
    np.testing.assert_allclose(
        after["spectral"][:, :10], before["spectral"][:, :10], rtol=1e-4, atol=1e-5 * largest
    )
    np.testing.assert_allclose(
        after["frequency"][:, :13], before["frequency"][:, :13], rtol=1e-4, atol=1e-5 * largest
    )


def test_elsewhere_the_host_waits_once_per_batch_however_large(monkeypatch):
    """For the choice of ill-conditioned matrices; results are brought back after that."""
    monkeypatch.setattr(kernels, "is_native", lambda values: False)
    evaluate_matrices(torch.randn(2, 4, 6))  # what is found out once
    for count in (3, 300):
        with HostWaits() as waits:
            evaluate_matrices(torch.randn(count, 4, 6))
        assert waits.count == 1
