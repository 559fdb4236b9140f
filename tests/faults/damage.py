"""Damage one file of a finished run at random, run it again, compare every number.

python -m tests.faults.damage --cases 200 --seed 0 --out FOLDER
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from lorasweep import RuntimeOptions, SweepSpec, run_sweep
from lorasweep.sweep.watch.terminal import Reporter
from lorasweep.zoo.random.sanity import make_sanity
from tests.faults.chaos import records, results_without_times


def flip(path: Path, rng: random.Random) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random) -> None:
    """Cut the end off."""
    os.truncate(path, rng.randrange(max(path.stat().st_size, 1)))


def empty(path: Path, rng: random.Random) -> None:
    """Leave nothing in it."""
    path.write_bytes(b"")


def scramble(path: Path, rng: random.Random) -> None:
    """Replace the content by other bytes of the same size."""
    path.write_bytes(rng.randbytes(path.stat().st_size))


def delete(path: Path, rng: random.Random) -> None:
    """Take it away."""
    path.unlink()


DAMAGES: list[Callable[[Path, random.Random], None]] = [flip, truncate, empty, scramble, delete]


class Victim:
    """A finished run, and what it must always come back to.

    Arguments:
        folder: where dataset, cache and results are made.
    """

    def __init__(self, folder: Path) -> None:
        dataset = make_sanity(folder / "sanity", samples=6)
        self.folder = folder
        self.spec = SweepSpec(
            str(dataset),
            representations=("stats", "matrix_norms"),
            num_runs=2,
            settings={"mlp": dict(hidden_dim=16, epochs=3)},
        )
        self.options = RuntimeOptions(output_dir=folder / "out", cache_dir=folder / "cache")
        self.run_dir = self.options.run_dir(self.spec.dataset)
        self.run()
        self.records = records(self.run_dir)
        self.results = results_without_times(self.run_dir)

    def run(self) -> dict[str, int]:
        """Run what is missing; the summary."""
        with open(self.folder / "log", "a") as log:
            reporter = Reporter(file=log)
            return run_sweep(self.spec, self.options, reporter).summary

    def files(self) -> dict[str, list[Path]]:
        """What can be damaged, by kind; not the dataset, logs and events."""
        found = [*self.run_dir.rglob("*"), *(self.folder / "cache").rglob("*")]
        left_out = {"logs", "events", "workers"}
        kinds: dict[str, list[Path]] = {}
        for path in sorted(found):
            skipped = path.suffix in (".corrupt", ".stale") or left_out & set(path.parts)
            if path.is_file() and not skipped:
                kinds.setdefault(self._kind(path), []).append(path)
        return kinds

    def _kind(self, path: Path) -> str:
        if "cache" in path.parts:
            return "cache"
        first, *rest = path.relative_to(self.run_dir).parts
        # Tune makes a folder of small files per trial, which nothing reads.
        return "tune/<trial>" if first == "tune" and len(rest) > 2 else first

    def case(self, rng: random.Random) -> tuple[str, str]:
        """Damage one file, or the cache and all its records, and repair by running again.

        Returns:
            kind of file and kind of damage; raises AssertionError if a number is wrong.
        """
        files = self.files()
        kind = rng.choice(sorted(files))
        path = rng.choice(files[kind])
        damage = rng.choice(DAMAGES)
        damage(path, rng)
        removed = 0
        if kind.startswith(("cache", "tune")):
            # Damage there shows only if there is something to run.
            lost = rng.choice(sorted((self.run_dir / "checkpoints").rglob("seed-*.json")))
            lost.unlink()
            removed = 1
        ran = self.run()["ran"]
        if kind == "checkpoints":
            assert ran <= 1, (path, damage.__name__, ran)
        else:
            assert ran == removed, (path, damage.__name__, ran)
        assert records(self.run_dir) == self.records, (path, damage.__name__)
        assert results_without_times(self.run_dir) == self.results, (path, damage.__name__)
        return kind, damage.__name__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    victim = Victim(arguments.out)
    rng = random.Random(arguments.seed)
    counts = Counter(victim.case(rng) for _ in range(arguments.cases))
    for (kind, damage), count in sorted(counts.items()):
        print(f"{count:5}  {kind} {damage}")
    print(f"{sum(counts.values())} damaged files, every number came back")
    ray.shutdown()


if __name__ == "__main__":
    sys.exit(main())
