"""Principal components of whole adapters against explicit ones of explicit ΔW."""

import numpy as np
import pyarrow as pa
import pytest

from lorasweep.features.compute.cache import CacheEntry, FeatureMatrix
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.features.datasets.scan import scan_dataset
from lorasweep.features.datasets.sources import DatasetRequest, find_dataset
from lorasweep.features.projections import missing, plan, plan_projection, stage
from lorasweep.features.projections.components import principal_components
from lorasweep.features.projections.plan import choose_landmarks
from lorasweep.features.projections.stage import run_projections
from lorasweep.features.representations import get_representation
from lorasweep.zoo.random.sd15 import matrix_column
from tests.conftest import NAMES, adapter_table, random_matrices

ROWS, BAD = 70, 5
TRAIN = [i for i in range(ROWS - 1) if i % 3]  # of the samples: the bad row is none
LAYER = NAMES[0].removesuffix(".lora.down.weight")
SCALE = np.linspace(-2, 2, ROWS, dtype=np.float32)


def make(folder, matrices):
    columns = {name: matrix_column(values) for name, values in matrices.items()}
    table = adapter_table(rows=ROWS, **columns, **{f"{LAYER}.scale": pa.array(SCALE)})
    write_dataset(folder / "adapters", table)
    source = find_dataset(DatasetRequest(str(folder / "adapters")), folder)
    return source, scan_dataset(source, "category_label", None, folder)


@pytest.fixture(scope="module")
def matrices():
    found = random_matrices(ROWS)
    found[NAMES[2]][:] = 0  # a layer that is zero is left out
    found[NAMES[0]][BAD, 0, 0] = np.nan
    return found


@pytest.fixture(scope="module")
def adapters(matrices, tmp_path_factory):
    source, scan = make(tmp_path_factory.mktemp("fitted"), matrices)
    assert scan.bad_rows == [BAD]
    return source, scan


def vectors(matrices, scan, layers, kind):
    """(samples, numbers) float64: every layer's vector, scaled as its inner product is."""
    keep = np.delete(np.arange(ROWS), BAD)
    parts = []
    for layer in scan.layers:
        if layer.name not in layers:
            continue
        down, up = (matrices[n][keep].astype(np.float64) for n in (layer.down, layer.up))
        s = SCALE[keep].astype(np.float64) if layer.scale else np.ones(len(keep))
        if kind == "update_pca":
            whole = (up @ down * s[:, None, None]).reshape(len(keep), -1)
        else:
            whole = np.concatenate(
                [(up * s[:, None, None]).reshape(len(keep), -1), down.reshape(len(keep), -1)], 1
            )
        square = (whole[TRAIN] ** 2).sum(1).mean()
        if square:
            parts.append(whole / np.sqrt(square))
    return np.concatenate(parts, 1)


def explicit(whole, count):
    """Principal component scores by an SVD of the centred training vectors."""
    centred = whole - whole[TRAIN].mean(0)
    _, sigma, axes = np.linalg.svd(centred[TRAIN], full_matrices=False)
    scores = centred @ axes.T
    scores[:, sigma**2 < 1e-6 * sigma[0] ** 2] = 0
    padded = np.zeros((len(whole), count))
    kept = min(count, scores.shape[1], len(TRAIN) - 1)
    padded[:, :kept] = scores[:, :kept]
    return padded


def load(root, scan, one):
    entry = CacheEntry(root, scan.weights, one.stored)
    return FeatureMatrix((entry.folder,), ("adapter",)).load()


@pytest.fixture(scope="module")
def computed(local_ray, adapters, tmp_path_factory):
    """(cache root, what was wanted, progress told): it is not to be changed."""
    source, scan = adapters
    root = tmp_path_factory.mktemp("computed")
    everything = [layer.name for layer in scan.layers]
    wanted = [
        plan_projection(get_representation(name), scan, TRAIN, layers)
        for name in ("update_pca:64", "flat_pca", "update_pca")
        for layers in (everything, everything[:1])
    ]
    told = []
    assert missing(scan, wanted, root) == wanted
    run_projections(source, scan, wanted, root, on_progress=lambda *p: told.append(p))
    return root, wanted, told


def test_they_are_those_of_explicit_updates(adapters, matrices, computed):
    scan, (root, wanted, told) = adapters[1], computed
    assert told[-1] == (2 * (ROWS - 1), 2 * (ROWS - 1))  # two kernels, one pass each
    assert missing(scan, wanted, root) == []
    for one in wanted:
        found = load(root, scan, one)
        kind = one.item.name.partition(":")[0]
        expected = explicit(vectors(matrices, scan, one.layers, kind), one.item.size)
        assert found.shape == (ROWS - 1, one.item.size)
        assert np.isfinite(found).all()
        # A component's sign is that of its largest coefficient on the landmarks.
        signs = np.where(np.einsum("ij,ij->j", found, expected) < 0, -1, 1)
        largest = np.abs(expected).max()
        np.testing.assert_allclose(found, expected * signs, rtol=2e-3, atol=2e-4 * largest)
        used = found[:, np.abs(found).max(0) > 0]
        peaks = used[TRAIN][np.abs(used[TRAIN]).argmax(0), np.arange(used.shape[1])]
        assert (peaks > 0).all()
    leftovers = {path.name for path in (root / scan.weights).iterdir()}
    assert not any("products" in name or "landmarks" in name for name in leftovers)


