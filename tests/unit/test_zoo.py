"""Real adapters, trained on real Ray with the real diffusers UNet."""

import json
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
from safetensors.numpy import load_file

from lorasweep.features.common.errors import UserError
from lorasweep.zoo.digits.adapters import GROUP_SIZE, make_zoo

ROOT = Path(__file__).parents[2]
FAST = {"channels": (8, 8, 8, 8), "base_steps": 2, "steps": 2}


def files(out):
    return {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.mark.long
@pytest.mark.usefixtures("local_ray")
def test_a_zoo_is_reproducible_resumable_and_a_dataset(tmp_path):
    progress = []
    dataset = make_zoo(tmp_path / "a", size=12, on_progress=lambda *p: progress.append(p), **FAST)
    assert progress[-1] == (12, 12)
    data = datasets.load_from_disk(dataset)
    layers = [name for name in data.column_names if name.endswith(".weight")]
    assert len(data) == 12
    assert len(layers) == 128
    assert sum(".attn1." in name for name in layers) == 64
    assert data["category_label"][:] == [i % 10 for i in range(12)]
    folder = tmp_path / "a/adapters/adapter-00003"
    tensors = load_file(folder / "pytorch_lora_weights.safetensors")
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["category_label"] == 3
    assert 4 <= metadata["num_images"] <= 12
    assert sorted(tensors) == sorted(layers)
    for name in layers:
        assert tensors[name].shape[0 if ".down." in name else 1] == 1
        np.testing.assert_array_equal(np.array(data[3][name], np.float32), tensors[name])
    assert any(np.abs(tensors[name]).max() > 0 for name in layers if ".up." in name)

    # One adapter of the first group lost, one damaged: only that group is trained again.
    before = files(tmp_path / "a")
    (folder / "metadata.json").unlink()
    weights = tmp_path / "a/adapters/adapter-00004/pytorch_lora_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    kept = tmp_path / "a/adapters/adapter-00011/pytorch_lora_weights.safetensors"
    stamp = kept.stat().st_mtime_ns
    progress.clear()
    make_zoo(tmp_path / "a", size=12, on_progress=lambda *p: progress.append(p), **FAST)
    assert progress == [(10, 12), (12, 12)]
    assert kept.stat().st_mtime_ns == stamp
    assert files(tmp_path / "a") == before

    # An adapter does not depend on how many others there are.
    make_zoo(tmp_path / "b", size=GROUP_SIZE + 1, **FAST)
    other = files(tmp_path / "b")
    assert {p: other[p] for p in other if "adapters" in p.parts} == {
        p: before[p] for p in other if "adapters" in p.parts
    }


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"size": 0}, "size is 0"),
        ({"steps": 0}, "steps is 0"),
        ({"rank": 0}, "rank is 0"),
        ({"rank": 99}, "narrowest layer"),
        ({"targets": ("to_z",)}, "unknown target 'to_z'"),
        ({"targets": ()}, "no targets"),
    ],
)
def test_impossible_requests_are_refused(request_, message, tmp_path):
    with pytest.raises(UserError, match=message):
        make_zoo(tmp_path / "zoo", **request_)
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("name", "adapters", "most_bytes"),
    [("digits-zoo", 300, 6e6), ("digits-prompted", 450, 10e6)],
)
def test_the_shipped_adapters_are_as_described(name, adapters, most_bytes):
    folder = ROOT / "examples" / name
    assert sum(p.stat().st_size for p in folder.iterdir()) <= most_bytes
    data = datasets.load_from_disk(folder)
    assert len(data) == adapters
    assert len([column for column in data.column_names if column.endswith(".weight")]) == 128
    assert np.bincount(data["category_label"][:]).tolist() == [adapters // 10] * 10


def test_the_prompted_adapters_are_split_by_the_images_they_saw():
    data = datasets.load_from_disk(ROOT / "examples/digits-prompted")
    pools, splits = data["pool"][:], data["split"][:]
    found = Counter(zip(pools, splits))
    assert found == {("own", "test"): 150, ("shared", "train"): 260, ("shared", "val"): 40}
    assert data.features[next(iter(data.features))].feature.feature.dtype == "float16"


def test_every_third_adapter_has_images_that_no_other_one_has():
    from lorasweep.zoo.digits.model import OWN, SHARED, load_images, plan_with_pools

    _, labels = load_images()
    plans = [plan_with_pools(0, index, 450, labels) for index in range(450)]
    own = [plan for plan in plans if plan.pool == OWN]
    shared = {i for plan in plans if plan.pool == SHARED for i in plan.image_indices}
    assert len(own) == 150
    used = [i for plan in own for i in plan.image_indices]
    assert len(set(used)) == len(used)
    assert not shared & set(used)
    assert all(len(plan.image_indices) >= 4 for plan in plans)
    assert all(labels[i] == plan.label for plan in plans for i in plan.image_indices)
