"""The command line: parses, calls `sweep` and `zoo`, prints. No logic of its own."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from features.core.errors import UserError
from trainables.classifiers.catalogue import CLASSIFIERS, built_in_settings, setting_option

app = typer.Typer(
    name="lorasweep",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Which representation of LoRA weights predicts what they were trained on, and in which "
    "layers? Trains a small classifier for every representation × layer config × seed.",
)
data = typer.Typer(no_args_is_help=True, help="Make datasets of adapters.")
app.add_typer(data, name="data")

# Options that several commands share

Dataset = Annotated[
    str,
    typer.Option(
        help="Local dataset (save_to_disk folder, Parquet or Arrow file or folder of them), "
        "hub id, or one of 1k, 10k, 50k, 100k, small, sanity-check."
    ),
]
DatasetConfig = Annotated[
    str | None, typer.Option(help="Configuration of a hub dataset that has several.")
]
LabelColumn = Annotated[str, typer.Option(help="Column to predict: strings or integers.")]
LoraRank = Annotated[
    int | None, typer.Option(help="Rank of layer tensors stored as flat lists (else 1×N).")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad-samples", help="Leave adapters with NaN or infinity out.")
]
Representations = Annotated[
    str | None,
    typer.Option(
        help="Comma-separated; all nine by default. Also 'update' (of whole layers), 'all', "
        "NAME:SIZE, package.module:object, path/to/file.py:object."
    ),
]
Configs = Annotated[str, typer.Option(help="Comma-separated layer configs.")]
CacheDir = Annotated[Path, typer.Option(help="Root of the feature cache.")]
GpusPerTrial = Annotated[
    str, typer.Option(help="GPUs per trial, a fraction to share one, or 'auto'.")
]
CpusPerTrial = Annotated[int, typer.Option(help="CPU cores per trial.")]
MaxConcurrent = Annotated[int | None, typer.Option(help="At most this many trials at once.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join; by default Ray starts on this machine.")
]
Dashboard = Annotated[bool, typer.Option(help="Start the Ray dashboard, on loopback.")]
MaxFailures = Annotated[int, typer.Option(help="Retries before a trial counts as failed.")]
LogTo = Annotated[str, typer.Option(help="Experiment tracker: tensorboard, mlflow, wandb or none.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show what Ray and Tune say.")]
Verify = Annotated[
    bool, typer.Option("--verify", help="Read the whole dataset again even if it looks unchanged.")
]
CacheFeatures = Annotated[bool, typer.Option(help="Keep computed features for later runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


_STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}


def _storage_error(error: BaseException | None) -> OSError | None:
    """The full or read-only disk behind an error, if that is what it comes from.

    Tune wraps what its callbacks raise.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _STORAGE_ERRORS:
            return error
        error = error.__cause__ or error.__context__
    return None


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """A user's mistakes become one line and exit code 2, an interruption exit code 130, a full or
    read-only disk one line and exit code 1."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            again = shlex.join(["lorasweep", *sys.argv[1:]])
            typer.echo(f"\ninterrupted; finished work is kept. To resume: {again}", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            full = _storage_error(error)
            if full is None:
                raise
            where = f" ({full.filename})" if full.filename else ""
            typer.echo(
                f"error: cannot write: {full.strerror}{where}; what is finished is kept: "
                "make room and give the same command again",
                err=True,
            )
            raise typer.Exit(1) from None

    return run


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("lorasweep")
        except PackageNotFoundError:
            number = "(not installed)"
        typer.echo(f"lorasweep {number}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
]


@app.callback()
def common(version: Version = False) -> None:
    """Options before the command."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every setting of every built-in classifier, as declared there;
    it gets those that differ from their defaults as `{"CLASSIFIER.SETTING": value}`."""
    own = {
        name: parameter
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    options = {f"{c.name}__{field.name}": (c.name, field) for c, field in built_in_settings()}

    @functools.wraps(command)
    def run(**given: Any) -> None:
        changed = {
            f"{classifier}.{field.name}": given[name]
            for name, (classifier, field) in options.items()
            if given[name] != field.default
        }
        command(**{name: given[name] for name in own}, **changed)

    parameters = [
        *own.values(),
        *(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[
                    type(field.default),
                    typer.Option(setting_option(classifier, field), help=_help(classifier, field)),
                ],
            )
            for name, (classifier, field) in options.items()
        ),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _help(classifier: str, field: Any) -> str:
    text = field.metadata["help"]
    return f"{classifier}: {text}."


@app.command(
    epilog="Example: lorasweep run --dataset examples/digits-zoo --num-runs 3. "
    "The same command again resumes."
)
@with_settings
@guarded
def run(
    dataset: Dataset,
    dataset_config: DatasetConfig = None,
    label_column: LabelColumn = "category_label",
    lora_rank: LoraRank = None,
    skip_bad_samples: SkipBad = False,
    num_runs: Annotated[int, typer.Option(help="Seeds per representation and config.")] = 10,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 42,
    quick: Annotated[bool, typer.Option("--quick", help="Three seeds.")] = False,
    representations: Representations = None,
    configs: Configs = "all_layers,visual_only",
    classifiers: Annotated[
        str,
        typer.Option(
            help=f"Comma-separated: {', '.join(CLASSIFIERS)}, package.module:object, "
            "path/to/file.py:object."
        ),
    ] = "mlp",
    pairs: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated REPRESENTATION:CLASSIFIER, instead of all combinations of both."
        ),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="CLASSIFIER.SETTING=VALUE, of any classifier; repeatable."),
    ] = None,
    output_dir: Annotated[Path, typer.Option(help="Where run directories are.")] = Path(
        "ray_results"
    ),
    name: Annotated[
        str | None, typer.Option(help="Run directory's name; by default the dataset's.")
    ] = None,
    cache_features: CacheFeatures = True,
    cache_dir: CacheDir = Path(".feature_cache"),
    threads: Annotated[int, typer.Option(help="CPU threads of one trial; part of a result.")] = 1,
    gpus_per_trial: GpusPerTrial = "auto",
    cpus_per_trial: CpusPerTrial = 1,
    max_concurrent: MaxConcurrent = None,
    address: Address = None,
    dashboard: Dashboard = True,
    max_failures: MaxFailures = 3,
    log_to: LogTo = "tensorboard",
    verbose: Verbose = False,
    verify: Verify = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    **settings: Any,
) -> None:
    """Run the sweep, or what remains of it."""
    from sweep.spec import QUICK_RUNS, RuntimeOptions, SweepSpec

    spec = SweepSpec(
        dataset=dataset,
        dataset_config=dataset_config,
        label_column=label_column,
        lora_rank=lora_rank,
        skip_bad_samples=skip_bad_samples,
        num_runs=QUICK_RUNS if quick else num_runs,
        seed=seed,
        configs=_names(configs),
        classifiers=_names(classifiers),
        pairs=_pairs(pairs),
        settings=_settings(settings, assign or []),
        threads=threads,
        **_representations(representations),
    )
    options = RuntimeOptions(
        output_dir=output_dir,
        name=name,
        cache_features=cache_features,
        cache_dir=cache_dir,
        gpus_per_trial=_gpus(gpus_per_trial),
        cpus_per_trial=cpus_per_trial,
        max_concurrent=max_concurrent,
        address=address,
        dashboard=dashboard,
        max_failures=max_failures,
        log_to=log_to,
        verbose=verbose,
        verify=verify,
    )
    _run(spec, options, dry_run=dry_run)


@app.command(epilog="Example: lorasweep restore ray_results/digits-zoo")
@guarded
def restore(
    run_dir: Annotated[Path, typer.Argument(help="Run directory of an interrupted sweep.")],
    dataset: Annotated[
        str | None, typer.Option(help="Where the same dataset lies now, if it was moved.")
    ] = None,
    cache_features: CacheFeatures = True,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Root of the feature cache; by default the run's.")
    ] = None,
    gpus_per_trial: GpusPerTrial = "auto",
    cpus_per_trial: CpusPerTrial = 1,
    max_concurrent: MaxConcurrent = None,
    address: Address = None,
    dashboard: Dashboard = True,
    max_failures: MaxFailures = 3,
    log_to: LogTo = "tensorboard",
    verbose: Verbose = False,
    verify: Verify = False,
) -> None:
    """Continue an interrupted sweep from what its run directory says."""
    from dataclasses import replace

    from sweep.spec import RuntimeOptions
    from sweep.sweep_file import read_sweep_file

    run_dir = run_dir.absolute()
    sweep = read_sweep_file(run_dir)
    spec = sweep.spec()
    if dataset is not None:
        spec = replace(spec, dataset=dataset)
    options = RuntimeOptions(
        output_dir=run_dir.parent,
        name=run_dir.name,
        cache_features=cache_features,
        cache_dir=cache_dir or Path(sweep.environment["cache_dir"]),
        gpus_per_trial=_gpus(gpus_per_trial),
        cpus_per_trial=cpus_per_trial,
        max_concurrent=max_concurrent,
        address=address,
        dashboard=dashboard,
        max_failures=max_failures,
        log_to=log_to,
        verbose=verbose,
        verify=verify,
    )
    _run(spec, options)


def _run(spec: Any, options: Any, *, dry_run: bool = False) -> None:
    from sweep.launch import run_sweep
    from sweep.watch.terminal import Reporter
    from trainables.run_dir import RunDir

    with Reporter() as reporter:
        if dry_run:
            from sweep.dry_run import describe

            describe(spec, options, reporter)
            return
        result = run_sweep(spec, options, reporter)
    if result.failed:
        shown = "\n".join(f"  {key}" for key in result.failed)
        where = RunDir(result.run_dir).failure(result.failed[0]).parents[2]
        typer.echo(f"{len(result.failed)} trials failed (why: {where}):\n{shown}", err=True)
    left = result.summary["not_reached"]
    if left:
        typer.echo(f"{left} trials were not reached: give the same command again", err=True)
    if result.failed or left:
        raise typer.Exit(1)


@app.command(epilog="Example: lorasweep status ray_results/digits-zoo --json")
@guarded
def status(
    run_dir: Annotated[Path, typer.Argument(help="Run directory.")],
    as_json: AsJson = False,
    follow: Annotated[
        bool, typer.Option("--watch", help="Look again and again, until the run is over.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 2.0,
) -> None:
    """Say how far a sweep is, while it runs or after it ended."""
    from sweep.watch.status import read_status, watch

    if follow and not as_json:
        # Whoever stops watching stops nothing else.
        with contextlib.suppress(KeyboardInterrupt):
            watch(run_dir, every)
        return
    found = read_status(run_dir)
    typer.echo(json.dumps(found.to_json()) if as_json else "\n".join(found.lines()))


@app.command(epilog="Example: lorasweep dashboard ray_results/digits-zoo --open")
@guarded
def dashboard(
    run_dir: Annotated[Path, typer.Argument(help="Run directory of a run that is under way.")],
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Say where the Ray dashboard of a running sweep is, and how to log in."""
    from sweep.watch.prometheus import read_targets
    from sweep.watch.status import read_status

    found = read_status(run_dir)
    if found.driver is None or not found.alive:
        raise UserError(f"{run_dir}: no driver is running, so there is no dashboard")
    if found.dashboard is None:
        raise UserError(f"{run_dir}: its driver has no dashboard (yet, or for --no-dashboard)")
    typer.echo(found.dashboard)
    typer.echo(
        f"It listens on loopback of {found.driver['host']} only; from elsewhere, forward its port "
        "with ssh -L.\nIt asks for a token: `ray get-auth-token` on that host prints it."
    )
    for target in read_targets(run_dir):
        typer.echo(f"metrics: http://{target}/metrics (no token)")
    if show:
        typer.launch(found.dashboard)


