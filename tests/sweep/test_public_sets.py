"""The layouts of public sets of adapters load, with the options that docs/adapters.md names."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.core.errors import UserError
from sweep.dataset import open_dataset
from sweep.samples import split_rule
from sweep.spec import RuntimeOptions, SweepSpec
from sweep.watch.terminal import Reporter

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
