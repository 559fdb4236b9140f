"""Measure what docs/performance.md promises: python -m benchmarks [NAME …].

Prints one table: what, measured, the bar, their ratio (above 1: missed).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Before NumPy and torch: every process works with one thread, as the tool's own do.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

from benchmarks.measure import lorasweep  # noqa: E402
from lorasweep.trainables.store.run_dir import RunDir  # noqa: E402

_ROOT = Path(__file__).parents[1]
PROCESSES = len(os.sched_getaffinity(0))


@dataclass
class Row:
    """One line of the table."""

    what: str
    measured: float
    bar: float
    unit: str
    note: str = ""

    def __str__(self) -> str:
        ratio = self.measured / self.bar
        figures = f"{self.measured:9.3g} {self.unit:8} {self.bar:8.3g} {ratio:6.2f}"
        return f"{self.what:44} {figures}  {self.note}"


HEADER = f"{'what':44} {'measured':>9} {'unit':8} {'bar':>8} {'ratio':>6}"


def features(options: argparse.Namespace, work: Path, rank: int = 1) -> Iterator[Row]:
    """The feature stage against one sort and one FFT of every matrix."""
    from benchmarks.floor import measure_floor
    from lorasweep.zoo.random.synthetic import synthetic_shapes

    samples = max(16, options.samples // rank)
    dataset = _synthetic(options, work, samples, rank)
    stages, waits, floors, hashing = [], [], [], []
    for _ in range(options.repeat):
        floors.append(measure_floor(dataset, synthetic_shapes(rank), PROCESSES))
        cache = work / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        run = lorasweep("features", "--dataset", dataset, "--cache-dir", cache, "--json")
        told = json.loads(run.output)
        stages.append(told["seconds"] - told["waited"])
        waits.append(told["waited"])
        hashing.append(run.seconds - told["seconds"])
    floor = statistics.median(floors)
    yield Row(
        f"features: {samples:,} adapters of rank {rank}",
        statistics.median(stages) / floor,
        2.0,
        "× floor",
        f"stage {statistics.median(stages):.1f} s, floor {floor:.1f} s; besides: workers' start "
        f"{statistics.median(waits):.1f} s, Ray's start and the dataset's hash "
        f"{statistics.median(hashing):.1f} s",
    )


def features16(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """The same at rank 16."""
    yield from features(options, work, rank=16)


def updates(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """The stage with singular values and sketches of whole updates, against the nine alone."""
    more = "nine,update_spectrum,update_sketch:128"
    for rank in (1, 16):
        samples = max(16, options.samples // rank)
        dataset = _synthetic(options, work, samples, rank)
        least = _least_stages(options, work, dataset, "nine", more)
        yield Row(
            f"update features: {samples:,} adapters of rank {rank}",
            least[more] / least["nine"],
            1.5,
            "× nine",
            f"{least[more]:.1f} s, the nine alone {least['nine']:.1f} s; least of {options.repeat} "
            "each",
        )


def wide(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """What is as large as the adapters themselves: one and a half times the stage with the nine
    alone, and writing as many bytes."""
    from benchmarks.measure import disk_rate

    for rank in (1, 16):
        samples = max(16, options.samples // rank // 4)
        dataset = _synthetic(options, work, samples, rank)
        # Norms take (m + n)/r(m + n) of what the adapters take, canonical factors all of it.
        size = sum(path.stat().st_size for path in dataset.rglob("*.arrow"))
        names = {"channel_norms": size // rank, "canonical": size}
        least = _least_stages(options, work, dataset, "nine", *(f"nine,{name}" for name in names))
        rate = disk_rate(work / "written", size)
        for name, written in names.items():
            yield Row(
                f"{name}: {samples:,} adapters of rank {rank}",
                least[f"nine,{name}"],
                1.5 * least["nine"] + written / rate,
                "s",
                f"the nine alone {least['nine']:.1f} s, {written / 1e9:.2f} GB at "
                f"{rate / 1e9:.2f} GB/s",
            )


def _least_stages(
    options: argparse.Namespace, work: Path, dataset: Path, *representations: str
) -> dict[str, float]:
    """Least seconds of the stage for each choice of representations, in turn."""
    stages: dict[str, list[float]] = {names: [] for names in representations}
    for names in list(stages) * options.repeat:
        cache = work / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        arguments = ("--dataset", dataset, "--cache-dir", cache, "--representations", names)
        told = json.loads(lorasweep("features", *arguments, "--json").output)
        stages[names].append(told["seconds"] - told["waited"])
    return {names: min(seconds) for names, seconds in stages.items()}


def products(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """Inner products of updates with 4,096 landmarks, against a bare matrix product."""
    from benchmarks.products import LANDMARKS, measure_products

    dataset = _synthetic(options, work, 6_000, 1)
    found, bare = measure_products(dataset, work, options.repeat)
    yield Row(
        f"update_pca: inner products with {LANDMARKS:,} landmarks",
        bare / found,
        1 / 0.8,
        "× bare",
        f"{found / 1e9:.0f} GFLOP/s, a bare float32 product {bare / 1e9:.0f}; one thread",
    )


def scale(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """All 50,000 adapters: time, memory, and how time grows."""
    per_adapter = {}
    for samples in (5_000, 50_000):
        dataset = _synthetic(options, work, samples, 1)
        cache = work / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        run = lorasweep(
            "features", "--dataset", dataset, "--cache-dir", cache, "--json", watch=True
        )
        per_adapter[samples] = json.loads(run.output)["seconds"] / samples
    size = sum(path.stat().st_size for path in cache.rglob("*.arrow")) / 1e9
    yield Row("features: 50,000 adapters, whole command", run.seconds, 300, "s", f"{size:.2f} GB")
    yield Row("features: peak memory of all processes", max(run.all_mb) / 1024, 6, "GiB")
    yield Row(
        "features: time per adapter, 50,000 ÷ 5,000",
        per_adapter[50_000] / per_adapter[5_000],
        1.2,
        "×",
        " and ".join(f"{1e3 * value:.2f} ms" for value in per_adapter.values()),
    )


def training(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """A training step against its bare matrix products, BatchNorm and Adam update."""
    import torch

    from benchmarks.training import measure_bare_step, measure_step
    from lorasweep.features.common.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    for width in (640, 1792, 8576):
        bare = measure_bare_step(width, 200)
        step = measure_step(width, options.rows)
        yield Row(
            f"training step, {width} features",
            step / bare,
            1.3,
            "× bare",
            f"{1e3 * step:.2f} ms, bare {1e3 * bare:.2f} ms",
        )


def linear(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """A whole linear trial, all strengths, as wide as the widest representation."""
    from benchmarks.linear import WIDTH, measure_linear

    seconds, gib, note = measure_linear(options.rows)
    yield Row(f"linear: {options.rows:,} × {WIDTH:,}", seconds, 380, "s", note)
    yield Row("linear: peak memory of the process", gib, 12, "GiB")


def imports(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """Adapter files to a dataset, one process, from a warm page cache."""
    from benchmarks.imports import measure_import, write_adapters

    folder = write_adapters(work / "adapters", 2_000)
    speeds = [measure_import(folder, work) for _ in range(options.repeat)]
    bare, look, shard = (
        statistics.median(getattr(speed, name) for speed in speeds)
        for name in ("bare", "look", "shard")
    )
    yield Row(
        "import: an SD 1.5 adapter of rank 1",
        look + shard,
        1e3 / 300,
        "ms",
        f"looked at in {look:.2f} ms, read and written in {shard:.2f} ms; safetensors alone reads "
        f"it in {bare:.2f} ms",
    )


def inspect(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """What one adapter file is: a whole process."""
    from benchmarks.imports import write_adapters

    folder = write_adapters(work / "one-adapter", 1)
    (path,) = folder.rglob("*.safetensors")
    times = [lorasweep("inspect", path, "--json").seconds for _ in range(5)]
    yield Row("inspect: an SD 1.5 adapter of rank 1", statistics.median(times), 1, "s")


def predict(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """Adapter files to verdicts: a whole process on one core, its start included."""
    from benchmarks.imports import write_adapters
    from benchmarks.predictions import PAIRS, train_models

    count = 2_000
    folder = write_adapters(work / "adapters", count)
    run_dir = train_models(folder, work)
    for representation, classifier in PAIRS:
        chosen = ("--representation", representation, "--classifier", classifier)
        seconds = statistics.median(
            lorasweep("predict", run_dir, folder, "--json", *chosen, one_core=True).seconds
            for _ in range(options.repeat)
        )
        yield Row(
            f"predict: an SD 1.5 adapter, {representation}:{classifier}",
            1e3 * seconds / count,
            60.0,
            "ms",
            f"{60 * count / seconds:,.0f} a minute, of {count:,}",
        )


def overhead(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """What a trial costs besides its own work, and whether the driver grows."""
    seeds = -(-options.trials // 18)
    run = _sweep_sanity(work, "--num-runs", seeds, "--epochs", 1, watch=True)
    events = _events(work / "runs" / "sanity")
    yield _overhead_row(events, 60)
    # Between the first hundred trials, when all is imported, and the last.
    times = sorted(event["time"] for event in events if event["event"] == "trial_finished")
    sizes = [mb for at, mb in run.driver_mb if times[99] < at < times[-1]]
    yield Row(
        f"growth of the driver over {len(times) - 100} trials",
        max(sizes) - sizes[0],
        60,
        "MB",
        f"from {sizes[0]:.0f} to {max(sizes):.0f} MB",
    )


def layers(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """Every layer of the shipped adapters alone, three representations, three seeds."""
    lorasweep(
        *("run", "--dataset", _ROOT / "examples/digits-zoo", "--configs", "each_layer"),
        *("--representations", "spectral,matrix_norms,channel_norms", "--num-runs", 3),
        *("--output-dir", work / "layers", "--name", "layers", "--cache-dir", work / "cache"),
    )
    yield _overhead_row(_events(work / "layers" / "layers"), 10)


def marks(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """Ray's own marks: a sweep that is interrupted over and over, and 10,000 trials that sleep."""
    from benchmarks.marks import (
        SECONDS,
        STEPS,
        TOGETHER,
        TRIALS,
        bookkeeping,
        restore_lorasweep,
        restore_tune,
    )

    dataset = work / "sanity"
    if not dataset.exists():
        lorasweep("data", "sanity", dataset)
    asleep = TRIALS * STEPS * SECONDS / TOGETHER
    for what, restore in (
        ("bare Tune", restore_tune),
        ("lorasweep", lambda *of: restore_lorasweep(of[0], dataset, of[1])),
    ):
        whole, cut = restore(work, None), restore(work, 0)
        yield Row(
            f"interrupted every 3 to 5 s: {what}",
            cut.seconds / whole.seconds,
            1.5,
            "×",
            f"{cut.seconds:.0f} s in {cut.starts} starts, {whole.seconds:.0f} s undisturbed, "
            f"{asleep:.0f} s of them asleep",
        )
    cost = bookkeeping(work, dataset, options.sleepers, 1.0, 16)
    yield Row(f"one of {options.sleepers:,} sleeping trials", cost.milliseconds, 17.5, "ms")
    yield Row("by which the driver grows a trial", cost.kilobytes, 60, "kB")


