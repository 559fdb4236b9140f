"""The compiled eigenvalues against Jacobi's method in extended precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lorasweep.features.numerics import compiled, kernels

Array = np.ndarray
EPS = np.finfo(np.float64).eps
RANKS = [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 32, 33]


def by_jacobi(matrices: Array) -> Array:
    """(batch, r, r), symmetric -> (batch, r) long double eigenvalues, descending."""
    a = matrices.astype(np.longdouble)
    r = a.shape[1]
    below = np.tril_indices(r, -1)
    for _ in range(30):
        size = np.abs(a).max(axis=(1, 2), initial=0)
        if (np.abs(a[:, *below]) <= 10 * np.finfo(a.dtype).eps * size[:, None]).all():
            break
        for q, p in zip(*below):
            theta = 0.5 * np.arctan2(2 * a[:, p, q], a[:, q, q] - a[:, p, p])
            turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
            a[:, [p, q]] = np.einsum("xyb,byk->bxk", turn, a[:, [p, q]])
            a[:, :, [p, q]] = np.einsum("xyb,bky->bkx", turn, a[:, :, [p, q]])
    else:
        raise AssertionError("Jacobi's method has not converged")
    return -np.sort(-np.diagonal(a, axis1=1, axis2=2), axis=1)


def check(matrices: Array, scale: float = 1.0) -> None:
    """Absolute errors are a few roundings of the largest eigenvalue."""
    r = matrices.shape[1]
    lower = np.tril(matrices) * scale
    lower[:, *np.triu_indices(r, 1)] = np.nan  # nobody reads it
    values = np.empty(matrices.shape[:2])
    assert compiled.eigenvalues(lower, values)
    expected = by_jacobi(matrices)
    assert np.isfinite(values).all()
    assert (values[:, :-1] >= values[:, 1:]).all()
    # Numbers below 1e-290 count as zero.
    bound = (16 + r) * EPS * np.maximum(expected[:, :1] * scale, 1e-290)
    assert (np.abs(values - expected * scale) <= bound).all()


def products_of(rows: Array) -> Array:
    return rows @ rows.swapaxes(1, 2)


def special_cases(r: int) -> Array:
    """Zero, diagonal, of low rank, decoupled, with eigenvalues repeated, clustered and graded."""
    rng = np.random.default_rng(r)
    eye, ones = np.eye(r), np.ones((r, r))
    cases = [0 * eye, eye, ones, np.diag(rng.random(r)), np.diag(np.arange(r) == r // 2) * 1.0]
    cases += [np.diag(np.logspace(0, exponent, r)) for exponent in (-9, -300)]
    cases += [np.diag(np.logspace(exponent, 0, r)) for exponent in (-9, -300)]
    for parts in (2, 3, 4):
        neighbours = np.arange(r) // parts
        for group in (neighbours, rng.permutation(neighbours)):
            cases.append((group[:, None] == group) * 1.0)
    second = 2 * eye - np.eye(r, k=1) - np.eye(r, k=-1)
    cases += [second, second @ second]
    for spread in (0, 1e-15, 1e-8):
        rotation = np.linalg.qr(rng.standard_normal((r, r)))[0]
        cases += [
            (rotation * (weights + spread * rng.random(r))) @ rotation.T
            for weights in (np.ones(r), rng.integers(0, 3, r), np.logspace(0, -12, r))
        ]
    for size in (1, 1e-3, 1e-9, 1e-60, 1e-160):
        whole = rng.integers(-2, 3, (r, 2 * r)) / 4
        few = rng.standard_normal((r, 2 * r)) * (rng.random((r, 2 * r)) < 0.1)
        biased = rng.standard_normal((r, 2 * r)) * size + 1
        graded = rng.standard_normal((r, 2 * r)) * np.logspace(0, np.log10(size), r)[:, None]
        cases += [rows @ rows.T for rows in (whole, few, biased, graded, graded[::-1])]
        cases += [rows @ rows.T for rows in (whole[:, :1], few[:, : r // 2 + 1], biased[:, :2])]
    stacked = np.stack(cases)
    return (stacked + stacked.swapaxes(1, 2)) / 2


@pytest.mark.parametrize("r", RANKS)
def test_random_matrices(r):
    check(products_of(np.random.default_rng(r).standard_normal((70, r, 3 * r))))


@pytest.mark.parametrize("r", RANKS)
def test_special_matrices(r):
    cases = special_cases(r)
    assert len(cases) % compiled._LANES
    check(cases)


@pytest.mark.parametrize("scale", [1e150, 1e-150, 1e-200, 1e-300, 1e-310, 1e300])
@pytest.mark.parametrize("r", [1, 2, 5, 16])
def test_tiny_and_huge_matrices(r, scale):
    check(special_cases(r), scale)


@pytest.mark.parametrize("batch", [0, 1, 2, 31, 32, 33, 64, 65])
def test_batches_that_do_not_fill_the_lanes(batch):
    check(products_of(np.random.default_rng(batch).standard_normal((batch, 4, 9))))


def test_neighbours_do_not_matter():
    cases = special_cases(6)
    values, alone = np.empty(cases.shape[:2]), np.empty((1, 6))
    compiled.eigenvalues(cases, values)
    for case, together in zip(cases, values):
        assert compiled.eigenvalues(case[None].copy(), alone)
        np.testing.assert_allclose(together, alone[0], rtol=0, atol=20 * EPS * alone.max())


entries = st.sampled_from([0.0, 0.5, 1.0, -1.0, 2.0, 1e-4, 1e-8, 1e-30, -1e-100, 1e-160])


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 9)).flatmap(
        lambda shape: arrays(np.float64, shape, elements=st.one_of(entries, st.floats(-4, 4)))
    )
)
def test_any_gram_matrix(rows):
    check(products_of(rows))


def float32_batch() -> torch.Tensor:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 8, 50)) * np.logspace(0, -3, 8)[:, None]
    rows[1::4, 5:] *= 1e-4
    rows[2::4, 1:] = 0
    rows[3::4] = rows[3::4, :1]
    return torch.from_numpy(rows.astype(np.float32))


@pytest.mark.parametrize("way", ["compiled", "not converged", "too large", "not native"])
def test_singular_values_are_right_either_way(way, monkeypatch):
    batch = float32_batch()
    products = kernels.gram(batch)
    if way == "not converged":
        monkeypatch.setattr(compiled, "eigenvalues", lambda matrices, values: False)
    elif way == "too large":
        monkeypatch.setattr(kernels, "_LARGEST_SIDE_BY_SIDE", 7)
    elif way == "not native":
        monkeypatch.setattr(kernels, "is_native", lambda values: False)
    values = kernels.singular_values(batch, products).numpy()
    expected = np.linalg.svd(batch.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-14 * expected.max())