@app.command(epilog="Example: lorasweep report ray_results/digits-zoo --open")
@guarded
def report(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(help="Run directory; several are compared by dataset size."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; by default RUN_DIR/report.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Write figures, tables and a page about a sweep, finished or not."""
    from sweep.report.build import make_report
    from sweep.watch.terminal import Reporter

    with Reporter() as reporter:
        page = make_report(
            run_dirs,
            out,
            on_progress=lambda done, total: reporter.progress("drawing", done, total, "figures"),
        )
    typer.echo(page)
    if show:
        typer.launch(page.as_uri())


@app.command(epilog="Example: lorasweep features --dataset examples/digits-zoo --json")
@guarded
def features(
    dataset: Dataset,
    dataset_config: DatasetConfig = None,
    label_column: LabelColumn = "category_label",
    lora_rank: LoraRank = None,
    skip_bad_samples: SkipBad = False,
    representations: Representations = None,
    cache_dir: CacheDir = Path(".feature_cache"),
    address: Address = None,
    verbose: Verbose = False,
    verify: Verify = False,
    as_json: AsJson = False,
) -> None:
    """Compute and cache features without training anything."""
    from sweep.engine.features import features_only
    from sweep.spec import RuntimeOptions, SweepSpec
    from sweep.watch.terminal import Reporter

    spec = SweepSpec(
        dataset=dataset,
        dataset_config=dataset_config,
        label_column=label_column,
        lora_rank=lora_rank,
        skip_bad_samples=skip_bad_samples,
        **_representations(representations),
    )
    options = RuntimeOptions(
        cache_dir=cache_dir, address=address, dashboard=False, verbose=verbose, verify=verify
    )
    with Reporter(file=sys.stderr if as_json else None) as reporter:
        report = features_only(spec, options, reporter)
    if as_json:
        typer.echo(json.dumps(report))
        return
    for name, path in report["representations"].items():
        made = "computed" if name in report["computed"] else "cached"
        typer.echo(f"{name:15} {made:9} {path}")


@data.command(epilog="Example: lorasweep data sanity /tmp/sanity --samples 5 --classes 3")
@guarded
def sanity(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    samples: Annotated[int, typer.Option(help="Adapters per class.")] = 5,
    classes: Annotated[int, typer.Option(help="Classes.")] = 3,
    seed: Annotated[int, typer.Option(help="Decides every number.")] = 0,
) -> None:
    """A small set whose classes have means ten standard deviations apart."""
    from zoo.sanity import make_sanity

    typer.echo(make_sanity(out, samples=samples, classes=classes, seed=seed))


@data.command(epilog="Example: lorasweep data synthetic /tmp/synthetic --samples 5000")
@guarded
def synthetic(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    samples: Annotated[int, typer.Option(help="Adapters in all.")],
    classes: Annotated[int, typer.Option(help="Classes.")] = 10,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides every number.")] = 0,
) -> None:
    """Random adapters with the layer shapes of Stable Diffusion 1.5 and a weak class signal."""
    from sweep.watch.terminal import Reporter
    from zoo.synthetic import make_synthetic

    with Reporter() as reporter:
        folder = make_synthetic(
            out,
            samples=samples,
            classes=classes,
            rank=rank,
            seed=seed,
            on_progress=lambda done, total: reporter.progress("making", done, total, "adapters"),
        )
    typer.echo(folder)


@data.command(epilog="Example: lorasweep data zoo /tmp/zoo --size 20 --steps 10")
@guarded
def zoo(
    out: Annotated[Path, typer.Argument(help="Folder for base, adapters and dataset.")],
    size: Annotated[int, typer.Option(help="Adapters.")] = 300,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 1,
    targets: Annotated[
        str, typer.Option(help="Comma-separated: to_q, to_k, to_v, to_out.0.")
    ] = "to_q,to_k",
    steps: Annotated[int, typer.Option(help="Fine-tuning steps of an adapter.")] = 50,
    seed: Annotated[int, typer.Option(help="Decides every number.")] = 0,
) -> None:
    """Train real adapters of a small diffusion model of digits, one class each."""
    from sweep.watch.terminal import Reporter
    from zoo.adapters import make_zoo

    with Reporter() as reporter:
        folder = make_zoo(
            out,
            size=size,
            rank=rank,
            targets=_names(targets),
            steps=steps,
            seed=seed,
            on_progress=lambda done, total: reporter.progress("training", done, total, "adapters"),
        )
    typer.echo(folder)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _representations(text: str | None) -> dict[str, Any]:
    return {} if text is None else {"representations": _names(text)}


def _pairs(text: str | None) -> tuple[tuple[str, str], ...] | None:
    if text is None:
        return None
    pairs = []
    for pair in _names(text):
        representation, colon, classifier = pair.rpartition(":")
        if not colon or not representation:
            raise UserError(f"--pairs {pair!r}: need REPRESENTATION:CLASSIFIER")
        pairs.append((representation, classifier))
    return tuple(pairs)


def _settings(changed: dict[str, Any], assigned: list[str]) -> dict[str, dict[str, Any]]:
    """Classifier -> setting -> value, from the options that differ and from --set."""
    settings: dict[str, dict[str, Any]] = {}
    for name, value in changed.items():
        classifier, _, setting = name.partition(".")
        settings.setdefault(classifier, {})[setting] = value
    for text in assigned:
        name, equals, value = text.partition("=")
        classifier, dot, setting = name.partition(".")
        if not (equals and dot and setting):
            raise UserError(f"--set {text!r}: need CLASSIFIER.SETTING=VALUE")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        settings.setdefault(classifier, {})[setting] = parsed
    return settings


def _gpus(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--gpus-per-trial {text!r} is neither 'auto' nor a number") from None


def main() -> None:
    """Entry point of the `lorasweep` command."""
    app(prog_name="lorasweep")


if __name__ == "__main__":
    main()
