"""What ran: the spec, the data, the machine, the times, and the command that does it again."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from typing import Any

from lorasweep.features.layers.configs import DEFAULT_CONFIGS
from lorasweep.features.representations import DEFAULT_REPRESENTATIONS
from lorasweep.sweep.store.sweep_file import SweepFile
from lorasweep.sweep.watch.terminal import format_seconds
from lorasweep.trainables.classifiers.catalogue import built_in_settings, setting_option
from lorasweep.trainables.data.splits import rule_in_words
from lorasweep.trainables.store.events import Done, Started, parse_events
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.trial_key import DEFAULT_CLASSIFIER

from .runs import RunData

Facts = list[tuple[str, str]]


def run_facts(run: RunData) -> Facts:
    """(what, value) cells, in the order of reading."""
    sweep, grid = run.sweep, run.sweep.grid
    frozen, environment = sweep.frozen, sweep.environment
    data = environment["dataset"]
    sizes = ", ".join(f"{name} {size}" for name, size in run.sizes.items())
    skipped = len(frozen["skipped_samples"])
    layers = [
        f"{name} ({len(configs)} configs)"
        if name in grid.families
        else f"{name} ({environment['layers'].get(name, '?')} tensors)"
        for name, configs in grid.groups.items()
    ]
    host = f"{environment['host']}, {environment['cores']} cores, {environment['platform']}"
    facts = [
        ("command", reproduce_command(sweep)),
        ("dataset", " ".join(filter(None, (data["dataset"], data["dataset_config"])))),
        ("dataset fingerprint", frozen["decides"]["dataset"]),
        ("hub commit", frozen["revision"] or ""),
        ("adapters", str(frozen["num_samples"])),
        ("bad adapters left out", str(skipped) if skipped else ""),
        ("classes", f"{run.n_classes}, column {data['label_column']}"),
        ("split", f"{rule_in_words(frozen['decides']['split'])}: {sizes}"),
        ("representations", ", ".join(grid.representations)),
        ("layer configs", ", ".join(layers)),
        ("seeds", ", ".join(map(str, grid.seeds))),
        *((f"settings of {name}", _named(sweep.settings(name))) for name in grid.classifiers),
        ("trials", f"{len(run.records)} of {len(grid.keys)} finished, {len(run.failed)} failed"),
        *((f"failed: {key}", _reason(run, key)) for key in run.failed),
        ("training time", _training_time(run)),
        ("wall time", _wall_time(run)),
        ("trained on", _machines(run)),
        ("driver", host),
        ("versions", f"python {environment['python']}, {_named(environment['packages'])}"),
    ]
    return [(what, value) for what, value in facts if value]


def reproduce_command(sweep: SweepFile) -> str:
    """The `lorasweep run` command for the same grid; options at their defaults are left out."""
    data, grid = sweep.environment["dataset"], sweep.grid
    options: dict[str, Any] = {"dataset": data["dataset"]}
    if data["dataset_config"]:
        options["dataset-config"] = data["dataset_config"]
    if data["label_column"] != "category_label":
        options["label-column"] = data["label_column"]
    if data["lora_rank"]:
        options["lora-rank"] = data["lora_rank"]
    if tuple(grid.representations) != DEFAULT_REPRESENTATIONS:
        options["representations"] = ",".join(grid.representations)
    if grid.configs != DEFAULT_CONFIGS:
        options["configs"] = ",".join(grid.asked_configs)
    if data.get("split", "fixed") != "fixed":
        options["split"] = data["split"]
    for name in ("labels", "min_coverage", "base", "group_column", "split_column"):
        if data.get(name):
            options[name.replace("_", "-")] = data[name]
    options["num-runs"], options["seed"] = len(grid.seeds), grid.seeds[0]
    known = sweep.declared["classifiers"]
    if grid.classifiers != [DEFAULT_CLASSIFIER]:
        cells = [f"{entry.representation}:{entry.classifier}" for entry in grid.entries]
        options["pairs"] = ",".join(cells)
        options.pop("representations", None)
    spelled = {
        (c.name, field.name): (setting_option(c.name, field), field.default)
        for c, field in built_in_settings()
    }
    changed: list[str] = []
    for name in grid.classifiers:
        for setting, value in known[name]["config"].items():
            option, default = spelled.get((name, setting), ("", None))
            if value != known[name].get("defaults", {}).get(setting, default):
                changed += (
                    [option, str(value)] if option else ["--set", f"{name}.{setting}={value}"]
                )
    if sweep.frozen["decides"]["threads"] != 1:
        options["threads"] = sweep.frozen["decides"]["threads"]
    words = ["lorasweep", "run"]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    for name, regex in sweep.config_regexes.items():
        words += ["--config-regex", f"{name}={regex}"]
    words += changed
    if data["skip_bad_samples"]:
        words.append("--skip-bad-samples")
    return shlex.join(words)


def _named(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _reason(run: RunData, key: Any) -> str:
    try:
        reason = json.loads(RunDir(run.run_dir).failure(key).read_bytes())["reason"]
    except (OSError, ValueError, KeyError):
        return "unknown"
    return (str(reason).strip().splitlines() or ["unknown"])[-1]


def _training_time(run: RunData) -> str:
    timing = [record.get("timing", {}) for record in run.records.values()]
    training = sum(t.get("train_seconds") or 0.0 for t in timing)
    loading = sum(t.get("load_seconds") or 0.0 for t in timing)
    return (
        f"{format_seconds(training)} in all trials together "
        f"({training / len(timing):.2f} s each), {format_seconds(loading)} of loading features"
    )


def _wall_time(run: RunData) -> str:
    """Of every invocation that ended or was interrupted; one that was killed has told none."""
    paths = RunDir(run.run_dir).events.glob("*.jsonl")
    events = [event for path in paths for _, event in parse_events(path.read_bytes())]
    ends = [event for event in events if isinstance(event, Done) and event.ran]
    if not ends:
        return ""
    began = sum(isinstance(event, Started) for event in events)
    total, features, trials = (
        format_seconds(sum(getattr(event, name) for event in ends))
        for name in ("seconds", "feature_seconds", "train_seconds")
    )
    return (
        f"{total}, {features} of it for features and {trials} for trials, in {len(ends)} "
        f"invocation(s) that ended after running trials; {began} were started"
    )


def _machines(run: RunData) -> str:
    """On what the trials were trained; more than one if the sweep moved."""
    counts = Counter(_machine(record.get("environment", {})) for record in run.records.values())
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{machine} ({count} trials)" for machine, count in counts.most_common())


def _machine(environment: dict[str, Any]) -> str:
    """A machine in words; what a record does not say about it is left out."""
    known = {name: str(value) for name, value in environment.items()}
    device = " ".join(known[name] for name in ("device", "device_name") if name in known)
    parts = [
        device,
        f"{known['threads']} thread(s)" if "threads" in known else "",
        f"torch {known['torch']}" if "torch" in known else "",
    ]
    about = ", ".join(filter(None, parts)) or "unknown"
    return f"{known['host']}: {about}" if "host" in known else about
