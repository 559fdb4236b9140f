"""Columns of a dataset that say something about its samples beside the label: groups and splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import nearest
from lorasweep.features.datasets.scan import DatasetScan, class_names
from lorasweep.features.datasets.sources import Source
from lorasweep.trainables.data.splits import PARTS, SplitRule
from lorasweep.trainables.store.trial_key import fold_folder

from .spec import LEAVE_OUT, SweepSpec, number_of_folds

_LONGEST_FOLDER = 200
_SYNONYMS = {"validation": "val", "valid": "val", "dev": "val", "training": "train"}


def split_rule(spec: SweepSpec, source: Source, scan: DatasetScan) -> SplitRule:
    """How a spec wants the samples split.

    Raises:
        UserError: there is no such column, it has missing or strange values, or a part is empty.
    """
    per_seed = spec.split == "per-seed"
    groups = _groups(spec, source, scan)
    if spec.split_column is not None:
        values = _kept(_column(source, spec.split_column, "--split-column"), scan)
        words = [str(value).lower() for value in values]
        words = [_SYNONYMS.get(word, word) for word in words]
        strange = sorted({str(v) for v, word in zip(values, words) if word not in PARTS})
        if strange:
            raise UserError(
                f"--split-column {spec.split_column} holds {strange[0]!r}; need train, val and test"
            )
        if groups is not None:
            _require_whole(groups, words, spec, "--split-column")
        rule = SplitRule(groups=groups, given=tuple(words), column=spec.split_column)
    elif folds := number_of_folds(spec.split):
        rule = _kfold(spec, scan, groups, folds)
    elif spec.split.startswith(LEAVE_OUT):
        rule = _leave_out(spec, source, scan, groups)
    elif spec.group_column is not None:
        rule = SplitRule(per_seed, groups=groups, column=spec.group_column)
    elif spec.split == "stratified":
        rule = SplitRule(strata=tuple(scan.kept_labels))
    else:
        return SplitRule(per_seed)
    for seed in spec.seeds if rule.per_seed else spec.seeds[:1]:
        for fold in rule.folds or ("",):
            rule.split(scan.num_samples, seed, fold)  # says what is wrong
    return rule


def _kfold(
    spec: SweepSpec, scan: DatasetScan, groups: tuple[int, ...] | None, folds: int
) -> SplitRule:
    option = f"--split kfold:{folds}"
    if groups is not None and (count := len(set(groups))) < folds:
        raise UserError(
            f"{option}: --group-column {spec.group_column} has {count} groups: need one for each "
            "fold"
        )
    counts = np.bincount(scan.kept_labels, minlength=len(scan.classes))
    rarest = int(counts.argmin())
    if groups is None and counts[rarest] < folds:
        raise UserError(
            f"{option}: class {scan.classes[rarest]} has {counts[rarest]} adapters: need one for "
            "each fold"
        )
    strata = tuple(scan.kept_labels)
    return SplitRule(
        per_seed=True, groups=groups, column=spec.group_column or "", strata=strata, k=folds
    )


def _leave_out(
    spec: SweepSpec, source: Source, scan: DatasetScan, groups: tuple[int, ...] | None
) -> SplitRule:
    column, option = spec.split.removeprefix(LEAVE_OUT), f"--split {spec.split}"
    values = tuple(str(value) for value in _kept(_column(source, column, option), scan))
    if len(set(values)) < 2:
        raise UserError(f"{option}: the column has one value: nothing is left to train on")
    longest = max(values, key=lambda value: len(fold_folder(value)))
    if not all(values) or len(fold_folder(longest)) > _LONGEST_FOLDER:
        strange = longest if all(values) else ""
        raise UserError(f"{option}: {strange[:40]!r} can be no folder's name: it is empty or long")
    if groups is not None:
        _require_whole(groups, values, spec, option)
    strata = tuple(scan.kept_labels)
    return SplitRule(groups=groups, column=column, strata=strata, left_out=values)


def _groups(spec: SweepSpec, source: Source, scan: DatasetScan) -> tuple[int, ...] | None:
    """Return every sample's group by --group-column; None without that option."""
    if spec.group_column is None:
        return None
    values = _kept(_column(source, spec.group_column, "--group-column"), scan)
    index = {value: i for i, value in enumerate(sorted(set(values), key=str))}
    if len(index) < 2:
        raise UserError(f"--group-column {spec.group_column} has one value: nothing is independent")
    return tuple(index[value] for value in values)


def _require_whole(
    groups: Sequence[int], words: Sequence[str], spec: SweepSpec, split: str
) -> None:
    """Raise a `UserError` if a group has adapters on several sides of a given split."""
    sides: dict[int, set[str]] = {}
    for group, word in zip(groups, words):
        sides.setdefault(group, set()).add(word)
    across = sum(len(of) > 1 for of in sides.values())
    if across:
        raise UserError(
            f"--group-column {spec.group_column}: {across} of {len(sides)} groups are on several "
            f"sides of {split}"
        )


def _column(source: Source, name: str, option: str) -> list[Any]:
    """Every row's value of a column of strings or whole numbers."""
    reader = source.open()
    if name not in reader.schema.names:
        hint = nearest(name, reader.schema.names)
        raise UserError(f"{option}: {source.label} has no column {name!r}{hint}")
    values = [
        value
        for batch in reader.read(0, reader.num_rows, [name])
        for value in batch.column(name).to_pylist()
    ]
    if any(not isinstance(value, str | int) for value in values):
        raise UserError(
            f"{option}: column {name!r} must have a text or a whole number in every row"
        )
    names = class_names(reader.schema, name)
    return [names[value] for value in values] if names else values


def optional_column(source: Source, name: str, scan: DatasetScan) -> list[Any]:
    """Every sample's value of a column; empty if the dataset has none of this name."""
    reader = source.open()
    if name not in reader.schema.names:
        return []
    batches = reader.read(0, reader.num_rows, [name])
    return _kept([value for batch in batches for value in batch.column(name).to_pylist()], scan)


def _kept(values: Sequence[Any], scan: DatasetScan) -> list[Any]:
    """Without the rows that are left out."""
    bad = set(scan.bad_rows)
    return [value for row, value in enumerate(values) if row not in bad]
