"""`lorasweep data import`: folders of adapters to one dataset, through Ray Data.

While it is under way, shards lie in a hidden folder beside the dataset's, each whole or not there,
with a file that says what came of it; an interrupted import goes on with those that are missing.
The dataset appears when all are there.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from lorasweep.features.adapters.locations import is_weights
from lorasweep.features.adapters.matrix import real_file
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import (
    DamagedFileError,
    fsync_path,
    read_signed_json,
    require_folder,
    sign,
    write_json,
)
from lorasweep.features.common.lock import locked
from lorasweep.features.common.names import abbreviate
from lorasweep.features.compute.nodes import Nodes, RequiredPaths
from lorasweep.features.compute.pool import run_on_workers
from lorasweep.features.datasets.hf_folder import finish_folder
from lorasweep.sweep.process.signals import interruptible
from lorasweep.sweep.request.import_options import ImportOptions, check_places
from lorasweep.sweep.request.spec import RuntimeOptions
from lorasweep.sweep.store.results import format_table
from lorasweep.sweep.watch.terminal import Reporter

from .labels import label_source
from .plan import ImportPlan, make_plan, require_labels
from .shard import ShardWriter, dataset_schema, shard_files
from .survey import Survey, SurveyedAdapter, survey

RECORD = "import.json"
"""What a dataset's folder says about its import."""
_PLAN = "plan.json"
_SHOWN = 3


@dataclass(frozen=True)
class ImportReport:
    """What an import made.

    Attributes:
        out: the dataset's folder.
        adapters: rows of it.
        layers: layers of it.
        dropped: layers that too few adapters have -> how many do.
        bad: adapter -> why it was left out.
        aside: file that may be an adapter's -> why it was passed over.
        unused: rows of the table of labels that fit no adapter.
        unlabelled: adapters that were left out because they have no label.
        lost: largest share of a layer's ‖ΔW‖² that was left out.
        seconds: reading and writing, without Ray's start; 0 if all was there already.
    """

    out: Path
    adapters: int
    layers: int
    dropped: dict[str, int]
    bad: dict[str, str]
    aside: dict[str, str]
    unused: list[str]
    unlabelled: list[str]
    lost: float
    seconds: float

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.out}: {self.adapters} adapters, {self.layers} layers"]
        if self.dropped:
            shown = abbreviate([f"{name} (in {count})" for name, count in self.dropped.items()])
            lines.append(f"dropped  {len(self.dropped)} layers that too few have: {shown}")
        if self.unlabelled:
            lines.append(
                f"left out {len(self.unlabelled)} without a label: {abbreviate(self.unlabelled)}"
            )
        lines += [f"left out {name}: {reason}" for name, reason in list(self.bad.items())[:20]]
        if len(self.bad) > 20:
            lines.append(f"left out {len(self.bad) - 20} more, named in {self.out / RECORD}")
        if self.aside:
            shown = abbreviate([f"{path} {reason}" for path, reason in self.aside.items()], 3)
            lines.append(f"passed over {len(self.aside)} that may be adapters: {shown}")
        if self.unused:
            lines.append(
                f"{len(self.unused)} rows of the table fit no adapter: {abbreviate(self.unused)}"
            )
        if self.lost > 1e-6:
            lines.append(f"lost     up to {self.lost:.2%} of a layer's ‖ΔW‖² (--lokr-rank)")
        return lines


@dataclass(frozen=True)
class _Selected:
    """Adapters that were found, and those of them that make a dataset."""

    looked: Survey
    unused: list[str]
    labelled: list[SurveyedAdapter]
    unlabelled: list[str]
    plan: ImportPlan


def import_adapters(
    folders: Sequence[Path],
    out: Path,
    options: ImportOptions,
    runtime: RuntimeOptions,
    reporter: Reporter,
) -> ImportReport:
    """Read every adapter below some folders and write them as a dataset that `datasets` opens.

    Raises:
        UserError: there is no adapter that can be used, or one is damaged, or they are of several
            base models; or the folder holds something else.
    """
    options.validate()
    check_places(list(folders), out)
    out = Path(os.path.abspath(out))
    selected = _select(folders, options, reporter)
    return _import(selected, out, options, runtime, reporter)


