"""results.json, results.txt and results.parquet: derived from the records, never the truth."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lorasweep.features.common.files import (
    DamagedFileError,
    file_checksum,
    read_signed_json,
    sign,
    write_atomic,
    write_json,
    write_text,
)
from lorasweep.features.layers.families import family_of, noun_of, own_name
from lorasweep.sweep.request.grid import Entry
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.standing import Standing, best_of, in_order, tie_in_words
from lorasweep.trainables.store.trial_key import TrialKey
from lorasweep.trainables.trial.pooling import by_seed
from lorasweep.trainables.trial.scores import METRICS

from .sweep_file import SweepFile

RESULTS_SCHEMA = 2
"""Raised when an entry gets a key: earlier results are derived from the records anew."""
RESULT_PARTS = frozenset(
    (
        *("fingerprint", "metrics", "timing", "curves", "confusion", "feature_dim", "num_layers"),
        "outputs",
    )
)
"""Parts of a record that results need; that of a fold alone has outputs."""

_METRICS = [name for metric in METRICS if metric.summarised for name in metric.recorded]
_SUMMARISED = (*_METRICS, "training_time", "best_epoch")

Records = dict[TrialKey, dict[str, Any]]


def build_results(sweep: SweepFile, records: Records, failed: list[TrialKey]) -> dict[str, Any]:
    """The content of results.json: one entry per complete (config, representation) cell.

    With folds a run is a seed: its test values are pooled over folds, see `pooled`.
    """
    classes = sweep.frozen["classes"]
    layers = sweep.environment["layers"]
    results: dict[str, Any] = {
        "schema": RESULTS_SCHEMA,
        "dataset": sweep.environment["dataset"]["dataset"],
        "num_runs": len(sweep.grid.seeds),
        "num_classes": len(classes),
        "num_all_layers": layers.get("all_layers"),
        "num_visual_layers": layers.get("visual_only"),
        "num_text_layers": layers.get("text_only"),
        "label_mapping": (
            {name: i for i, name in enumerate(classes)} if isinstance(classes[0], str) else None
        ),
        "fingerprint": sweep.frozen["decides"]["dataset"],
        "spec": {"frozen": sweep.frozen["decides"], "environment": sweep.environment["dataset"]},
        "failed": [str(key) for key in failed],
    }
    if sweep.grid.folds:
        results["folds"] = list(sweep.grid.folds)
    for config in sweep.grid.configs:
        entries = []
        for method in sweep.grid.methods_of(config):
            keys = sweep.grid.keys_of((config, method))
            if all(key in records for key in keys):
                entry = sweep.grid.by_method[method]
                fits = [records[key] for key in keys]
                entries.append(_cell_entry(config, entry, fits, len(sweep.grid.folds)))
        results[f"{config}_results"] = entries
    return results


def _cell_entry(
    config: str, cell: Entry, fits: list[dict[str, Any]], n_folds: int
) -> dict[str, Any]:
    records = by_seed(fits, n_folds)
    runs = [
        {
            "run": i,
            **{name: record["metrics"].get(name) for name in _METRICS},
            "training_time": record["timing"].get("train_seconds"),
            "best_epoch": record["metrics"].get("best_epoch"),
            "feature_dim": record["feature_dim"],
        }
        for i, record in enumerate(records)
    ]
    entry: dict[str, Any] = {
        "representation": f"{cell.method}_{config}",
        "classifier": cell.classifier,
        "num_layers": records[0]["num_layers"],
        "feature_dim": records[0]["feature_dim"],
    }
    for name in _SUMMARISED:
        values = [run[name] for run in runs]
        entry[f"{name}_mean"], entry[f"{name}_std"] = mean_std(values)
        entry[f"{name}_sample_std"] = sample_std(values)
    entry["training_time_total"] = sum(run["training_time"] or 0.0 for run in runs)
    for split in ("train", "val", "test"):
        entry[f"{split}_acc_all_runs"] = [run[f"{split}_acc"] for run in runs]
    if n_folds:
        entry["num_fits"] = len(fits)
    entry["per_run_results"] = runs
    entry["learning_curves"] = [
        {**record.get("curves", {}), "best_epoch": record["metrics"].get("best_epoch")}
        for record in fits
    ]
    for split in ("val", "test"):
        entry[f"{split}_confusion_matrices"] = [r["confusion"][split] for r in records]
    return entry


def mean_std(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Mean and population std of the defined values; (None, None) if there are none."""
    defined = [value for value in values if value is not None]
    if not defined:
        return None, None
    return float(np.mean(defined)), float(np.std(defined))