def test_no_number_of_another_adapter_enters_the_fit(matrices, adapters, computed, tmp_path):
    """With garbage for validation and test, the training adapters have the same coordinates."""
    rng = np.random.default_rng(1)
    sample = np.delete(np.arange(ROWS), BAD)
    others = np.delete(np.arange(ROWS), sample[TRAIN])
    spoiled = {name: values.copy() for name, values in matrices.items()}
    for values in spoiled.values():
        noise = 1e3 * rng.standard_normal(values[others].shape)
        values[others] = np.where(np.isfinite(values[others]), noise, values[others])
    root, wanted, _ = computed
    source, scan = make(tmp_path, spoiled)
    one = plan_projection(get_representation("update_pca:64"), scan, TRAIN, wanted[0].layers)
    run_projections(source, scan, [one], tmp_path)
    np.testing.assert_array_equal(
        load(tmp_path, scan, one)[TRAIN], load(root, adapters[1], wanted[0])[TRAIN]
    )


def test_an_interrupted_pass_goes_on_to_the_same_bits(adapters, computed, tmp_path, monkeypatch):
    (source, scan), (root, wanted, _) = adapters, computed
    one = wanted[0]
    entry = CacheEntry(tmp_path / "cut", scan.weights, one.products)

    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_finish", die)
    with pytest.raises(KeyboardInterrupt):
        run_projections(source, scan, [one], tmp_path / "cut")
    monkeypatch.undo()
    shards = sorted(entry.partial.glob("data-*.arrow"))
    assert len(shards) == 3
    kept = shards[0].stat().st_ino
    shards[1].write_bytes(shards[1].read_bytes()[:-9])
    seen = []
    finish = stage._finish
    monkeypatch.setattr(
        stage, "_finish", lambda *args: (seen.append(shards[0].stat().st_ino), finish(*args))
    )
    run_projections(source, scan, [one], tmp_path / "cut")
    assert seen == [kept]
    np.testing.assert_array_equal(load(tmp_path / "cut", scan, one), load(root, scan, one))


def test_one_pass_serves_all_folds(adapters, local_ray, tmp_path, monkeypatch):
    """Each fold has the coordinates of a pass of its own, and the same bits whoever comes along."""
    source, scan = adapters
    layers = [layer.name for layer in scan.layers]
    count = ROWS - 1
    trains = [[i for i in range(count) if i % 3 != left_out] for left_out in range(3)]

    def plans(name, folds):
        item = get_representation(name)
        return [plan_projection(item, scan, train, layers, folds=folds) for train in trains]

    names = "update_pca:64", "flat_pca:64"
    wanted = [one for name in names for one in plans(name, True)]
    told = []
    run_projections(source, scan, wanted, tmp_path / "all", on_progress=lambda *p: told.append(p))
    assert told[-1] == (2 * count, 2 * count)  # two kernels, one pass each
    alone = [one for name in names for one in plans(name, False)]
    run_projections(source, scan, alone, tmp_path / "each")
    for one, own in zip(wanted, alone):
        found, expected = load(tmp_path / "all", scan, one), load(tmp_path / "each", scan, own)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    monkeypatch.setattr(stage, "_SUMS_BYTES", 1)  # each in a pass of its own
    for at in (slice(1, 2), slice(None)):
        folder = tmp_path / f"again-{at.stop}"
        run_projections(source, scan, wanted[at], folder)
        for one in wanted[at]:
            same = load(tmp_path / "all", scan, one)
            np.testing.assert_array_equal(load(folder, scan, one), same)
    monkeypatch.setattr(plan, "MOST", count - 1)
    assert plans("update_pca:64", True)[0].everybody is None


def test_landmarks_are_a_part_of_training_that_can_be_afforded(adapters, monkeypatch):
    _, scan = adapters
    few = choose_landmarks(scan, TRAIN, "update")
    assert few.samples == tuple(TRAIN)
    monkeypatch.setattr(plan, "MOST", 20)
    chosen = choose_landmarks(scan, TRAIN, "update")
    assert len(chosen.samples) == 20
    assert set(chosen.samples) < set(TRAIN)
    assert chosen == choose_landmarks(scan, TRAIN, "update")
    monkeypatch.setattr(plan, "BUDGET", 1.0)
    monkeypatch.setattr(plan, "_FEWEST", 3)
    assert len(choose_landmarks(scan, TRAIN, "update").samples) == 3
    # Rank 2: products of updates cost four times those of rank 1, flat ones twice.
    numbers = sum(outputs + inputs for outputs, inputs, _ in (x.shape for x in scan.layers))
    assert few.cost == 2.0 * 4 * numbers * scan.num_samples * len(TRAIN)
    assert choose_landmarks(scan, TRAIN, "flat").cost == 2.0 * 2 * numbers * scan.num_samples * 3


def test_components_that_are_rounding_are_zero():
    rng = np.random.default_rng(0)
    low = rng.standard_normal((30, 4))
    found = principal_components((low @ low.T).astype(np.float32), 10)
    assert np.abs(found.weights[:, :4]).max(0).min() > 0
    assert not found.weights[:, 4:].any()
    scores = found.project((low @ low.T).astype(np.float32))
    centred = low - low.mean(0)
    assert scores.var(0).sum() == pytest.approx(centred.var(0).sum(), rel=1e-4)
