"""The command line: parses, calls `sweep` and `zoo`, prints. No logic of its own."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import Field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lorasweep.features.common.errors import UserError
from lorasweep.sweep.process.supervisor import RayDiedError, enable, supervised
from lorasweep.sweep.request.import_options import ImportOptions
from lorasweep.sweep.request.options import Option, as_names, flag_of, options_of, read_typed
from lorasweep.sweep.request.spec import (
    QUICK_ANSWER,
    QUICK_RUNS,
    RuntimeOptions,
    SweepSpec,
    assigned,
    merged,
)
from lorasweep.trainables.classifiers.catalogue import built_in_settings, setting_option

app = typer.Typer(
    name="lorasweep",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Which representation of LoRA weights predicts what they were trained on, and in which "
    "layers? Trains a small classifier for every representation × layer config × seed.",
)
data = typer.Typer(no_args_is_help=True, help="Make datasets of adapters.")
app.add_typer(data, name="data")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
RunDirArgument = Annotated[Path, typer.Argument(help="Run directory.")]

ConfigOption = Annotated[str | None, typer.Option("--config", help="Layer config.")]
RepresentationOption = Annotated[
    str | None, typer.Option("--representation", help="Representation, with its transform.")
]
ClassifierOption = Annotated[str | None, typer.Option("--classifier", help="Classifier.")]


def _disk_error(error: BaseException | None) -> OSError | None:
    """The full, failing or forbidden disk behind an error, if that is what it comes from.

    Tune wraps what its callbacks raise.
    """
    from lorasweep.features.common.files import is_disk_error

    while error is not None:
        if isinstance(error, OSError) and is_disk_error(error):
            return error
        error = error.__cause__ or error.__context__
    return None


def with_exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """A user's mistakes become one line and exit code 2, an interruption exit code 130, a full,
    failing or forbidden disk one line and exit code 1."""

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
        except RayDiedError as error:
            typer.echo(f"error: {error}: give the same command again", err=True)
            raise typer.Exit(1) from None
        except Exception as error:
            disk = _disk_error(error)
            if disk is None:
                raise
            where = f" ({disk.filename})" if disk.filename else ""
            typer.echo(
                f"error: the disk says: {disk.strerror}{where}; what is finished is kept: "
                "mend that and give the same command again",
                err=True,
            )
            raise typer.Exit(1) from None

    return run


def restart_if_ray_dies(command: Callable[..., None]) -> Callable[..., None]:
    """The command is started again where Ray died."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        supervised(lambda: command(*args, **kwargs))

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


# Options from declarations

Given = dict[str, Any]
"""Field -> value, of what was typed; what was left out is not there."""


