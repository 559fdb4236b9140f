"""Finding, scanning and refusing datasets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import require_folder
from lorasweep.features.datasets.scan import DatasetScan, scan_dataset
from lorasweep.features.datasets.sources import Source, dataset_label, find_dataset
from lorasweep.sweep.request.options import flag_of
from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
from lorasweep.sweep.store.sweep_file import pinned_revision
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.trainables.store.run_dir import RunDir


def open_dataset(
    spec: SweepSpec,
    options: RuntimeOptions,
    run_dir: Path | None,
    reporter: Reporter,
    *,
    memo: Path | None = None,
) -> tuple[Source, DatasetScan]:
    """Find and scan a spec's dataset, and refuse one that cannot be used.

    A hub dataset is pinned to the commit a run directory was made with.

    Arguments:
        memo: where it is noted what is known of a dataset; by default in the feature cache, or in
            the run directory if that is not kept.
    """
    if memo is None:
        memo = options.cache_dir.absolute()
        if not options.cache_features and run_dir is not None:
            memo = RunDir(run_dir).logs
    revision = None if run_dir is None else pinned_revision(run_dir)
    source = find_source(spec, options, reporter, memo, revision)

    def on_progress(done: int, total: int) -> None:
        reporter.progress("scanning", done, total, "adapters")

    require_folder(memo, "--cache-dir" if options.cache_features else "--output-dir")
    scan = scan_dataset(
        source,
        spec.label_column,
        spec.lora_rank,
        memo,
        verify=options.verify,
        on_progress=on_progress,
    )
    scan.require_usable(skip_bad_samples=spec.skip_bad_samples)
    if spec.assume_scale is not None and scan.scales:
        raise UserError("--assume-scale is for datasets without scales: this one has them")
    if scan.bad_rows:
        shown = ", ".join(map(str, scan.bad_rows[:10]))
        more = ", …" if len(scan.bad_rows) > 10 else ""
        reporter.warn(f"{len(scan.bad_rows)} bad samples left out: rows {shown}{more}")
    return source, scan


def find_source(
    spec: SweepSpec,
    options: RuntimeOptions,
    reporter: Reporter,
    memo: Path,
    revision: str | None = None,
) -> Source:
    """A spec's dataset; adapter files are imported first, if they are not yet.

    Arguments:
        memo: folder of what is known of hub datasets.
        revision: see `DatasetRequest`.

    Raises:
        UserError: it is not there, or cannot be imported.
    """

    def on_progress(done: int, total: int) -> None:
        reporter.progress("copying", done, total, "MB")

    request = replace(spec.request, revision=revision)
    place = Path(spec.dataset)
    if place.is_dir():
        from .folder import imported, is_adapter_folder

        if is_adapter_folder(place):
            folder = imported(place, spec.imports, options, reporter)
            source = find_dataset(replace(request, name=str(folder)), memo)
            return replace(source, label=dataset_label(spec.dataset))
    for name in ("labels", "min_coverage", "base", "checkpoints"):
        if getattr(spec, name) != getattr(SweepSpec, name):
            raise UserError(
                f"{flag_of(name)} is for folders of adapter files, and {spec.dataset} is none"
            )
    return find_dataset(request, memo, on_progress)
