"""Calibration and distances, each against the plain formula."""

import numpy as np
import pytest
import torch

from lorasweep.trainables.models import novelty as reference
from lorasweep.trainables.models.calibration import at_temperature, fit_temperature
from lorasweep.trainables.models.novelty import Reference


def plain_distances(x, train, skip_nearest):
    every = np.sort(np.linalg.norm(x[:, None] - train[None], axis=2), axis=1)
    return every[:, skip_nearest + 4]


@pytest.mark.parametrize("most", [2000, 15])
def test_distances_are_those_of_the_formula(most, monkeypatch):
    monkeypatch.setattr(reference, "_MOST_COMPARED", most)
    monkeypatch.setattr(reference, "_ROWS", 7)
    monkeypatch.setattr(reference, "_COLUMNS", 11)
    rng = np.random.default_rng(0)
    train = rng.standard_normal((40, 6)).astype(np.float16).astype(np.float32)
    x = (
        rng.standard_normal((9, 6)).astype(np.float16).astype(np.float32)
        * np.arange(9)[:, None]
        / 4
    )
    x = x.astype(np.float16).astype(np.float32)
    found = Reference.of(train)
    own = plain_distances(train, train, skip_nearest=1)
    assert len(found.distances) == min(most, 40)
    assert np.isin(np.round(found.distances.numpy(), 4), np.round(own, 4)).all()
    expected = [
        (found.distances.numpy() <= d + 1e-6).mean() * 100 for d in plain_distances(x, train, 0)
    ]
    np.testing.assert_allclose(found.unlike(x), expected)
    products = Reference.of_products(train @ train.T, torch.from_numpy((train**2).sum(1)).double())
    squares = torch.from_numpy((x**2).sum(1)).double()
    np.testing.assert_allclose(products.unlike_products(x @ train.T, squares), expected, atol=1e-6)


def test_what_is_far_from_everything_is_unlike_and_a_copy_is_not():
    train = np.random.default_rng(1).standard_normal((200, 30)).astype(np.float32)
    unlike = Reference.of(train).unlike(np.stack([train[3], train[3] * 50, train[0] * 1e30]))
    assert unlike[0] < 60
    assert unlike[1] == unlike[2] == 100


def test_few_adapters_have_fewer_neighbours():
    train = np.eye(3, dtype=np.float32)
    assert Reference.of(train).unlike(np.zeros((1, 3), np.float32)) == 0
    assert Reference.of(train).unlike(np.full((1, 3), 9, np.float32)) == 100


def test_the_temperature_is_the_best_there_is():
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 4, 5000)
    logits = rng.standard_normal((5000, 4)) + 2 * np.eye(4)[truth]
    honest = at_temperature(logits, 1.0)
    # Logits of a model that is three times too sure are cooled by three.
    true = fit_temperature(honest, truth)
    assert fit_temperature(at_temperature(3 * logits, 1.0), truth) == pytest.approx(
        3 * true, rel=1e-3
    )
    grid = np.geomspace(0.3, 3, 400)
    losses = [-at_temperature(honest, t)[np.arange(5000), truth].mean() for t in grid]
    assert true == pytest.approx(grid[np.argmin(losses)], rel=0.02)


def test_no_error_is_no_reason_to_be_certain():
    log_p = at_temperature(3 * np.eye(3)[np.arange(30) % 3], 1.0)
    chance = np.exp(at_temperature(log_p, fit_temperature(log_p, np.arange(30) % 3))).max()
    assert 0.9 < chance < 0.995
