"""The layouts of public sets of adapters load, with the options that docs/adapters.md names."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lorasweep.features.adapters.adapter import open_adapter
from lorasweep.features.adapters.errors import BadAdapterError
from lorasweep.features.common.errors import UserError
from lorasweep.sweep.imports.open_dataset import open_dataset
from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
from lorasweep.sweep.request.split_columns import split_rule
from lorasweep.sweep.watch.terminal import Reporter

LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
WIDTH, RANK = 5, 32


def opened(cache: Path, folder: Path, **options):
    spec = SweepSpec(str(folder), **options)
    with Reporter() as reporter:
        source, scan = open_dataset(spec, RuntimeOptions(cache_dir=cache), None, reporter)
    return spec, source, scan


@pytest.fixture
def lora_wise(tmp_path: Path) -> Path:
    """Parquet shards of float64 lists, a number of images as the label and the subject's name."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "wise"
    folder.mkdir()
    for shard in range(2):
        rows = 20
        tensors = {
            f"{LAYER}.lora.{half}.weight": list(rng.standard_normal((rows, RANK * WIDTH)))
            for half in ("down", "up")
        }
        names = [f"subject-{10 * shard + i // 2}" for i in range(rows)]
        table = pa.table({**tensors, "label": [1, 6] * (rows // 2), "name": names})
        pq.write_table(table, folder / f"train-{shard:05}-of-00002.parquet")
    return folder


def test_lora_wise_how_many_images_it_was_trained_on(lora_wise, tmp_path):
    options = {"label_column": "label", "group_column": "name", "lora_rank": RANK}
    spec, source, scan = opened(tmp_path / "cache", lora_wise, **options)
    assert scan.classes == [1, 6]
    assert scan.layers[0].shape == (WIDTH, WIDTH, RANK)
    split = split_rule(spec, source, scan).split(scan.num_samples)
    names = np.repeat([f"subject-{i}" for i in range(20)], 2)
    sides = [set(names[list(side)]) for side in (split.train, split.val, split.test)]
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides)) == 20


def test_lora_wise_needs_its_rank(lora_wise, tmp_path):
    with pytest.raises(UserError, match="multiple of rank 7"):
        opened(tmp_path / "cache", lora_wise, label_column="label", lora_rank=7)


ROWS = 20
SITES = ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attn1.to_v"]


@pytest.fixture
def one_matrix(tmp_path: Path) -> Path:
    """weights2weights' files: a bfloat16 matrix, its dimensions, the mean of its rows; and a CSV
    file of attributes."""
    folder = tmp_path / "w2w"
    folder.mkdir()
    shapes = [(1, 6), (4, 1)]
    dimensions = {
        f"lora_unet_{site}_lora.{half}.weight": (torch.Size([shape[0] * shape[1]]), shape)
        for site in SITES
        for half, shape in zip(("down", "up"), map(torch.Size, shapes))
    }
    rows = torch.randn(ROWS, 20, generator=torch.Generator().manual_seed(0)).bfloat16()
    torch.save(dimensions, folder / "weight_dimensions.pt")
    torch.save(rows, folder / "all_weights.pt")
    torch.save(rows.float().mean(0), folder / "mean.pt")
    lines = [f"{i},{['young', 'old'][i % 2]}" for i in range(ROWS)]
    (folder / "attributes.csv").write_text("\n".join(["id,age", *lines]) + "\n")
    return folder


def test_one_matrix_of_flattened_adapters(one_matrix, tmp_path):
    options = {"labels": str(one_matrix / "attributes.csv")}
    _, _, scan = opened(tmp_path / "cache", one_matrix, **options)
    assert (scan.num_samples, scan.classes) == (ROWS, ["old", "young"])
    assert [layer.name for layer in scan.layers] == [f"unet.{site}" for site in SITES]
    assert scan.kept_labels == [1, 0] * (ROWS // 2)


def test_a_row_of_a_matrix_is_an_adapter(one_matrix):
    rows = torch.load(one_matrix / "all_weights.pt").float().numpy()
    for number in (0, ROWS - 1):
        found = open_adapter(one_matrix / "all_weights.pt" / str(number))
        assert found.dtypes == ("BF16",)
        for at, (name, layer) in enumerate(found.read()):
            assert name == f"unet.{SITES[at]}"
            flat = np.concatenate([layer.down.ravel(), layer.up.ravel()])
            np.testing.assert_array_equal(flat, rows[number, 10 * at : 10 * at + 10])
            assert layer.scale == 1
    with pytest.raises(BadAdapterError, match="there are 20 rows, counted from 0"):
        open_adapter(one_matrix / "all_weights.pt" / "20")


def test_a_matrix_that_is_not_what_its_dimensions_say(one_matrix, tmp_path):
    torch.save(torch.zeros(3, 19), one_matrix / "all_weights.pt")
    with pytest.raises(UserError, match="no file beside it has rows of 20 values"):
        opened(tmp_path / "cache", one_matrix, labels="folder")
    torch.save([1, 2], one_matrix / "weight_dimensions.pt")
    with pytest.raises(UserError, match="does not say name -> "):
        opened(tmp_path / "cache", one_matrix, labels="folder")
    (one_matrix / "weight_dimensions.pt").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(UserError, match="could run code"):
        opened(tmp_path / "cache", one_matrix, labels="folder")
