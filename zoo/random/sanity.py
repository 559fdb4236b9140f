"""The sanity set: classes whose means are ten standard deviations apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.hf_folder import write_dataset

from .folder import new_folder
from .sd15 import layer_tensors, matrix_column

_RANK = 4
_PROJECTIONS = ("attn1.to_q", "attn1.to_k", "attn2.to_q", "attn2.to_k", "attn2.to_v")
_BLOCKS = (
    ("unet.down_blocks.0.attentions.0.transformer_blocks.0", 320),
    ("unet.mid_block.attentions.0.transformer_blocks.0", 1280),
)


def make_sanity(out: Path, *, samples: int = 5, classes: int = 3, seed: int = 0) -> Path:
    """Write the sanity set: 20 layer tensors of rank 4, entries normal(0.1 · class, 0.01).

    Arguments:
        out: folder to make.
        samples: adapters per class.
        classes: number of classes; labels are integers.

    Returns:
        the dataset folder, `out`.

    Raises:
        UserError: impossible numbers, or the folder is taken.
    """
    if samples < 1 or classes < 2:
        raise UserError("need --samples of at least 1 and --classes of at least 2")
    new_folder(out)
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), samples)
    columns: dict[str, pa.Array] = {}
    for block, width in _BLOCKS:
        for name, (m, n) in layer_tensors(block, width, _PROJECTIONS, _RANK).items():
            noise = rng.standard_normal((len(labels), m, n), dtype=np.float32)
            means = 0.1 * labels[:, None, None].astype(np.float32)
            columns[name] = matrix_column(noise * np.float32(0.01) + means)
    columns["category_label"] = pa.array(labels.astype(np.int64))
    write_dataset(out, pa.table(columns))
    return out
