"""`data zoo`: train a zoo of small LoRA adapters on digits, as folders and as one dataset.

The adapters have the tensors a Stable Diffusion 1.5 LoRA has, in miniature, and a known class
each, so that a study of weight spaces can be tried in minutes on a laptop.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lorasweep.features.common.errors import UserError
from lorasweep.features.datasets.hf_folder import write_dataset
from lorasweep.zoo.random.sd15 import matrix_column

if TYPE_CHECKING:
    from torch import Tensor

    from .model import Adapter, BaseConfig, Plan, Recipe

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
CHANNELS = (16, 32, 48, 48)
CHANNEL_MULTIPLE = 8  # the UNet's group normalisation has 8 groups
TEXT_WIDTH = 32
BASE_STEPS = 600
BASE_BATCH = 32
BASE_LEARNING_RATE = 3e-3
# Groups are always full, so that a size ending in mid-group changes no adapter's bits.
GROUP_SIZE = 10
BATCH = 8
LEARNING_RATE = 3e-3
FORMAT = 1
PROMPTS = ("none", "class")
_VAL_TURN = 12  # of twelve tens, eight are not for test, and one of those is for validation
BASE_FILE = "base.safetensors"
BASE_CONFIG_FILE = "config.json"
ADAPTER_FILE = "pytorch_lora_weights.safetensors"
METADATA_FILE = "metadata.json"


def make_zoo(
    out: Path,
    *,
    size: int = 300,
    rank: int = 1,
    targets: tuple[str, ...] = ("to_q", "to_k"),
    steps: int = 50,
    seed: int = 0,
    prompt: str = "none",
    pools: bool = False,
    half: bool = False,
    channels: tuple[int, ...] = CHANNELS,
    base_steps: int = BASE_STEPS,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Train `size` adapters under `out`/adapters and return the folder of their dataset.

    What is already there and was made by the same request is kept, so a stopped run goes on
    where it was.

    Arguments:
        out: folder for `base`, `adapters` and `dataset`.
        size: adapters; number i is trained on images of the digit i mod 10.
        rank: LoRA rank.
        targets: attention projections to adapt, of `TARGETS`.
        steps: fine-tuning steps of an adapter.
        seed: decides every number.
        prompt: "none" or "class", see `Recipe`.
        pools: train every third adapter on images that no other adapter has; columns `pool` and
            `split` (those are for test) say which.
        half: write the dataset's weights as float16.
        channels: widths of the UNet's four levels.
        base_steps: training steps of the base.
        on_progress: called with (adapters there, adapters wanted).

    Raises:
        UserError: an impossible request, or diffusers or scikit-learn is missing.
    """
    _check_request(out, size, rank, targets, steps, channels, base_steps)
    if prompt not in PROMPTS:
        raise UserError(f"prompt is {prompt!r}: give one of {', '.join(PROMPTS)}")
    _check_packages()
    from .model import (
        BaseConfig,
        Recipe,
        load_images,
        plan_adapter,
        plan_with_pools,
    )

    config = BaseConfig(channels, TEXT_WIDTH, base_steps, BASE_BATCH, BASE_LEARNING_RATE, seed)
    ordered_targets = tuple(target for target in TARGETS if target in targets)
    recipe = Recipe(rank, ordered_targets, steps, BATCH, LEARNING_RATE, seed, prompt)
    _, labels = load_images()
    group_count = -(-size // GROUP_SIZE)
    plans = [
        plan_with_pools(seed, index, size, labels) if pools else plan_adapter(seed, index, labels)
        for index in range(group_count * GROUP_SIZE)
    ]
    with _ray_running():
        base_sha256 = _ensure_base(out / "base", config)
        requests = [_request(plan, recipe, base_sha256) for plan in plans]
        _train_missing(out, size, config, recipe, plans, requests, on_progress)
    folders = [out / "adapters" / request["adapter_id"] for request in requests[:size]]
    dataset = out / "dataset"
    write_dataset(dataset, _table(folders, half))
    return dataset


def _check_request(
    out: Path,
    size: int,
    rank: int,
    targets: Sequence[str],
    steps: int,
    channels: Sequence[int],
    base_steps: int,
) -> None:
    for name, value in (("size", size), ("steps", steps), ("base steps", base_steps)):
        if value < 1:
            raise UserError(f"{name} is {value}: give a whole number from 1 up")
    unknown = [target for target in targets if target not in TARGETS]
    if unknown or not targets:
        named = f"unknown target {unknown[0]!r}" if unknown else "no targets"
        raise UserError(f"{named}: give one or more of {', '.join(TARGETS)}")
    if len(channels) != 4 or any(c < 1 or c % CHANNEL_MULTIPLE for c in channels):
        raise UserError(
            f"channels are {tuple(channels)}: give four multiples of {CHANNEL_MULTIPLE}"
        )
    narrowest = min(*channels, TEXT_WIDTH)
    if not 1 <= rank <= narrowest:
        raise UserError(
            f"rank is {rank}: give one from 1 to {narrowest}, the narrowest layer's width"
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give a folder, or a path where nothing is yet")


def _check_packages() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("torch", "diffusers", "sklearn")):
        raise UserError("data zoo needs diffusers and scikit-learn: pip install 'lorasweep[zoo]'")


@contextmanager
def _ray_running() -> Iterator[None]:
    """Use the Ray that is running, or a local one for as long as the block takes."""
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        yield
    finally:
        ray.shutdown()


def _ensure_base(folder: Path, config: BaseConfig) -> str:
    """Train the base unless `folder` holds the one `config` describes; the file's sha256."""
    import ray
    from safetensors.torch import save

    request = {"format": FORMAT, **asdict(config), "channels": list(config.channels)}
    known = _valid_metadata(folder, BASE_CONFIG_FILE, BASE_FILE, request)
    if known is None:
        tensors = ray.get(ray.remote(num_cpus=1)(_train_base).remote(config))
        known = _write_folder(folder, BASE_CONFIG_FILE, BASE_FILE, request, save(tensors))
    return str(known["sha256"])


def _train_missing(
    out: Path,
    size: int,
    config: BaseConfig,
    recipe: Recipe,
    plans: Sequence[Plan],
    requests: Sequence[dict[str, Any]],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Train, one Ray task each, the groups that lack a valid folder; write what they lack."""
    import ray
    from safetensors.torch import load_file, save

    missing = {
        plan.index
        for plan, request in zip(plans[:size], requests[:size], strict=True)
        if _valid_metadata(_adapter_folder(out, request), METADATA_FILE, ADAPTER_FILE, request)
        is None
    }
    if on_progress:
        on_progress(size - len(missing), size)
    if not missing:
        return
    base = ray.put(load_file(out / "base" / BASE_FILE))
    task = ray.remote(num_cpus=1)(_train_adapters)
    pending = [
        task.remote(config, base, recipe, plans[group * GROUP_SIZE : (group + 1) * GROUP_SIZE])
        for group in sorted({index // GROUP_SIZE for index in missing})
    ]
    try:
        while pending:
            (ready, *_), pending = ray.wait(pending)
            for adapter in ray.get(ready):
                if adapter.plan.index not in missing:
                    continue
                request = requests[adapter.plan.index]
                found = {**request, "final_loss": adapter.final_loss}
                folder = _adapter_folder(out, request)
                weights = save(adapter.tensors, metadata={"format": "pt"})
                _write_folder(folder, METADATA_FILE, ADAPTER_FILE, found, weights)
                missing.remove(adapter.plan.index)
            if on_progress:
                on_progress(size - len(missing), size)
    finally:
        for reference in pending:
            ray.cancel(reference)


def _train_base(config: BaseConfig) -> dict[str, Tensor]:
    from .model import train_base

    return train_base(config)


def _train_adapters(
    config: BaseConfig, base: dict[str, Tensor], recipe: Recipe, plans: Sequence[Plan]
) -> list[Adapter]:
    from .model import train_adapters

    return train_adapters(config, base, recipe, plans)


def _request(plan: Plan, recipe: Recipe, base_sha256: str) -> dict[str, Any]:
    """The part of an adapter's metadata that is known before it is trained."""
    made = asdict(recipe)
    if recipe.prompt == "none":
        del made["prompt"]  # as before there was another
    return {
        "format": FORMAT,
        "adapter_id": f"adapter-{plan.index:05d}",
        "category_label": plan.label,
        "num_images": len(plan.image_indices),
        "image_indices": list(plan.image_indices),
        **made,
        **({"pool": plan.pool} if plan.pool else {}),
        "targets": list(recipe.targets),
        "alpha": recipe.rank,
        "base_sha256": base_sha256,
    }


def _adapter_folder(out: Path, request: Mapping[str, Any]) -> Path:
    return out / "adapters" / request["adapter_id"]


def _valid_metadata(
    folder: Path, metadata_name: str, weights_name: str, request: Mapping[str, Any]
) -> dict[str, Any] | None:
    """A folder's metadata if it answers `request` and its weights are those written."""
    try:
        metadata = json.loads((folder / metadata_name).read_text(encoding="utf-8"))
        digest = hashlib.sha256((folder / weights_name).read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(metadata, dict):
        return None
    expected = {**request, "sha256": digest}
    if any(metadata.get(key) != value for key, value in expected.items()):
        return None
    return metadata


def _write_folder(
    folder: Path, metadata_name: str, weights_name: str, metadata: Mapping[str, Any], weights: bytes
) -> dict[str, Any]:
    """Write weights and metadata as one folder, which appears whole or not at all."""
    written = {**metadata, "sha256": hashlib.sha256(weights).hexdigest()}
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / weights_name).write_bytes(weights)
    (partial / metadata_name).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return written


def _table(folders: Sequence[Path], half: bool) -> pa.Table:
    """One row a folder: its LoRA tensors by name, its class, and how it was trained."""
    from safetensors.numpy import load_file

    adapters = [load_file(folder / ADAPTER_FILE) for folder in folders]
    metadata = [json.loads((folder / METADATA_FILE).read_text()) for folder in folders]
    columns: dict[str, pa.Array] = {
        name: matrix_column(
            np.stack([tensors[name] for tensors in adapters]).astype("f2" if half else "f4")
        )
        for name in sorted(adapters[0])
    }
    columns["category_label"] = pa.array([m["category_label"] for m in metadata], pa.int64())
    columns["adapter_id"] = pa.array([m["adapter_id"] for m in metadata], pa.string())
    for name in ("num_images", "rank", "steps", "seed"):
        columns[name] = pa.array([m[name] for m in metadata], pa.int64())
    if "pool" in metadata[0]:
        columns["pool"] = pa.array([m["pool"] for m in metadata], pa.string())
        columns["split"] = pa.array(_splits([m["pool"] for m in metadata]), pa.string())
    columns["final_loss"] = pa.array([m["final_loss"] for m in metadata], pa.float64())
    return pa.table(columns)


def _splits(pools: Sequence[str]) -> list[str]:
    """Test: the adapters of images of their own. Of the others, one in eight is for validation."""
    return [
        "test" if pool == "own" else "val" if index // GROUP_SIZE % _VAL_TURN == 0 else "train"
        for index, pool in enumerate(pools)
    ]