def _overhead_row(events: list[dict], bar: float) -> Row:
    finished = [event for event in events if event["event"] == "trial_finished"]
    began = min(event["time"] for event in events if event["event"] == "trial_started")
    wall = max(event["time"] for event in finished) - began
    own = sum(event["seconds"] for event in finished) / PROCESSES
    return Row(
        f"overhead of one of {len(finished):,} trials",
        1e3 * (wall - own) / len(finished),
        bar,
        "ms",
        f"wall {wall:.1f} s, own work {own:.1f} s on {PROCESSES} slots",
    )


def sanity(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """180 trials from a cold start."""
    times = [_sweep_sanity(work, "--num-runs", 10).seconds for _ in range(options.repeat)]
    yield Row("sanity set: 180 trials, cold start", statistics.median(times), 30, "s")


def startup(options: argparse.Namespace, work: Path) -> Iterator[Row]:
    """Commands that have nothing to do."""
    run_dir = work / "runs" / "sanity"
    if not RunDir(run_dir).sweep.exists():
        _sweep_sanity(work, "--num-runs", 10)
    again = json.loads(RunDir(run_dir).sweep.read_text())["environment"]["command"]
    commands: list[tuple[str, list[str], float]] = [
        ("--help", ["--help"], 0.3),
        ("status", ["status", str(run_dir)], 0.5),
        ("a run with nothing left to do", again[1:] if isinstance(again, list) else [], 1.0),
    ]
    for what, arguments, bar in commands:
        times = [lorasweep(*arguments).seconds for _ in range(5)]
        yield Row(f"start-up: {what}", statistics.median(times), bar, "s")


def _sweep_sanity(work: Path, *arguments: object, watch: bool = False):  # type: ignore[no-untyped-def]
    shutil.rmtree(work / "runs", ignore_errors=True)
    shutil.rmtree(work / "cache", ignore_errors=True)
    dataset = work / "sanity"
    if not dataset.exists():
        lorasweep("data", "sanity", dataset)
    places = ("--output-dir", work / "runs", "--name", "sanity", "--cache-dir", work / "cache")
    return lorasweep("run", "--dataset", dataset, *places, *arguments, watch=watch)


def _events(run_dir: Path) -> list[dict]:
    lines = [
        line for path in RunDir(run_dir).events.iterdir() for line in path.read_text().splitlines()
    ]
    return sorted(map(json.loads, lines), key=lambda event: event["time"])


def _synthetic(options: argparse.Namespace, work: Path, samples: int, rank: int) -> Path:
    """A dataset of random adapters, made once per folder."""
    path = work / f"synthetic-{samples}-{rank}"
    if not path.exists():
        lorasweep("data", "synthetic", path, "--samples", samples, "--rank", rank)
    return path


BENCHMARKS: dict[str, Callable[[argparse.Namespace, Path], Iterator[Row]]] = {
    "startup": startup,
    "sanity": sanity,
    "training": training,
    "linear": linear,
    "features": features,
    "features16": features16,
    "updates": updates,
    "wide": wide,
    "products": products,
    "import": imports,
    "inspect": inspect,
    "predict": predict,
    "overhead": overhead,
    "layers": layers,
    "marks": marks,
    "scale": scale,
}
QUICK = (
    *("sanity", "startup", "training", "overhead"),
    *("features", "updates", "products", "import", "inspect", "predict"),
)


def main() -> None:
    """Run benchmarks and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: quick ones"
    )
    parser.add_argument("--samples", type=int, default=20_000, help="adapters (÷ rank)")
    parser.add_argument("--rows", type=int, default=35_000, help="training rows")
    parser.add_argument("--trials", type=int, default=1_000, help="trials for the overhead")
    parser.add_argument("--sleepers", type=int, default=10_000, help="trials that sleep")
    parser.add_argument("--repeat", type=int, default=3, help="medians are of so many")
    parser.add_argument("--work", type=Path, help="folder for data; a temporary one by default")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    work = options.work or Path(tempfile.mkdtemp(prefix="lorasweep-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    print(HEADER, flush=True)
    began = time.perf_counter()
    try:
        for name in options.names or QUICK:
            for row in BENCHMARKS[name](options, work):
                print(row, flush=True)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(f"in {time.perf_counter() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