def with_options(
    *kinds: type,
    only: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    settings: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every field of some dataclasses, as declared there, `only` some
    or `without` some, and, with `settings`, for every setting of every built-in classifier.

    The command gets `given`: the fields that were typed; settings under "settings".
    """
    found = {name: o for kind in kinds for name, o in options_of(kind).items()}
    shared = {n: o for n, o in found.items() if n not in without and (not only or n in only)}
    own = {f"{c.name}__{f.name}": (c.name, f) for c, f in built_in_settings() if settings}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(context: typer.Context, **typed: Any) -> None:
            def said(name: str) -> bool:
                source = context.get_parameter_source(name)
                return source is not None and source.name != "DEFAULT"

            given: Given = {
                name: read_typed(name, option, typed[name])
                for name, (_, option) in shared.items()
                if said(name)
            }
            changed: dict[str, dict[str, Any]] = {}
            for name, (classifier, setting) in own.items():
                if said(name):
                    changed.setdefault(classifier, {})[setting.name] = typed[name]
            if changed:
                given["settings"] = changed
            rest = {n: v for n, v in typed.items() if n not in shared and n not in own}
            command(given=given, **rest)

        parameters = [
            inspect.Parameter("context", _KEYWORD, annotation=typer.Context),
            *(_parameter(name, field, option) for name, (field, option) in shared.items()),
            *(
                parameter.replace(kind=_KEYWORD)
                for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
                if name != "given"
            ),
            *(_setting_parameter(name, *setting) for name, setting in own.items()),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_QUICK_ANSWER = ", ".join(":".join(pair) for pair in QUICK_ANSWER)


def _parameter(name: str, field: Field[Any], option: Option) -> inspect.Parameter:
    """A field as Typer wants to have it."""
    flag, default = flag_of(name), field.default
    if option.kind is bool and not option.only_on:
        flag = f"{flag}/{flag_of('no_' + name)}"
    shown: bool | str = True if option.shown_default is None else option.shown_default or False
    if option.kind is str and option.show(default) != "None":
        default = option.show(default)
    info = typer.Option(
        flag, help=option.help, show_default=shown, autocompletion=_completion(option.known)
    )
    kind: Any = list[str] if option.kind is list else option.kind
    if default is None or option.kind is list:
        default, kind = None, kind | None
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=Annotated[kind, info])


def _setting_parameter(name: str, classifier: str, field: Field[Any]) -> inspect.Parameter:
    info = typer.Option(
        setting_option(classifier, field), help=f"{classifier}: {field.metadata['help']}."
    )
    kind = type(field.default)
    return inspect.Parameter(
        name, _KEYWORD, default=field.default, annotation=Annotated[kind, info]
    )


def _completion(known: Callable[[], Iterable[str]] | None) -> Callable[[str], list[str]] | None:
    """Completes the last of comma-separated names."""
    if known is None:
        return None

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + name for name in known() if name.startswith(last)]

    return complete


@app.command(
    epilog="Example: lorasweep run --dataset examples/digits-zoo --num-runs 3. "
    "The same command again resumes."
)
@restart_if_ray_dies
@with_exit_codes
@with_options(SweepSpec, RuntimeOptions, settings=True)
def run(
    given: Given,
    sweep: Annotated[
        Path | None,
        typer.Argument(
            metavar="SWEEP.YAML",
            help="YAML file with the same fields; what is typed here comes before what it says.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Three seeds.")] = False,
    quick_answer: Annotated[
        bool,
        typer.Option(
            "--quick-answer", help=f"Three seeds of the pairs that decide most: {_QUICK_ANSWER}."
        ),
    ] = False,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="CLASSIFIER.SETTING=VALUE, of any classifier; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would run.")] = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="With --dry-run: print the sweep as a YAML file.")
    ] = False,
) -> None:
    """Run the sweep, or what remains of it."""
    from lorasweep.sweep.request.yaml_file import read_yaml, write_yaml

    fields = read_yaml(sweep) if sweep else {}
    settings = merged(fields.get("settings", {}), given.get("settings", {}), assigned(assign or []))
    fields |= given
    if {"representations", "classifiers"} & given.keys() and "pairs" not in given:
        fields["pairs"] = None  # the file's
    if quick or quick_answer:
        fields["num_runs"] = QUICK_RUNS
    if quick_answer:
        if {"representations", "classifiers", "pairs"} & fields.keys():
            raise UserError(
                "--quick-answer chooses the pairs: leave --representations, --classifiers and "
                "--pairs out"
            )
        fields["pairs"] = QUICK_ANSWER
    spec = SweepSpec(**_of(SweepSpec, fields), settings=settings)
    options = RuntimeOptions(**_of(RuntimeOptions, fields))
    if as_yaml:
        if not dry_run:
            raise UserError("--yaml goes with --dry-run")
        spec.validate()
        options.validate()
        typer.echo(write_yaml(spec, options), nl=False)
        return
    _run(spec, options, dry_run=dry_run)


@app.command(epilog="Example: lorasweep restore ray_results/digits-zoo")
@restart_if_ray_dies
@with_exit_codes
@with_options(RuntimeOptions, without=("output_dir", "name"))
def restore(
    given: Given,
    run_dir: Annotated[Path, typer.Argument(help="Run directory of an interrupted sweep.")],
    dataset: Annotated[
        str | None, typer.Option(help="Where the same dataset lies now, if it was moved.")
    ] = None,
) -> None:
    """Continue an interrupted sweep from what its run directory says. Its feature cache and which
    models it keeps are the run's unless --cache-dir and --save-models say otherwise."""
    from lorasweep.sweep.store.sweep_file import read_sweep_file

    run_dir = run_dir.absolute()
    sweep = read_sweep_file(run_dir)
    spec = sweep.spec()
    if dataset is not None:
        spec = replace(spec, dataset=dataset)
    known: dict[str, Any] = {"cache_dir": Path(sweep.environment["cache_dir"])}
    if "save_models" in sweep.environment:
        known["save_models"] = sweep.environment["save_models"]
    options = RuntimeOptions(output_dir=run_dir.parent, name=run_dir.name, **{**known, **given})
    _run(spec, options)


def _run(spec: Any, options: Any, *, dry_run: bool = False) -> None:
    from lorasweep.sweep.driver.launch import run_sweep
    from lorasweep.sweep.watch.terminal import Reporter
    from lorasweep.trainables.store.run_dir import RunDir

    with Reporter() as reporter:
        if dry_run:
            from lorasweep.sweep.driver.dry_run import describe

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
@with_exit_codes
def status(
    run_dir: RunDirArgument,
    as_json: AsJson = False,
    follow: Annotated[
        bool, typer.Option("--watch", help="Look again and again, until the run is over.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 2.0,
) -> None:
    """Say how far a sweep is, while it runs or after it ended."""
    from lorasweep.sweep.watch.status import read_status, watch

    if follow and not as_json:
        # Whoever stops watching stops nothing else.
        with contextlib.suppress(KeyboardInterrupt):
            watch(run_dir, every)
        return
    found = read_status(run_dir)
    typer.echo(json.dumps(found.to_json()) if as_json else "\n".join(found.lines()))


@app.command(epilog="Example: lorasweep dashboard ray_results/digits-zoo --open")
@with_exit_codes
def dashboard(
    run_dir: Annotated[Path, typer.Argument(help="Run directory of a run that is under way.")],
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Say where the Ray dashboard of a running sweep is, and how to log in."""
    from lorasweep.sweep.watch.prometheus import read_targets
    from lorasweep.sweep.watch.status import read_status

    found = read_status(run_dir)
    if found.driver is None or not found.alive:
        raise UserError(f"{run_dir}: no driver is running, so there is no dashboard")
    if found.dashboard is None:
        raise UserError(f"{run_dir}: its driver has no dashboard (yet, or for --no-dashboard)")
    typer.echo(found.dashboard)
    host = found.driver.get("host", "its host")  # a damaged lock does not say
    typer.echo(
        f"It listens on loopback of {host} only; from elsewhere, forward its port "
        "with ssh -L.\nIt asks for a token: `ray get-auth-token` on that host prints it."
    )
    for target in read_targets(run_dir):
        typer.echo(f"metrics: http://{target}/metrics (no token)")
    if show:
        typer.launch(found.dashboard)


@app.command(epilog="Example: lorasweep report ray_results/digits-zoo --open")
@with_exit_codes
def report(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(help="Run directory; several are compared by dataset size."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; by default RUN_DIR/report.")
    ] = None,
    formats: Annotated[
        str, typer.Option(help="Files of each figure: png, pdf, both, or none but the page.")
    ] = "png,pdf",
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Write figures, tables and a page about a sweep, finished or not."""
    from lorasweep.sweep.report.build import make_report
    from lorasweep.sweep.report.style import read_formats
    from lorasweep.sweep.watch.terminal import Reporter

    with Reporter() as reporter:
        page = make_report(
            run_dirs,
            out,
            on_progress=lambda done, total: reporter.progress("drawing", done, total, "figures"),
            formats=read_formats(formats),
        )
    typer.echo(page)
    if show:
        typer.launch(page.as_uri())


@app.command(epilog="Example: lorasweep features --dataset examples/digits-zoo --json")
@restart_if_ray_dies
@with_exit_codes
@with_options(
    SweepSpec,
    RuntimeOptions,
    only=(
        *("dataset", "dataset_config", "label_column", "lora_rank", "skip_bad_samples"),
        *("labels", "min_coverage", "base", "checkpoints"),
        *("representations", "cache_dir", "address", "verbose", "verify"),
    ),
)
def features(given: Given, as_json: AsJson = False) -> None:
    """Compute and cache features without training anything."""
    from lorasweep.sweep.engine.feature_stage import features_only
    from lorasweep.sweep.watch.terminal import Reporter

    spec = SweepSpec(**_of(SweepSpec, given))
    options = RuntimeOptions(dashboard=False, **_of(RuntimeOptions, given))
    with Reporter(file=sys.stderr if as_json else None) as reporter:
        report = features_only(spec, options, reporter)
    if as_json:
        typer.echo(json.dumps(report))
        return
    for name, path in report["representations"].items():
        made = "computed" if name in report["computed"] else "cached"
        typer.echo(f"{name:15} {made:9} {path}")


@app.command(epilog="Example: lorasweep layers examples/digits-zoo")
@with_exit_codes
@with_options(
    SweepSpec,
    RuntimeOptions,
    only=(
        *("dataset_config", "lora_rank", "skip_bad_samples"),
        *("labels", "min_coverage", "base", "checkpoints"),
        *("configs", "config_regex", "cache_dir"),
    ),
)
def layers(
    given: Given,
    dataset: Annotated[str, typer.Argument(help="Dataset, as for run; it needs no labels.")],
    as_json: AsJson = False,
) -> None:
    """List a dataset's layers, and which layer configs have them: all built-in ones, or those of
    --configs."""
    from lorasweep.sweep.look.layer_table import read_layer_table
    from lorasweep.sweep.watch.terminal import Reporter

    spec = SweepSpec(dataset, **_of(SweepSpec, given))
    options = RuntimeOptions(**_of(RuntimeOptions, given))
    with Reporter(file=sys.stderr) as reporter:
        found = read_layer_table(spec, options, reporter)
    typer.echo(json.dumps(found.to_json()) if as_json else "\n".join(found.lines()))


@app.command("inspect", epilog="Example: lorasweep inspect lora.safetensors --json")
@with_exit_codes
@with_options(SweepSpec, RuntimeOptions, only=("label_column", "lora_rank", "cache_dir"))
def inspect_(
    given: Given,
    path: Annotated[
        str, typer.Argument(help="Adapter, folder of adapters, dataset or run directory.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say what an adapter file, a folder of them, a dataset or a run directory is."""
    from lorasweep.sweep.look.inspection import inspect_path
    from lorasweep.sweep.watch.terminal import Reporter

    spec, options = SweepSpec(**_of(SweepSpec, given)), RuntimeOptions(**_of(RuntimeOptions, given))
    with Reporter(file=sys.stderr) as reporter:
        found = inspect_path(
            path,
            spec.label_column,
            spec.lora_rank,
            options.cache_dir,
            lambda done, total: reporter.progress("looking", done, total, "adapters"),
        )
    typer.echo(json.dumps(found.to_json()) if as_json else "\n".join(found.lines()))


@app.command(epilog="Example: lorasweep export ray_results/digits-zoo model")
@with_exit_codes
@with_options(RuntimeOptions, without=("output_dir", "name", "save_models", "log_to"))
def export(
    given: Given,
    run_dir: RunDirArgument,
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    config: ConfigOption = None,
    representation: RepresentationOption = None,
    classifier: ClassifierOption = None,
    big: Annotated[
        bool, typer.Option("--yes", help="Also models that take more than 500 MB.")
    ] = False,
) -> None:
    """Write the best models of a sweep, of every layer config or of what is named, with a model
    card, into a folder that is all that `predict` needs. Those that are missing are trained."""
    from lorasweep.sweep.driver.export import export_models
    from lorasweep.sweep.store.sweep_file import read_sweep_file
    from lorasweep.sweep.watch.terminal import Reporter

    run_dir = run_dir.absolute()
    known = {"cache_dir": Path(read_sweep_file(run_dir).environment["cache_dir"])}
    options = RuntimeOptions(dashboard=False, **{**known, **given})
    with Reporter() as reporter:
        found = export_models(
            run_dir,
            out,
            options,
            reporter,
            config=config,
            representation=representation,
            classifier=classifier,
            big=big,
        )
    for model in found:
        typer.echo(
            f"{'/'.join(model.cell)}  {model.path}  {model.path.stat().st_size / 1e6:,.1f} MB"
        )


@app.command(
    epilog="Example: lorasweep predict ray_results/digits-zoo adapters --fail-on cats:0.8. Exit "
    "code 3: an adapter is of that class, or cannot be judged."
)
@with_exit_codes
def predict(
    folder: Annotated[Path, typer.Argument(help="Run directory, or folder of an export.")],
    adapters: Annotated[
        list[str], typer.Argument(help="Adapter files, folders of them, datasets.")
    ],
    config: ConfigOption = None,
    representation: RepresentationOption = None,
    classifier: ClassifierOption = None,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average the probabilities of all seeds.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON list and nothing else.")
    ] = False,
    as_csv: Annotated[Path | None, typer.Option("--csv", help="Also write a CSV file.")] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS[:THRESHOLD]",
            help="Exit with code 3 if an adapter is of this class with at least this probability "
            "(0.5), or cannot be judged. May be given several times, for several classes.",
        ),
    ] = None,
    run_plugins: Annotated[
        bool, typer.Option("--run-plugins", help="Execute code that came with the model.")
    ] = False,
    cache_dir: Annotated[
        Path, typer.Option(help="Root of memos about hub datasets.")
    ] = RuntimeOptions.cache_dir,
) -> None:
    """Say what adapters were trained on: class, calibrated probability, and how unlike the training
    adapters they are."""
    from lorasweep.features.common.files import write_text
    from lorasweep.sweep.models import predict as models
    from lorasweep.sweep.watch.terminal import Reporter

    chosen = models.choose_model(models.find_models(folder), config, representation, classifier)
    thresholds = [models.Threshold.parse(text, chosen.classes) for text in fail_on or ()]
    with Reporter(file=sys.stderr) as reporter:
        found = models.predict(
            folder,
            chosen,
            adapters,
            ensemble=ensemble,
            run_plugins=run_plugins,
            memo=cache_dir,
            on_progress=lambda done, total: reporter.progress("judging", done, total, "adapters"),
        )
    if as_csv:
        write_text(as_csv, models.as_csv(found, chosen.classes))
    said = [verdict.to_json(chosen.classes) for verdict in found]
    typer.echo(json.dumps(said) if as_json else models.table(found, chosen.classes))
    if any(threshold.fails(verdict) for threshold in thresholds for verdict in found):
        raise typer.Exit(3)
    if len(found) == 1 and found[0].problem:
        raise UserError(f"{found[0].adapter}: {found[0].problem}")


@data.command("import", epilog="Example: lorasweep data import adapters dataset --labels folder")
@restart_if_ray_dies
@with_exit_codes
@with_options(
    ImportOptions, RuntimeOptions, only=(*options_of(ImportOptions), "address", "verbose")
)
def import_(
    given: Given,
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of adapters, as people have them.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder of the dataset to make.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show classes and examples; write nothing.")
    ] = False,
) -> None:
    """Make a dataset of adapter files: of diffusers, PEFT, kohya, LyCORIS. The same command again
    resumes."""
    from lorasweep.sweep.imports.run import describe_import, import_adapters
    from lorasweep.sweep.watch.terminal import Reporter

    runtime = RuntimeOptions(dashboard=False, **_of(RuntimeOptions, given))
    options = ImportOptions(**_of(ImportOptions, given))
    with Reporter() as reporter:
        if dry_run:
            describe_import(folders, options, reporter)
        else:
            import_adapters(folders, out, options, runtime, reporter)


@data.command(epilog="Example: lorasweep data sanity /tmp/sanity --samples 5 --classes 3")
@with_exit_codes
def sanity(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    samples: Annotated[int, typer.Option(help="Adapters per class.")] = 5,
    classes: Annotated[int, typer.Option(help="Classes.")] = 3,
    seed: Annotated[int, typer.Option(help="Decides every number.")] = 0,
) -> None:
    """A small set whose classes have means ten standard deviations apart."""
    from lorasweep.zoo.random.sanity import make_sanity

    typer.echo(make_sanity(out, samples=samples, classes=classes, seed=seed))


@data.command(epilog="Example: lorasweep data synthetic /tmp/synthetic --samples 5000")
@with_exit_codes
def synthetic(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    samples: Annotated[int, typer.Option(help="Adapters in all.")],
    classes: Annotated[int, typer.Option(help="Classes.")] = 10,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 1,
    seed: Annotated[int, typer.Option(help="Decides every number.")] = 0,
) -> None:
    """Random adapters with the layer shapes of Stable Diffusion 1.5 and a weak class signal."""
    from lorasweep.sweep.watch.terminal import Reporter
    from lorasweep.zoo.random.synthetic import make_synthetic

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
@with_exit_codes
def zoo(
    out: Annotated[Path, typer.Argument(help="Folder for base, adapters and dataset.")],
    size: Annotated[int, typer.Option(help="Adapters.")] = 300,
    rank: Annotated[int, typer.Option(help="LoRA rank.")] = 1,
    targets: Annotated[
        str, typer.Option(help="Comma-separated: to_q, to_k, to_v, to_out.0.")
    ] = "to_q,to_k",
    steps: Annotated[int, typer.Option(help="Fine-tuning steps of an adapter.")] = 50,
    prompt: Annotated[
        str, typer.Option(help="Prompt of an adapter's training: none, or class, its own class's.")
    ] = "none",
    pools: Annotated[
        bool,
        typer.Option(
            "--pools", help="Train every third adapter on images that no other one has: for test."
        ),
    ] = False,
    half: Annotated[bool, typer.Option("--half", help="Write weights as float16.")] = False,
    seed: Annotated[int, typer.Option(help="Decides every number.")] = 0,
) -> None:
    """Train real adapters of a small diffusion model of digits, one class each."""
    from lorasweep.sweep.watch.terminal import Reporter
    from lorasweep.zoo.digits.adapters import make_zoo

    with Reporter() as reporter:
        folder = make_zoo(
            out,
            size=size,
            rank=rank,
            targets=as_names(targets),
            steps=steps,
            seed=seed,
            prompt=prompt,
            pools=pools,
            half=half,
            on_progress=lambda done, total: reporter.progress("training", done, total, "adapters"),
        )
    typer.echo(folder)


def _of(kind: type, fields: Given) -> Given:
    """Those of some fields that are a dataclass's options."""
    return {name: value for name, value in fields.items() if name in options_of(kind)}


def main() -> None:
    """Entry point of the `lorasweep` command."""
    enable()
    app(prog_name="lorasweep")


if __name__ == "__main__":
    main()