def describe_import(folders: Sequence[Path], options: ImportOptions, reporter: Reporter) -> None:
    """Say what an import would write, class by class; nothing is written.

    Raises:
        UserError: as `import_adapters`.
    """
    options.validate()
    check_places(list(folders), None)
    selected = _select(folders, options, reporter)
    by_class: dict[str, list[str]] = {}
    for item in selected.labelled:
        by_class.setdefault(str(item.label), []).append(item.name)
    rows = [[name, str(len(of)), abbreviate(of, 3)] for name, of in sorted(by_class.items())]
    reporter.say(format_table(["class", "adapters", "like"], rows))
    plan = selected.plan
    reporter.say(f"{len(plan.adapters)} adapters, {len(plan.layers)} layers; nothing is written")
    left = ImportReport(
        Path(), 0, 0, plan.dropped, selected.looked.bad, selected.looked.aside, selected.unused,
        selected.unlabelled, 0.0, 0.0,
    )  # fmt: skip
    for line in left.lines()[1:]:
        reporter.say(line)


def _select(folders: Sequence[Path], options: ImportOptions, reporter: Reporter) -> _Selected:
    source = label_source(options.labels)
    looked = survey(
        folders,
        source,
        options.lokr_rank,
        lambda done, total: reporter.progress("looking", done, total, "files"),
        options.checkpoints,
    )
    _refuse_bad(looked.bad, options)
    if not looked.found:
        raise UserError("no file is an adapter that can be read")
    unused = source.unused((item.name, item.row) for item in looked.found)
    chosen = looked.of_base(options.base)
    labelled, unlabelled = require_labels(chosen, options.labels, next(iter(source.rows), ""))
    _say_bases(looked, chosen, reporter)
    reporter.say(f"layout   {_layout(labelled, options.labels)}")
    plan = make_plan(labelled, options.min_coverage, options.lokr_rank)
    if any(item.dora for item in labelled):
        count = sum(item.dora for item in labelled)
        reporter.warn(
            f"{count} adapters are DoRA's: their update is more than B·A; see column dora"
        )
    unread = [kinds for kinds in plan.columns.get("unread_tensors", []) if kinds]
    if unread:
        reporter.warn(
            f"{len(unread)} adapters have tensors of these layers that are not read, like "
            f"{unread[0][0]}: see column unread_tensors"
        )
    return _Selected(looked, unused, labelled, unlabelled, plan)


def _layout(adapters: Sequence[SurveyedAdapter], labels: str) -> str:
    """How adapters lie, and where their labels are from, in words."""
    files = sum(not Path(item.weights).is_dir() and is_weights(item.name) for item in adapters)
    kinds = {"files": files, "folders with an adapter each": len(adapters) - files}
    lie = " and ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    return f"{lie}; labels: {'the folder above' if labels == 'folder' else labels}"


def _import(
    selected: _Selected,
    out: Path,
    options: ImportOptions,
    runtime: RuntimeOptions,
    reporter: Reporter,
) -> ImportReport:
    looked, plan, unlabelled = selected.looked, selected.plan, selected.unlabelled
    require_folder(out.parent)
    with locked(
        out.with_name(f".{out.name}.import.lock"),
        lambda: reporter.say(f"another process imports into {out}: waiting for it"),
    ):
        results, bad, seconds = _carry_out(
            out, plan, looked.bad, unlabelled, options, runtime, reporter
        )
    report = ImportReport(
        out=out,
        adapters=sum(result["rows"] for result in results),
        layers=len(plan.layers),
        dropped=plan.dropped,
        bad=bad,
        aside=looked.aside,
        unused=selected.unused,
        unlabelled=unlabelled,
        lost=max(result["lost"] for result in results),
        seconds=seconds,
    )
    for line in report.lines():
        reporter.say(line)
    return report


def _say_bases(looked: Survey, chosen: list[SurveyedAdapter], reporter: Reporter) -> None:
    """Say of what bases the adapters are where that is not certain, and how many are left out."""
    counts = Counter(item.base for item in chosen)
    if len(counts) > 1 or any(len(base.names) > 1 for base in counts):
        shown = "; ".join(f"{base.in_words} ({count})" for base, count in counts.most_common())
        reporter.say(f"base     {shown}")
    if left := len(looked.found) - len(chosen):
        reporter.say(f"left out {left} of other bases")


