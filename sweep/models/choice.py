"""Which pairs have a model to keep, and which still lack theirs; without Ray or torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import DamagedFileError, read_signed_json, sign, write_json
from lorasweep.features.common.names import nearest
from lorasweep.sweep.request.grid import Grid, Pair
from lorasweep.sweep.request.spec import ALL, NONE
from lorasweep.sweep.store.sweep_file import SweepFile
from lorasweep.trainables.models.model import read_model
from lorasweep.trainables.store.run_dir import RunDir


def chosen_pairs(results: Mapping[str, Any], grid: Grid, mode: str) -> list[Pair]:
    """The pairs that a mode keeps, of those that are complete."""
    if mode == NONE:
        return []
    complete = _validation(results, grid)
    if mode == ALL:
        return list(complete)
    return best_pairs(complete, grid.ordinary_configs)


def asked_pairs(
    results: Mapping[str, Any],
    grid: Grid,
    config: str | None,
    representation: str | None,
    classifier: str | None,
) -> list[Pair]:
    """The best by validation of a config, or of each, among the pairs that are asked for.

    Raises:
        UserError: there is none that is complete.
    """
    for name, given, known in (
        ("config", config, grid.configs),
        ("representation", representation, grid.representations),
        ("classifier", classifier, grid.classifiers),
    ):
        if given is not None and given not in known:
            raise UserError(f"--{name} {given!r} is not in the grid{nearest(given, known)}")
    found = {
        pair: accuracy
        for pair, accuracy in _validation(results, grid).items()
        if representation in (None, grid.by_label[pair[1]].representation)
        and classifier in (None, grid.by_label[pair[1]].classifier)
    }
    configs = [config] if config else grid.ordinary_configs or list(grid.configs)
    pairs = best_pairs(found, configs)
    if not pairs:
        raise UserError("no pair that is asked for has all its records yet: run the sweep first")
    return pairs


def best_pairs(accuracies: Mapping[Pair, float], configs: Iterable[str]) -> list[Pair]:
    """Of each config the pair with the highest mean validation accuracy, of equals the first."""
    best = []
    for config in configs:
        own = [pair for pair in accuracies if pair[0] == config]
        if own:
            best.append(max(own, key=lambda pair: round(accuracies[pair], 12)))
    return best


def _validation(results: Mapping[str, Any], grid: Grid) -> dict[Pair, float]:
    """Complete pair -> mean validation accuracy, in the order of the grid."""
    return {
        (config, entry["representation"].removesuffix(f"_{config}")): entry["val_acc_mean"]
        for config in grid.configs
        for entry in results[f"{config}_results"]
    }


# What is there


def has_model(run_dir: Path, sweep: SweepFile, pair: Pair) -> bool:
    """Whether a pair has the model of its trials as they are."""
    try:
        found = read_model(RunDir(run_dir).model(*pair))
    except UserError:
        return False
    return found.note["trials"] == sweep.pair_digest(pair)


def write_refusal(run_dir: Path, sweep: SweepFile, pair: Pair, reason: str) -> None:
    """Remember why a pair has no model, so that it is not tried again with every run."""
    note = {"trials": sweep.pair_digest(pair), "reason": reason}
    write_json(RunDir(run_dir).no_model(*pair), sign(note))


def refusal(run_dir: Path, sweep: SweepFile, pair: Pair) -> str | None:
    """Why a pair has no model though one was wanted; None if none was refused."""
    try:
        note = read_signed_json(RunDir(run_dir).no_model(*pair))
    except (OSError, DamagedFileError):
        return None
    return note["reason"] if note["trials"] == sweep.pair_digest(pair) else None