def sample_std(values: Iterable[float | None]) -> float | None:
    """Return the sample standard deviation of the defined values; None with fewer than two."""
    defined = [value for value in values if value is not None]
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else None


def write_results(
    run_dir: Path, sweep: SweepFile, records: Records, failed: list[TrialKey], stamp: str | None
) -> dict[str, Any]:
    """Write the three files and return results.json's content.

    Arguments:
        stamp: digest of the grid and its record files, to recognise that nothing has changed.
    """
    results = build_results(sweep, records, failed)
    write_text(RunDir(run_dir).results("txt"), format_results(results))
    _write_parquet(RunDir(run_dir).results("parquet"), records)
    others = {
        path.name: file_checksum(path) for path in map(RunDir(run_dir).results, ("txt", "parquet"))
    }
    note = {"records_digest": stamp, "files": others}
    write_json(RunDir(run_dir).results("json"), sign({**results, "derived": note}), indent=1)
    return results


def current_results(run_dir: Path, stamp: str | None) -> dict[str, Any] | None:
    """results.json if all three files are whole and derived from just these record files."""
    try:
        results = read_signed_json(RunDir(run_dir).results("json"))
        note = results["derived"]
        if stamp is None or note["records_digest"] != stamp:
            return None
        if results["schema"] != RESULTS_SCHEMA:
            return None
        if any(file_checksum(run_dir / name) != known for name, known in note["files"].items()):
            return None
    except (OSError, DamagedFileError, KeyError):
        return None
    return {name: value for name, value in results.items() if name not in ("derived", "checksum")}


def trial_row(key: TrialKey, record: dict[str, Any]) -> dict[str, Any]:
    """A trial in one row: key, metrics, timings and what it was made of."""
    return {
        **key.to_json(),
        **record["metrics"],
        **record["timing"],
        "feature_dim": record["feature_dim"],
        "num_layers": record["num_layers"],
        "fingerprint": record["fingerprint"],
    }


def _write_parquet(path: Path, records: Records) -> None:
    """One row per trial, one column per key, metric and timing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([trial_row(key, record) for key, record in records.items()])
    sink = io.BytesIO()
    pq.write_table(table, sink)
    write_atomic(path, lambda file: file.write(sink.getbuffer()))


# Tables for people


def format_results(results: dict[str, Any]) -> str:
    """results.txt: a table per config, best first, and the drop from all layers to each other; of
    a family of configs one table, its members in rows."""
    chance = 1 / results["num_classes"]
    folds = len(results.get("folds", ()))
    over = (
        f"Means over seeds ± sample standard deviation (– for one seed), {folds} fits a seed; "
        "a seed tests every adapter once"
        if folds
        else "Means over fits ± sample standard deviation (– for one fit)"
    )
    blocks = [
        f"Dataset {results['dataset']}: {results['num_classes']} classes "
        f"(chance {chance:.1%})\n{over}; the best by validation first"
    ]
    entries = {
        key.removesuffix("_results"): value
        for key, value in results.items()
        if key.endswith("_results") and value
    }
    groups: dict[str, list[str]] = {}
    for config in entries:
        groups.setdefault(family_of(config) or config, []).append(config)
    for name, configs in groups.items():
        if family_of(configs[0]):
            blocks.append(_family_block(name, {c: entries[c] for c in configs}))
        else:
            blocks.append(_config_block(name, entries[name]))
    for config in (name for name in groups if name in entries):
        drops = _drops(entries, config)
        if config != _WHOLE and drops:
            header = ["representation", _WHOLE, config, "absolute", "relative"]
            blocks.append(
                f"Drop in test accuracy from {_WHOLE} to {config}\n" + format_table(header, drops)
            )
    if results["failed"]:
        blocks.append("Failed trials\n" + "\n".join(f"  {key}" for key in results["failed"]))
    return "\n\n".join(blocks) + "\n"


_WHOLE = "all_layers"
_TABLE_METRICS = ("train_acc", "val_acc", "test_acc", "test_f1")
_TABLE_HEADER = [
    *("representation", "features", "fits", "train acc", "val acc", "test acc", "test F1", "s"),
]


def _config_block(config: str, entries: list[dict[str, Any]]) -> str:
    """A config's table, the best by validation first."""
    names = [entry["representation"].removesuffix(f"_{config}") for entry in entries]
    standings = {name: Standing.of_entry(entry) for name, entry in zip(names, entries)}
    by_name = dict(zip(names, entries))
    rows = [
        [
            name,
            str(entry["feature_dim"]),
            str(entry.get("num_fits", len(entry["per_run_results"]))),
            *(_spread(entry, metric) for metric in _TABLE_METRICS),
            _seconds(entry),
        ]
        for name, entry in ((name, by_name[name]) for name in in_order(standings))
    ]
    heading = f"{config} ({entries[0]['num_layers']} layer tensors)"
    block = heading + "\n" + format_table(_TABLE_HEADER, rows)
    tie = tie_in_words(standings)
    return f"{block}\n{best_of(standings)} is {tie}" if tie else block


