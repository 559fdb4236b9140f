import datasets
import numpy as np
import pytest

from lorasweep.features.common.errors import UserError
from lorasweep.zoo.random.sanity import make_sanity
from lorasweep.zoo.random.synthetic import make_synthetic, synthetic_shapes


def test_the_sanity_set_is_as_documented(tmp_path):
    data = datasets.load_from_disk(make_sanity(tmp_path / "s", samples=5, classes=3))
    layers = [name for name in data.column_names if name.endswith(".weight")]
    assert len(data) == 15
    assert len(layers) == 20
    assert sum(".attn1." in name for name in layers) == 8
    arrays = data.with_format("numpy")
    shapes = {np.asarray(arrays[name][0]).shape for name in layers}
    assert shapes == {(4, 320), (4, 768), (4, 1280), (320, 4), (1280, 4)}
    labels = np.array(data["category_label"])
    assert labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    values = np.asarray(arrays[layers[0]][:])
    for label in range(3):
        assert values[labels == label].mean() == pytest.approx(0.1 * label, abs=1e-3)
        assert values[labels == label].std() == pytest.approx(0.01, rel=0.05)


def test_synthetic_shapes_are_those_of_sd15():
    shapes = synthetic_shapes(1)
    assert len(shapes) == 128
    assert sum(m * n for m, n in shapes.values()) == 99_648
    assert sum(".attn1." in name for name in shapes) == 64
    assert all(4 in shape for shape in synthetic_shapes(4).values())


def test_synthetic_sets_are_reproducible_and_streamed_in_shards(tmp_path):
    steps = []
    a = make_synthetic(
        tmp_path / "a", samples=7, classes=3, rank=16, on_progress=lambda *p: steps.append(p)
    )
    b = make_synthetic(tmp_path / "b", samples=7, classes=3, rank=16)
    c = make_synthetic(tmp_path / "c", samples=7, classes=3, rank=16, seed=1)
    assert steps == [(7, 7)]
    first, second, third = (datasets.load_from_disk(path) for path in (a, b, c))
    assert first["category_label"][:] == [0, 1, 2, 0, 1, 2, 0]
    name = first.column_names[5]
    assert first[name][3] == second[name][3]
    assert first[name][3] != third[name][3]


def test_nothing_is_overwritten_and_numbers_are_checked(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        make_sanity(tmp_path)
    with pytest.raises(UserError, match="at least 2"):
        make_sanity(tmp_path / "new", classes=1)
    with pytest.raises(UserError, match="at least 1"):
        make_synthetic(tmp_path / "new", samples=0)
    assert not (tmp_path / "new").exists()