def _carry_out(
    out: Path,
    plan: ImportPlan,
    unreadable: dict[str, str],
    unlabelled: list[str],
    options: ImportOptions,
    runtime: RuntimeOptions,
    reporter: Reporter,
) -> tuple[list[dict[str, Any]], dict[str, str], float]:
    """Write what is not there yet; (what came of every shard, all bad adapters, seconds)."""
    seconds = 0.0
    work = _open_work(out, plan)
    if work is None:
        results = (_record(out) or {})["shards"]
    else:
        missing = [i for i, result in enumerate(_results(work, plan)) if result is None]
        if missing:
            seconds = _write(plan, work, missing, runtime, reporter)
        results = [result for result in _results(work, plan) if result is not None]
    bad = unreadable | {name: why for result in results for name, why in result["bad"].items()}
    _refuse_bad(bad, options)
    if work is not None:
        left_out = {"bad": bad, "unlabelled": unlabelled, "dropped": plan.dropped}
        _finish(out, work, plan, results, left_out)
    return results, bad, seconds


def _refuse_bad(bad: dict[str, str], options: ImportOptions) -> None:
    if bad and not options.skip_bad_samples:
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(bad.items())[:_SHOWN])
        raise UserError(
            f"adapters that cannot be used: {len(bad)} ({shown}"
            f"{'; …' if len(bad) > _SHOWN else ''}); --skip-bad-samples leaves them out"
        )


# The folder


def _open_work(out: Path, plan: ImportPlan) -> Path | None:
    """The folder of an import that is to be done or to go on; None: it is done.

    Raises:
        UserError: the dataset's folder holds something else.
    """
    known = _record(out)
    if known is not None:
        if known["digest"] == plan.digest:
            return None
        raise UserError(
            f"{out} holds a dataset of other adapters or options, or they have changed: give "
            "another folder, or remove it"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not empty: give another folder")
    work = out.with_name(f".{out.name}.import")
    try:
        begun = read_signed_json(work / _PLAN)["digest"]
    except (OSError, DamagedFileError):
        begun = None
    if begun != plan.digest:
        # Shards of adapters that have changed since are of no use.
        shutil.rmtree(work, ignore_errors=True)
        require_folder(work)
        write_json(work / _PLAN, sign({"digest": plan.digest}))
    return work


def _record(out: Path) -> dict[str, Any] | None:
    try:
        return read_signed_json(out / RECORD)
    except (OSError, DamagedFileError):
        return None


def _results(work: Path, plan: ImportPlan) -> list[dict[str, Any] | None]:
    """What came of every shard; None: it is not there."""
    return [shard_files(work, plan, i).result() for i in range(plan.shards)]


def _finish(
    out: Path,
    work: Path,
    plan: ImportPlan,
    results: list[dict[str, Any]],
    left_out: dict[str, Any],
) -> None:
    """Make the shards a dataset, which appears whole or not at all."""
    if not any(result["rows"] for result in results):
        raise UserError("no adapter is left: every one is damaged")
    files = [shard_files(work, plan, i).data for i in range(plan.shards)]
    folder = files[0].parent
    finish_folder(folder, dataset_schema(plan), [file.name for file in files])
    write_json(folder / RECORD, sign({"digest": plan.digest, "shards": results, **left_out}))
    os.replace(folder, out)
    fsync_path(out.parent)  # before what it could be made of again is gone
    shutil.rmtree(work, ignore_errors=True)


# Ray Data


def _write(
    plan: ImportPlan, work: Path, missing: list[int], runtime: RuntimeOptions, reporter: Reporter
) -> float:
    """Write some shards; the seconds it took from the first worker's start."""
    from lorasweep.sweep.cluster.capacity import capacity, require_cpu
    from lorasweep.sweep.cluster.session import ray_session

    nodes = Nodes(reporter.say, any_hardware=True)
    required_paths = RequiredPaths([work], [real_file(Path(plan.adapters[0].weights))])
    own = [stop - start for start, stop in pairwise(plan.bounds)]
    done = sum(own) - sum(own[i] for i in missing)
    with (
        interruptible() as interruption,
        ray_session(runtime, work, "import", interruption, reporter.take),
        capacity(
            runtime,
            [nodes],
            required_paths,
            partial(require_cpu, nodes),
            reporter.take,
            interruption,
        ),
    ):
        began = time.perf_counter()
        for result in _run(plan, work, missing, nodes):
            if result["changed"]:
                raise UserError(
                    f"{result['changed']} has changed while it was imported: give the same command "
                    "again"
                )
            done += result["adapters"]
            reporter.progress("importing", done, len(plan.adapters), "adapters")
        return time.perf_counter() - began


def _run(
    plan: ImportPlan, work: Path, missing: list[int], nodes: Nodes
) -> Iterator[dict[str, Any]]:
    rows = [{"index": i} for i in missing]
    seen = [work / _PLAN, *nodes.required_paths.files]
    return run_on_workers(ShardWriter, [plan, work], rows, "lorasweep-import", nodes, seen=seen)