_MOST_MEMBERS, _BEST_MEMBERS = 100, 20


def _family_block(family: str, entries: dict[str, list[dict[str, Any]]]) -> str:
    """A family's table: a row per member in the order of the network, a column per method. Of a
    family with very many members, the best by validation."""

    def methods(config: str) -> dict[str, dict[str, Any]]:
        return {e["representation"].removesuffix(f"_{config}"): e for e in entries[config]}

    def validation(config: str) -> float:
        return float(np.mean([e.get("val_acc_mean") or 0.0 for e in entries[config]]))

    known = {config: methods(config) for config in entries}
    columns = list(dict.fromkeys(method for of in known.values() for method in of))
    heading = f"{family} ({len(entries)} configs), test acc"
    shown = list(entries)
    if len(shown) > _MOST_MEMBERS:
        shown = sorted(shown, key=validation, reverse=True)[:_BEST_MEMBERS]
        heading += f", the {len(shown)} best by mean validation accuracy; all: results.parquet"
    rows = [
        [
            own_name(config),
            *(_spread(of[method], "test_acc") if method in of else "" for method in columns),
        ]
        for config, of in ((config, known[config]) for config in shown)
    ]
    return heading + "\n" + format_table([noun_of(family), *columns], rows)


def _spread(entry: dict[str, Any], metric: str) -> str:
    """Return mean ± sample standard deviation over fits, in percent."""
    mean, std = entry.get(f"{metric}_mean"), entry.get(f"{metric}_sample_std")
    if mean is None:
        return "undefined"
    return f"{mean:.1%} ± {'–' if std is None else f'{100 * std:.1f}':>4}"


def _seconds(entry: dict[str, Any]) -> str:
    mean = entry.get("training_time_mean")
    return "undefined" if mean is None else f"{mean:.1f}"


def _drops(entries: dict[str, list[dict[str, Any]]], config: str) -> list[list[str]]:
    """Rows of a drop table; the two configs are paired by representation name."""

    def accuracies(config: str) -> dict[str, float]:
        return {
            entry["representation"].removesuffix(f"_{config}"): entry["test_acc_mean"]
            for entry in entries.get(config, [])
            if entry.get("test_acc_mean") is not None
        }

    others, rows = accuracies(config), []
    for name, before in accuracies(_WHOLE).items():
        if name in others:
            after = others[name]
            relative = f"{(before - after) / before:+.1%}" if before else "undefined"
            rows.append(
                [name, f"{before:.1%}", f"{after:.1%}", f"{100 * (before - after):+.1f}", relative]
            )
    return rows


def format_table(header: list[str], rows: list[list[str]]) -> str:
    """A plain-text table: first column left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        first, *rest = cells
        return "  ".join(
            [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:]))]
        ).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])
