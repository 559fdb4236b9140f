"""`lorasweep predict`: what new adapters were trained on, by a model that was kept."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lorasweep.features.adapters.bases import Base
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import nearest
from lorasweep.features.common.progress import Progress
from lorasweep.sweep.store.results import format_table
from lorasweep.sweep.store.sweep_file import read_sweep_file
from lorasweep.trainables.models.model import ModelFile, read_model
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.standing import best_of

from .new_adapters import Problem, find_adapters, read_adapters

COLUMNS = ("adapter", "class", "probability", "unlike", "problem")


@dataclass(frozen=True)
class Verdict:
    """What a model says of an adapter.

    Attributes:
        adapter: its path, or its row in a dataset.
        probabilities: (n_classes,) calibrated; None: it cannot be judged.
        unlike: novelty percentile: percentage, 0 to 100, of training adapters that are not farther
            from their own neighbours than this one is.
        problem: why it cannot be judged; "" if it can.
        compatible: bases that it may be of, the model's among them, where it is not certain.
    """

    adapter: str
    probabilities: np.ndarray | None
    unlike: float | None
    problem: str = ""
    compatible: tuple[str, ...] = ()

    def to_json(self, classes: Sequence[Any]) -> dict[str, Any]:
        """Return a JSON object; null where there is nothing to say.

        `novelty` is `unlike` by its better name; scripts use either.
        """
        p = self.probabilities
        novelty = None if self.unlike is None else round(self.unlike, 2)
        return {
            "adapter": self.adapter,
            "class": None if p is None else classes[int(p.argmax())],
            "probability": None if p is None else round(float(p.max()), 6),
            "unlike": novelty,
            "novelty": novelty,
            "problem": self.problem or None,
            "compatible": list(self.compatible),
        }


@dataclass(frozen=True)
class Threshold:
    """What `--fail-on` asks: a class, and from which calibrated probability on."""

    index: int
    least: float

    @classmethod
    def parse(cls, text: str, classes: Sequence[Any]) -> Threshold:
        """CLASS[:THRESHOLD]; a last colon splits only before a number.

        Raises:
            UserError: there is no such class, or the threshold is no probability.
        """
        names = [str(name) for name in classes]
        match = re.fullmatch(r"(.*):([0-9.]+(?:[eE]-?[0-9]+)?)", text, re.DOTALL)
        name, least = (match[1], match[2]) if match else (text, "0.5")
        try:
            number = float(least)
        except ValueError:
            raise UserError(f"--fail-on {text!r}: {least} is no number") from None
        if name not in names:
            raise UserError(f"--fail-on: the model knows no class {name!r}{nearest(name, names)}")
        if not 0 <= number <= 1:
            raise UserError(f"--fail-on {text!r}: a probability is from 0 to 1")
        return cls(names.index(name), number)

    def fails(self, verdict: Verdict) -> bool:
        """Whether an adapter is of the class, or cannot be judged."""
        p = verdict.probabilities
        return p is None or bool(p[self.index] >= self.least)


def find_models(folder: Path) -> list[ModelFile]:
    """The models of a run directory, of its trials as they are, or of an export.

    Raises:
        UserError: there is none.
    """
    run = RunDir(folder)
    found = [read_model(path) for path in sorted(run.models.glob("*/*.safetensors"))]
    if run.sweep.exists():
        sweep = read_sweep_file(folder)
        cells = set(sweep.grid.cells)
        found = [
            m for m in found if m.cell in cells and m.note["trials"] == sweep.cell_digest(m.cell)
        ]
        if not found:
            raise UserError(f"{folder} has no model: `lorasweep export {folder} OUT` makes one")
    elif not found:
        raise UserError(f"{folder} is neither a run directory nor an export: it has no models")
    return found


def choose_model(
    models: Sequence[ModelFile],
    config: str | None = None,
    representation: str | None = None,
    classifier: str | None = None,
) -> ModelFile:
    """Return the best of those that are asked for; see `Standing`.

    Raises:
        UserError: there is none.
    """
    asked = {"config": config, "representation": representation, "classifier": classifier}
    found = list(models)
    for name, value in asked.items():
        if value is None:
            continue
        known = [_named(model, name) for model in found]
        found = [model for model, own in zip(found, known) if own == value]
        if not found:
            there = ", ".join(dict.fromkeys(known))
            raise UserError(
                f"no model with --{name} {value}: there is {there}; `lorasweep export` with the "
                f"same options makes one"
            )
    return found[best_of({i: model.standing for i, model in enumerate(found)})]


def _named(model: ModelFile, what: str) -> str:
    if what != "representation":
        return model.note[what]
    transform = model.note["transform"]
    return model.note[what] + (f"/{transform}" if transform else "")


def predict(
    folder: Path,
    model: ModelFile,
    adapters: Sequence[str],
    *,
    ensemble: bool,
    run_plugins: bool,
    memo: Path,
    on_progress: Progress = lambda done, total: None,
) -> list[Verdict]:
    """Judge adapters.

    Arguments:
        folder: of the model.
        adapters: files, folders or datasets.
        ensemble: average the probabilities of all fits; else the best fit by validation.
        run_plugins: whether code that came with the model is executed.
        memo: folder of what is known of hub datasets.

    Raises:
        UserError: there is no adapter, or the model cannot be used.
    """
    given = find_adapters(adapters, memo)
    fits = range(len(model.note["fits"])) if ensemble else [model.best_fit]
    loaded = model.load(fits, RunDir(folder).plugins, run_plugins=run_plugins)
    total, found = given.count, {}
    for item in read_adapters(given, loaded.input, loaded.item, model.note["lora_rank"]):
        if isinstance(item, Problem):
            place, name, _ = item.adapter
            found[place] = Verdict(name, None, None, item.reason)
        else:
            p, unlike = loaded.predict(item.stack, len(item.adapters))
            for (place, name, compatible), own, far in zip(item.adapters, p, unlike):
                found[place] = (
                    Verdict(name, own, float(far), compatible=compatible)
                    if np.isfinite(own).all()
                    else Verdict(name, None, None, "its features are not finite")
                )
        on_progress(len(found), total)
    return [found[place] for place in sorted(found)]


def table(verdicts: Sequence[Verdict], classes: Sequence[Any]) -> str:
    """For people."""
    rows = []
    for verdict in verdicts:
        p = verdict.probabilities
        if p is None:
            rows.append([verdict.adapter, "", "", "", verdict.problem])
        else:
            name, chance = str(classes[int(p.argmax())]), f"{p.max():.1%}"
            rows.append([verdict.adapter, name, chance, f"{verdict.unlike:.0f} %", ""])
    columns = len(COLUMNS) if any(verdict.problem for verdict in verdicts) else len(COLUMNS) - 1
    text = format_table(list(COLUMNS[:columns]), [row[:columns] for row in rows])
    several = Counter(verdict.compatible for verdict in verdicts if verdict.compatible)
    notes = [
        f"{count} adapters may be of {Base(names).in_words}: judged as of the model's base"
        for names, count in several.items()
    ]
    return "\n".join([text, *notes])


def as_csv(verdicts: Sequence[Verdict], classes: Sequence[Any]) -> str:
    """`COLUMNS`, a line per adapter."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(verdict.to_json(classes) for verdict in verdicts)
    return file.getvalue()
