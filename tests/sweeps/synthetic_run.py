"""Runs that were never trained: records made up in memory, for what only reads them."""

import itertools

import numpy as np

from lorasweep.sweep.report.runs import RunData
from lorasweep.sweep.request.grid import Entry, Grid
from lorasweep.sweep.store.sweep_file import SweepFile
from lorasweep.trainables.data.splits import SplitRule
from lorasweep.trainables.store.trial_key import TrialKey

CLASSES = ["cat", "dog", "eel", "fox"]
CONFIGS = ("all_layers", "visual_only", "text_only", "down_only", "attention_and_feedforward")
REPRESENTATIONS = (
    "stats", "spectral", "matrix_norms", "info_theoretic", "ensemble", "flat", "cross_matrix",
    "channel_norms:64", "channel_norms:256", "spectral/pca:64", "stats/pca:16", "raw/pca:128",
    "delta_spectrum", "quantiles:32", "histogram:64", "moments", "gram:16", "sketch:256",
    "invariants", "norms/standardised/pca:8",
)  # fmt: skip
CLASSIFIERS = ("", "@linear", "@neighbours", "@boosted_trees")
MANY = tuple(f"{name}{classifier}" for name in REPRESENTATIONS for classifier in CLASSIFIERS)
HYPER = {"hidden_dim": 16, "epochs": 12, "temperature": 0.5}


def _entry(label):
    return Entry(*label.split("@"))


def made_up_run(
    run_dir, labels=MANY, configs=CONFIGS, seeds=(42, 43, 44), samples=300, classes=CLASSES
):
    """A `RunData` whose trials are better or worse by config and label."""
    rng = np.random.default_rng(5)
    truth = np.arange(samples) % len(classes)
    rng.shuffle(truth)
    pairs = list(itertools.product(configs, labels))
    records = {}
    for place, (config, label) in enumerate(pairs):
        skill = 0.25 + 0.7 * rng.random() - 0.05 * min(configs.index(config), 4)
        for seed in seeds:
            body = _record(rng, truth, len(classes), np.clip(skill, 0.1, 0.98))
            body["feature_dim"] = 16 * (1 + place % len(labels)) * max(1, 5 - configs.index(config))
            records[TrialKey(config, _entry(label)[0], seed, _entry(label)[1])] = body
    grid = Grid(tuple(map(_entry, labels)), tuple(configs), tuple(seeds))
    return RunData(run_dir, _sweep(grid, samples, classes), records, [], truth)


def unet_layers(attentions=2):
    """Canonical names of a UNet's layers, in the order of the network: 7 blocks, each with some
    attentions of 4 layers."""
    blocks = [*(f"down_blocks.{i}" for i in range(3)), "mid_block"]
    blocks += [f"up_blocks.{i}" for i in range(1, 4)]
    return [
        f"unet.{block}.attentions.{i}.transformer_blocks.0.{attention}.to_{projection}"
        for block in blocks
        for i in range(attentions)
        for attention in ("attn1", "attn2")
        for projection in "qk"
    ]


def tensors_of(config):
    """Two layer tensors, of a layer that is alone in its config its own."""
    layer = config.partition(":")[2] or "unet.mid_block.attentions.0.attn1.to_q"
    return [f"{layer}.lora.down.weight", f"{layer}.lora.up.weight"]


def _sweep(grid, samples, classes):
    return SweepFile(
        grid=grid,
        declared={
            "representations": {name: {} for name in grid.representations},
            "configs": {name: {"tensors": tensors_of(name)} for name in grid.configs},
            "classifiers": {name: {"version": 1, "config": HYPER} for name in grid.classifiers},
        },
        frozen={
            "decides": {"dataset": "1f" * 16, "split": "by hand", "threads": 1},
            "revision": None,
            "num_samples": samples,
            "skipped_samples": [],
            "classes": classes,
        },
        environment={
            "dataset": {
                "dataset": "/data/made-up", "dataset_config": None, "lora_rank": None,
                "label_column": "category_label", "skip_bad_samples": False,
            },
            "layers": dict.fromkeys(grid.configs, 8),
            "host": "here", "cores": 2, "platform": "Linux", "python": "3", "packages": {},
        },
    )  # fmt: skip


def _record(rng, truth, n_classes, skill):
    parts = {name: truth[index] for name, index in SplitRule().split(len(truth)).parts().items()}
    predictions, scores, confusion = {}, {}, {}
    for split, true in parts.items():
        wrong = (true + rng.integers(1, n_classes, len(true))) % n_classes
        predicted = np.where(rng.random(len(true)) < skill, true, wrong)
        predictions[split] = predicted.tolist()
        scores[f"{split}_acc"] = float((predicted == true).mean())
        scores[f"{split}_f1"] = scores[f"{split}_acc"] - 0.01
        cells = np.bincount(true * n_classes + predicted, minlength=n_classes**2)
        confusion[split] = cells.reshape(n_classes, n_classes).tolist()
    epochs = int(rng.integers(8, 25))
    reached = 1 - np.exp(-np.arange(1, epochs + 1) / 5)
    confidence = (np.arange(15) + 0.5) / 15
    return {
        "metrics": {**scores, "test_ece": 0.1, "test_log_loss": 0.5, "best_epoch": epochs},
        "curves": {
            "val_acc_history": (skill * reached).tolist(),
            "train_loss_history": (1.4 - reached).tolist(),
        },
        "confusion": confusion,
        "predictions": predictions,
        "calibration": {
            "test": {
                "count": [4] * 15,
                "confidence": confidence.tolist(),
                "accuracy": (skill * confidence).tolist(),
            }
        },
        "precision_recall": {"test": np.linspace(1, skill / 2, 101).tolist()},
        "num_layers": 8,
        "timing": {
            "train_seconds": float(rng.gamma(3)), "load_seconds": 0.1, "epochs_run": epochs,
        },
        "environment": {"host": "here", "device": "cpu", "torch": "2"},
    }  # fmt: skip
