"""What ran: the spec, the data, the machine, the times, and the command that does it again."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import replace
from typing import Any

from lorasweep.features.layers.configs import DEFAULT_CONFIGS
from lorasweep.sweep.request.options import changed_options, flag_of
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
    """Return (what, value) pairs, in the order of reading."""
    sweep, grid = run.sweep, run.sweep.grid
    frozen, environment = sweep.frozen, sweep.environment
    data = environment["dataset"]
    sizes = run.sizes_in_words
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
    """Return the `lorasweep run` command for the same grid, without options at their defaults."""
    spec = sweep.spec()
    if sweep.grid.configs == DEFAULT_CONFIGS:
        spec = replace(spec, configs=None)
    representations, classifiers = zip(*spec.pairs or ())
    if set(classifiers) == {DEFAULT_CLASSIFIER}:
        spec = replace(spec, pairs=None, representations=representations)
    words = [*changed_options(spec), *_changed_settings(sweep)]
    for name in ("num_runs", "seed"):  # said even where they are the defaults
        if flag_of(name) not in words:
            words += [flag_of(name), str(getattr(spec, name))]
    return shlex.join(["lorasweep", "run", *words])


def _changed_settings(sweep: SweepFile) -> list[str]:
    """Return the words for classifiers' settings that differ from their defaults."""
    spelled = {
        (c.name, field.name): (setting_option(c.name, field), field.default)
        for c, field in built_in_settings()
    }
    words: list[str] = []
    for name in sweep.grid.classifiers:
        known = sweep.declared["classifiers"][name]
        for setting, value in known["config"].items():
            option, default = spelled.get((name, setting), ("", None))
            if value != known.get("defaults", {}).get(setting, default):
                words += [option, str(value)] if option else ["--set", f"{name}.{setting}={value}"]
    return words


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
