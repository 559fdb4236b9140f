"""The model card of an export: what the models were made from, how good they are, and for what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lorasweep.features.common.plugins import Origin
from lorasweep.sweep.report.bootstrap import hierarchical_bootstrap
from lorasweep.sweep.report.facts import reproduce_command
from lorasweep.sweep.report.intervals import accuracy_interval
from lorasweep.sweep.report.runs import RunData, load_run
from lorasweep.trainables.data.splits import rule_in_words
from lorasweep.trainables.models.model import ModelFile
from lorasweep.trainables.store.standing import best_of

_MOST_CONFUSIONS = 5


def model_card(run_dir: Path, models: Sequence[ModelFile]) -> str:
    """Markdown with the front matter that model hubs read; the license is left to the user.

    Arguments:
        models: of a run; the best by validation is what `predict` takes.
    """
    run = load_run(run_dir)
    cells = [model.cell for model in models]
    scores = run.scores(cells)
    drawn = hierarchical_bootstrap(scores, seed=int(run.sweep.frozen["decides"]["dataset"], 16))
    accuracy = scores.accuracy().mean(axis=1)
    ends = [
        accuracy_interval(float(accuracy[i]), scores.n_independent, drawn.accuracy[:, i])
        for i in range(len(cells))
    ]
    f1 = [float(run.metric(cell, "test_f1").mean()) for cell in cells]
    best = best_of({i: run.standing(cell) for i, cell in enumerate(cells)})
    rows = [
        f"| `{config}` | `{method}` | {models[i].val_acc:.1%} | {accuracy[i]:.1%} | "
        f"{ends[i][0]:.1%} – {ends[i][1]:.1%} | {f1[i]:.1%} | {len(models[i].note['fits'])} |"
        for i, (config, method) in enumerate(cells)
    ]
    return "\n".join(
        [
            *_front_matter(run, cells[best], float(accuracy[best])),
            "",
            "# What an adapter was trained on",
            "",
            "Classifiers that read the weights of a LoRA adapter and tell which of "
            f"{run.n_classes} classes it was trained on. No base model is needed.",
            "",
            "```sh",
            "lorasweep predict . adapter.safetensors",
            "```",
            "",
            "## Data",
            "",
            *_data(run),
            "",
            "## Test scores",
            "",
            f"{_tested(run)}; the mean over seeds, with a 95 % interval over seeds and test "
            "adapters drawn again together (crossed bootstrap). Validation accuracy has chosen "
            "them.",
            "",
            "| layers | representation | validation | test | 95 % interval | macro F1 | fits |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"`predict` takes `{'/'.join(cells[best])}` unless told otherwise, and of it the fit "
            "with the best validation accuracy, or all with `--ensemble`. Chance is "
            f"{1 / run.n_classes:.1%}.",
            "",
            "### Classes that are mistaken for others",
            "",
            *_confusions(run, cells[best]),
            "",
            "## What it is not good for",
            "",
            *_limits(run, models[best]),
            "",
            "## How it was made",
            "",
            *_made(run, models),
            "",
        ]
    )


def _tested(run: RunData) -> str:
    if run.split.folds:
        return (
            f"On all {len(run.labels)} adapters, each tested once by a seed, by a fit that was "
            "not trained on it"
        )
    return f"On {run.sizes['test']} adapters that are in no other split"


def _front_matter(run: RunData, cell: tuple[str, str], accuracy: float) -> list[str]:
    return [
        "---",
        "# license: yours to choose",
        "library_name: lorasweep",
        "tags: [lora, weight-space-learning, model-inspection]",
        "metrics: [accuracy]",
        "model-index:",
        f"- name: {'/'.join(cell)}",
        "  results:",
        "  - task: {type: classification, name: what an adapter was trained on}",
        f"    dataset: {{type: adapters, name: {run.sweep.frozen['decides']['dataset']}}}",
        "    metrics:",
        f"    - {{type: accuracy, name: mean test accuracy, value: {accuracy:.4f}}}",
        "---",
    ]


def _data(run: RunData) -> list[str]:
    frozen = run.sweep.frozen
    name = Path(run.sweep.environment["dataset"]["dataset"]).name
    counts = np.bincount(run.labels, minlength=run.n_classes)
    classes = ", ".join(f"{name} ({n})" for name, n in zip(frozen["classes"], counts))
    lines = [
        f"- dataset `{name}`, fingerprint `{frozen['decides']['dataset']}`"
        + (f", hub commit `{frozen['revision']}`" if frozen["revision"] else ""),
        f"- {frozen['num_samples']} adapters; split: {rule_in_words(frozen['decides']['split'])} "
        f"({run.sizes_in_words})",
        f"- classes (adapters): {classes}",
    ]
    if run.splits_coincide:
        lines.append("- **train, validation and test are the same: the scores mean nothing**")
    return lines


def _confusions(run: RunData, cell: tuple[str, str]) -> list[str]:
    """The pairs of classes that were mixed up most, over all seeds."""
    cells: Any = np.mean([record["confusion"]["test"] for record in run.records_of(cell)], axis=0)
    classes = run.sweep.frozen["classes"]
    shares = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0.0)
    worst = np.argsort(-shares, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    places = [divmod(int(place), len(classes)) for place in worst]
    lines = [
        f"- {classes[i]} as {classes[j]}: {shares[i, j]:.0%} of its {round(cells[i].sum())} test "
        "adapters"
        for i, j in places
        if shares[i, j]
    ]
    return lines or ["None was, by any seed, in the test split."]


def _limits(run: RunData, best: ModelFile) -> list[str]:
    read = best.input
    ranks = ", ".join(map(str, read.ranks))
    bases = ", ".join(f"`{base}`" for base in read.bases)
    return [
        f"- Adapters of another base model than the training data's ({bases}), or without the "
        f"{len(read.layers)} layers that are read: `predict` says so and judges none of them.",
        f"- Other ranks than those of the training data ({ranks}), where a representation "
        "depends on the rank.",
        f"- Anything that is none of the {run.n_classes} classes: some class is always named. "
        "`unlike` tells how far an adapter is from all training adapters; near 100 nothing like it "
        "was seen.",
        "- Adapters trained in another way (program, steps, learning rate, number of images) than "
        "the training data: accuracy on them was not measured.",
        "- Proof. Weights can be changed so that a classifier errs; a verdict is a reason to look.",
        "- Probabilities are calibrated by one temperature on the validation split "
        f"({run.sizes['val']} adapters); on other data they may be too sure.",
    ]


def _made(run: RunData, models: Sequence[ModelFile]) -> list[str]:
    packages = ", ".join(f"{n} {v}" for n, v in models[0].note["packages"].items())
    dataset = run.sweep.environment["dataset"]["dataset"]
    command = reproduce_command(run.sweep).replace(dataset, Path(dataset).name)
    lines = [
        "```sh",
        command.replace(f"{run.run_dir}/", ""),  # places on this machine are nobody's business
        f"lorasweep export {run.run_dir.name} OUT",
        "```",
    ]
    lines += ["", f"With python {run.sweep.environment['python']}, {packages}."]
    code = [Origin.from_json({"root": "", **o}) for model in models for o in model.origins]
    if code:
        names = ", ".join(dict.fromkeys(f"`{o.module}:{o.object}`" for o in code))
        lines.append(
            f"\nIt comes with code of its own in `plugins/` ({names}), which `predict` executes "
            "only with `--run-plugins`: read it first."
        )
    return lines
