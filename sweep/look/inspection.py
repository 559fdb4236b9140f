"""`lorasweep inspect`: what an adapter, a folder of adapters, a dataset or a run directory is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorasweep.features.adapters.adapter import AdapterFile, open_adapter
from lorasweep.features.adapters.errors import BadAdapterError
from lorasweep.features.adapters.locations import (
    component_weights,
    is_dataset,
    is_weights,
    walk_weights,
)
from lorasweep.features.adapters.matrix import matrix_of
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.progress import Progress
from lorasweep.features.formats.catalogue import FOLDER_WEIGHTS
from lorasweep.features.layers.names import COMPONENTS, parse_layer
from lorasweep.features.layers.pairing import pair_layers, rank_column
from lorasweep.trainables.store.run_dir import RunDir

_SHOWN = 5
_ONLY_JSON = ("shapes", "compatible")
_FACTS = ("base", "format", "algorithm")
"""Columns of an import that are counted."""
_ROWS_AT_A_TIME = 256


@dataclass(frozen=True)
class Inspection:
    """What something is.

    Attributes:
        kind: adapter, adapters, dataset, run or models.
        facts: name -> what there is to say; plain JSON values.
        text: for people, where it is not just the facts.
    """

    kind: str
    facts: dict[str, Any]
    text: list[str] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"kind": self.kind, **self.facts}

    def lines(self) -> list[str]:
        """For people."""
        if self.text is not None:
            return [f"kind         {self.kind}", *self.text]
        facts = {name: value for name, value in self.facts.items() if name not in _ONLY_JSON}
        if "base_in_words" in facts:
            facts["base"] = facts.pop("base_in_words")
        shown = {"kind": self.kind, **facts}
        width = max(map(len, shown))
        return [
            f"{name.replace('_', ' '):{width}}  {_text(value)}" for name, value in shown.items()
        ]


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        if not value:
            return "none"
        items = [f"{k}: {_text(v)}" for k, v in value.items()] if isinstance(value, dict) else value
        more = f", … ({len(items)} in all)" if len(items) > _SHOWN else ""
        return ", ".join(str(item) for item in list(items)[:_SHOWN]) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def inspect_path(
    path: str,
    label_column: str,
    lora_rank: int | None,
    memo: Path,
    on_progress: Progress | None = None,
) -> Inspection:
    """Look at whatever a path is.

    Arguments:
        path: an adapter's file or folder, a folder of adapters, a run directory, an export, or a
            dataset as for `run`.
        label_column: of a dataset.
        lora_rank: see `matrix_shape`.
        memo: folder of what is known of hub datasets.
        on_progress: called with (looked at, in all) where there are many.

    Raises:
        UserError: it is none of these, or damaged.
    """
    place = Path(path)
    if not place.is_dir() and (matrix_of(place) or is_weights(path)):
        return _adapter(open_adapter(place))
    if place.is_dir():
        if RunDir(place).sweep.exists():
            return _run(place)
        if models := _models(place):
            return models
        if component_weights(place):
            return _adapter(open_adapter(place))
        # A file stands for its folder if it is the only adapter there.
        stands = any((place / name).exists() for name in FOLDER_WEIGHTS)
        if stands and len(list(walk_weights(place))) == 1:
            return _adapter(open_adapter(place))
        if not is_dataset(place):
            return _adapters(place, on_progress)
    return _dataset(path, label_column, lora_rank, memo, on_progress)


# Adapters


def _adapter(adapter: AdapterFile) -> Inspection:
    bad, lost, scales = _read(adapter)
    weights = adapter.weights.absolute()
    of = weights.parent if weights.name in FOLDER_WEIGHTS else weights
    return Inspection(
        "adapter",
        {
            "path": str(adapter.weights),
            "folder": of.parent.name,
            "metadata": _metadata(weights),
            "format": adapter.format,
            "algorithms": list(adapter.algorithms),
            "base": adapter.base.certain,
            "compatible": list(adapter.base.names),
            "base_in_words": adapter.base.in_words,
            "components": _components(adapter.shapes),
            "layers": len(adapter.shapes),
            "ranks": _ordered(rank for _, _, rank in adapter.shapes.values()),
            "alphas": _counts(adapter.alphas.values()),
            "scales": _counts(scales),
            "dtypes": list(adapter.dtypes),
            "dora": adapter.dora,
            "lost": lost,
            "bad_numbers": bad,
            "ignored": list(adapter.ignored),
            "header": adapter.header,
            "shapes": {name: list(shape) for name, shape in adapter.shapes.items()},
        },
    )


def _metadata(weights: Path) -> dict[str, Any]:
    from lorasweep.sweep.imports.labels import metadata_of

    try:
        return dict(metadata_of(weights))
    except ValueError as error:
        raise BadAdapterError(weights, str(error)) from error


def _read(adapter: AdapterFile) -> tuple[list[str], float, list[float]]:
    """(layers with NaN or infinite numbers, largest share lost, scales)."""
    bad, lost, scales = [], 0.0, []
    for name, layer in adapter.read():
        if not all(np.isfinite(item).all() for item in (layer.down, layer.up, layer.scale)):
            bad.append(name)
        lost = max(lost, layer.lost)
        scales.append(layer.scale)
    return bad, lost, scales


def _adapters(folder: Path, on_progress: Progress | None) -> Inspection:
    from lorasweep.sweep.imports.labels import label_source
    from lorasweep.sweep.imports.survey import survey
    from lorasweep.sweep.request.import_options import ImportOptions

    looked = survey([folder], label_source("folder"), ImportOptions().lokr_rank, on_progress)
    if not looked.found:
        path, reason = next(iter(looked.bad.items()))
        raise UserError(f"none of {len(looked.bad)} files in {folder} is readable; {path} {reason}")
    bad = dict(looked.bad)
    alphas: Counter[float | None] = Counter()
    scales: Counter[float] = Counter()
    for done, item in enumerate(looked.found, 1):
        try:
            adapter = open_adapter(Path(item.weights))
            layers, _, own = _read(adapter)
            alphas.update(adapter.alphas.values())
            scales.update(own)
            if layers:
                bad[item.name] = f"NaN or infinite numbers in {len(layers)} layers"
        except BadAdapterError as error:
            bad[item.name] = error.reason
        if on_progress:
            on_progress(done, len(looked.found))
    shapes = {name: shape for item in looked.found for name, shape in item.shapes.items()}
    return Inspection(
        "adapters",
        {
            "path": str(folder),
            "adapters": len(looked.found),
            "formats": _counts(item.facts["format"] for item in looked.found),
            "algorithms": _counts(item.facts["algorithm"] for item in looked.found),
            "bases": _counts(item.base.in_words for item in looked.found),
            "components": _components(shapes),
            "layers": len(shapes),
            "layers_of_an_adapter": _ordered(len(item.shapes) for item in looked.found),
            "ranks": _ordered(
                max(rank for _, _, rank in item.shapes.values()) for item in looked.found
            ),
            "alphas": _counts(alphas),
            "scales": _counts(scales),
            "dtypes": _counts(item.facts["dtype"] for item in looked.found),
            "dora": sum(item.dora for item in looked.found),
            "folders": _counts(item.folder for item in looked.found),
            "metadata": sorted({key for item in looked.found for key in item.columns}),
            "bad": bad,
            "passed_over": looked.aside,
        },
    )


# Datasets, runs and models


def _dataset(
    path: str,
    label_column: str,
    lora_rank: int | None,
    memo: Path,
    on_progress: Progress | None,
) -> Inspection:
    from lorasweep.features.adapters.bases import Base, guess_base
    from lorasweep.features.datasets.columns import flat_values
    from lorasweep.features.datasets.ranks import own_ranks
    from lorasweep.features.datasets.shapes import rank_columns, read_shapes
    from lorasweep.features.datasets.sources import DatasetRequest, find_dataset

    source = find_dataset(DatasetRequest(path), memo)
    tensors, scales = read_shapes(source, lora_rank)
    reader = source.open()
    facts = [name for name in _FACTS if name in reader.schema.names]
    counts: dict[str, Counter[str]] = {name: Counter() for name in facts}
    own_scales: Counter[float] = Counter()
    labels: Counter[str] = Counter()
    has_labels = label_column in reader.schema.names
    bad: list[int] = []
    numeric = [*tensors, *scales]
    ranked = rank_columns(reader.schema.names, list(tensors))
    ranks: set[tuple[str, int]] = set()  # every one that a layer has once
    read = {*numeric, *ranked}
    columns = list({*numeric, *ranked, *facts, *([label_column] if has_labels else [])})
    for start in range(0, reader.num_rows, _ROWS_AT_A_TIME):
        first = start
        for batch in reader.read(start, start + _ROWS_AT_A_TIME, columns):
            fine = np.ones(batch.num_rows, bool)
            for name in numeric:
                try:
                    values, _ = flat_values(batch.column(name))
                except (TypeError, ValueError) as error:
                    raise UserError(f"column {name!r} {error}") from error
                fine &= np.isfinite(values.reshape(batch.num_rows, -1)).all(axis=1)
                if name in scales:
                    own_scales.update(values.tolist())
            for name in ranked:
                ranks.update((name, rank) for rank in set(own_ranks(name, batch.column(name))))
            for name in facts:
                counts[name].update(map(str, batch.column(name).to_pylist()))
            bad += [first + int(i) for i in np.flatnonzero(~fine)]
            if has_labels:
                labels.update(str(value) for value in batch.column(label_column).to_pylist())
            first += batch.num_rows
        if on_progress:
            on_progress(min(start + _ROWS_AT_A_TIME, reader.num_rows), reader.num_rows)
    layers = pair_layers(tensors, scales)
    columns_of_ranks = {rank_column(layer.name): layer.shape[2] for layer in layers}
    ranks.update((c, rank) for c, rank in columns_of_ranks.items() if c not in ranked)
    shapes = {parse_layer(layer.name).name: layer.shape for layer in layers}
    dtypes = {str(reader.schema.field(name).type) for name in tensors}
    said = counts.get("base", Counter()).elements()
    bases = [Base.parse(text).in_words for text in said]
    return Inspection(
        "dataset",
        {
            "path": path,
            "adapters": reader.num_rows,
            "files": len(source.files),
            "bases": _counts(bases or [guess_base(shapes, {}, {}).in_words]),
            "formats": _counts(counts.get("format", ())),
            "algorithms": _counts(counts.get("algorithm", ())),
            "components": _components(shapes),
            "tensors": len(tensors),
            "layers": len(shapes),
            "ranks": _ordered(int(rank) for _, rank in ranks),
            "scales": _counts(own_scales),
            "dtypes": sorted({_number(dtype) for dtype in dtypes}),
            "labels": dict(labels.most_common()) if has_labels else {},
            "label_column": label_column if has_labels else None,
            "columns": [name for name in reader.schema.names if name not in read],
            "bad_rows": bad,
        },
    )


def _run(run_dir: Path) -> Inspection:
    from lorasweep.sweep.watch.status import read_status

    status = read_status(run_dir)
    return Inspection("run", status.to_json(), status.lines())


def _models(folder: Path) -> Inspection | None:
    """What an export holds; None: it is none."""
    if next(RunDir(folder).models.glob("*/*.safetensors"), None) is None:
        return None
    from lorasweep.sweep.models.predict import find_models

    try:
        models = find_models(folder)
    except UserError:
        return None
    read = models[0].input
    return Inspection(
        "models",
        {
            "path": str(folder),
            "models": {"/".join(m.cell): f"validation {m.val_acc:.1%}" for m in models},
            "classes": models[0].classes,
            "bases": list(read.bases),
            "ranks": list(read.ranks),
        },
    )


def _number(arrow_type: str) -> str:
    """The number inside a nested list type: `float`, `double` or `halffloat`."""
    names = ("halffloat", "double", "float")
    return next((name for name in names if name in arrow_type), arrow_type)


def _components(names: Iterable[str]) -> dict[str, int]:
    """Component -> how many layers, in the order of tables."""
    counts = Counter(parse_layer(name).component for name in names)
    return {component: counts[component] for component in COMPONENTS if counts[component]}


def _counts(values: Iterable[Any] | Mapping[Any, int]) -> dict[str, int]:
    """Value, as a text -> how often, the most common first."""
    counts: Counter[str] = Counter()
    for value, count in Counter(values).items():
        counts[f"{value:g}" if isinstance(value, float) else _text(value)] += count
    return dict(counts.most_common())


def _ordered(values: Iterable[int]) -> Mapping[str, int]:
    """Whole number -> how often, ascending."""
    return {str(value): count for value, count in sorted(Counter(values).items())}
