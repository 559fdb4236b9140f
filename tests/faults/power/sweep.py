"""Cut the power all through a real sweep; look at what is left, and go on from it.

    python -m tests.faults.power.sweep --cuts 500 --recoveries 6 --faults 12 --seed 0 --out FOLDER
    python -m tests.faults.power.sweep --everywhere --out FOLDER

A small sweep runs once on a file system that writes everything down. From that come the states
that a power cut may leave after any of its operations. Each is read by what reads run directories
and caches: nothing may be wrong, nothing that was told as finished may be missing, nothing may be
raised but what is told in one line. From some of them the same command goes on, to the undisturbed
numbers. And operations fail, or kill who asks for them, one in each of other sweeps. With
--everywhere they do so about each kind of file that the driver, or a worker, of a smaller sweep
writes, one after the other, each sweep going on from what the one before has left.
"""

from __future__ import annotations

import argparse
import errno
import json
import random
import shutil
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lorasweep import open_run
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.files import DamagedFileError
from lorasweep.features.compute.cache import CacheEntry
from lorasweep.features.representations import Representation, get_representation
from lorasweep.sweep.watch.status import read_status
from lorasweep.trainables.store.record import read_record
from lorasweep.trainables.store.trial_key import TrialKey
from lorasweep.zoo.random.sanity import make_sanity

from ..chaos import VARYING, command, records, results_without_times, undisturbed
from .disk import Disk
from .mount import KILL, Fault, Mount, Operation, mounted, pattern_of

SAMPLES, CLASSES = 18, 3
STORED = ("stats", "matrix_norms")
SWEEP = (
    *("--pairs", "stats:mlp,matrix_norms:linear,update_pca:64:linear", "--configs", "all_layers"),
    *("--num-runs", "2", "--epochs", "6", "--hidden-dim", "16", "--save-models", "none"),
    *("--log-to", "none"),
)
SMALLER = (
    *("--pairs", "stats:mlp,update_pca:64:linear", "--configs", "all_layers", "--num-runs", "1"),
    *("--epochs", "3", "--hidden-dim", "8", "--log-to", "none"),
)
CHANGES = frozenset({"write", "rename", "fsync", "fsyncdir", "create", "mkdir"})


@dataclass
class Found:
    """What was seen.

    Attributes:
        wrong: each a line.
        seen: how often what was there.
    """

    wrong: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Recorded:
    """A sweep that was written down.

    Attributes:
        operations: all of them.
        reference: what it came to.
        dataset: what it was of.
        sweep: its options.
    """

    operations: list[Operation]
    reference: Path
    dataset: Path
    sweep: tuple[str, ...]


def record(folder: Path, sweep: tuple[str, ...] = SWEEP) -> Recorded:
    """Run a sweep on a recording file system."""
    dataset = make_sanity(folder / "sanity", samples=SAMPLES // CLASSES, classes=CLASSES)
    with mounted(folder / "mount", folder / "reference") as mount:
        undisturbed(command(dataset, mount.path, *sweep), folder / "log")
        return Recorded(mount.operations(), folder / "reference", dataset, sweep)


def cut_power(
    recorded: Recorded, folder: Path, cuts: int, rng: random.Random, found: Found
) -> None:
    """Look at what is left after so many cuts at random operations."""
    disk, done = Disk(), 0
    told: set[TrialKey] = set()
    for at in sorted(rng.randrange(len(recorded.operations) + 1) for _ in range(cuts)):
        now = recorded.operations[done:at]
        disk.apply(now)
        told |= {key for operation in now for key in _finished(operation)}
        done = at
        disk.cut(_emptied(folder), rng)
        look(folder, recorded, told, found)


def _finished(operation: Operation) -> list[TrialKey]:
    """Trials that an operation tells as finished."""
    if operation.kind != "write" or b'"trial_finished"' not in operation.data:
        return []
    events = map(json.loads, operation.data.decode().splitlines())
    return [TrialKey(**e["key"]) for e in events if e["event"] == "trial_finished"]


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def look(left: Path, recorded: Recorded, told: set[TrialKey], found: Found) -> None:
    """Read what is left with the project's own code."""
    run_dir, reference = left / "run", recorded.reference / "run"
    for path in (reference / "checkpoints").rglob("seed-*.json"):
        truth = json.loads(path.read_text())
        key = TrialKey(**truth["key"])
        try:
            mine = read_record(run_dir, key)
        except (OSError, DamagedFileError) as error:
            found.seen[f"record: {type(error).__name__}"] += 1
            if key in told:
                found.wrong.append(f"{key} was told as finished and is gone: {error}")
            continue
        found.seen["record"] += 1
        if {k: v for k, v in mine.items() if k not in VARYING} != {
            k: v for k, v in truth.items() if k not in VARYING
        }:
            found.wrong.append(f"{key} differs")
    for name in STORED:
        for weights in recorded.reference.glob("cache/*/"):
            truth_entry = CacheEntry(recorded.reference / "cache", weights.name, _item(name))
            if truth_entry.exists:
                _look_at_features(left, truth_entry, found)
    for reading in (read_status, lambda path: open_run(path).results):
        try:
            reading(run_dir)
            found.seen["run directory"] += 1
        except UserError:
            found.seen["run directory: told"] += 1
        except Exception as error:
            found.wrong.append(f"{run_dir}: {error!r}")


def _item(name: str) -> Representation:
    return get_representation(name)


def _look_at_features(left: Path, truth: CacheEntry, found: Found) -> None:
    mine = CacheEntry(left / "cache", truth.weights, truth.item)
    if not mine.exists or mine.damage(SAMPLES) is not None:
        found.seen["features: none"] += 1
        return
    found.seen["features"] += 1
    for path in truth.folder.glob("data-*.arrow"):
        if (mine.folder / path.name).read_bytes() != path.read_bytes():
            found.wrong.append(f"features {truth.item.name} differ")


def recover(recorded: Recorded, folder: Path, rng: random.Random, found: Found) -> None:
    """Cut the power somewhere, and give the command again."""
    disk = Disk()
    disk.apply(recorded.operations[: rng.randrange(len(recorded.operations) + 1)])
    disk.cut(_emptied(folder / "out"), rng)
    _complete(recorded, folder, found)


def fail_once(recorded: Recorded, folder: Path, fault: Fault, found: Found) -> bool:
    """Run the sweep with one fault, and again without; returns whether it was met."""
    with mounted(folder / "mount", folder / "out") as mount:
        met = _fail(recorded, folder, mount, fault, found)
        _complete(recorded, folder, found, mount.path)
    return met


def fail_in_turn(
    recorded: Recorded, folder: Path, faults: list[Fault], found: Found
) -> Iterator[tuple[Fault, bool]]:
    """Give the same command again and again, with a fault each time, from what the one before has
    left; yields each with whether it was met.

    The faults are in the order in which a sweep meets them. Where one is not met, the sweep has
    come too far: it is compared, and the next one begins.
    """
    left = deque(faults)
    while left:
        begun = False
        with mounted(_emptied(folder) / "mount", folder / "out") as mount:
            while left:
                met = _fail(recorded, folder, mount, left[0], found)
                if begun and not met:
                    break
                begun = True
                yield left.popleft(), met
            _complete(recorded, folder, found, mount.path)


def _fail(recorded: Recorded, folder: Path, mount: Mount, fault: Fault, found: Found) -> bool:
    """Run the sweep with a fault; returns whether it was met."""
    mount.arm(fault)
    log = folder / "log"
    with log.open("w") as file:
        subprocess.run(
            command(recorded.dataset, mount.path, *recorded.sweep),
            stdout=file, stderr=subprocess.STDOUT, timeout=300, check=False,
        )  # fmt: skip
    met = mount.counted() >= fault.number
    mount.arm(None)
    if "Traceback" in log.read_text():
        found.wrong.append(f"{fault}: a traceback on the terminal: {log.read_text()[-500:]}")
    return met


def _complete(recorded: Recorded, folder: Path, found: Found, out: Path | None = None) -> None:
    out = out or folder / "out"
    done = subprocess.run(
        command(recorded.dataset, out, *recorded.sweep),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if done.returncode or "Traceback" in done.stderr:
        found.wrong.append(f"the same command exits with {done.returncode}: {done.stderr[-500:]}")
        return
    mine, truth = out / "run", recorded.reference / "run"
    if records(mine) != records(truth) or results_without_times(mine) != results_without_times(
        truth
    ):
        found.wrong.append(f"{folder}: other numbers")
    found.seen["completed"] += 1


def faults_everywhere(recorded: Recorded) -> list[Fault]:
    """For the driver and for workers, about each kind of file: an operation fails, and one kills.

    The first of a kind of operation each; kinds take turns from one kind of file to the next.
    """
    kinds: dict[tuple[bool, str], dict[str, None]] = {}
    for operation in recorded.operations:
        if operation.kind in CHANGES:
            place = operation.by_worker, pattern_of(operation.path)
            kinds.setdefault(place, {})[operation.kind] = None
    return [
        Fault(frozenset({list(of)[(turn + shift) % len(of)]}), by_worker, 1, error, pattern)
        for turn, ((by_worker, pattern), of) in enumerate(kinds.items())
        for shift, error in enumerate((errno.EIO, KILL))
    ]


def _random_faults(recorded: Recorded, faults: int, rng: random.Random) -> Iterator[Fault]:
    for number in range(faults):
        by_worker = bool(number % 2)
        counted = [o for o in recorded.operations if o.by_worker == by_worker and o.kind in CHANGES]
        error = rng.choice((KILL, errno.EIO, errno.ENOSPC))
        yield Fault(CHANGES, by_worker, rng.randrange(1, len(counted) + 1), error)


def _told(fault: Fault) -> str:
    kind = "any operation" if fault.kinds == CHANGES else ", ".join(fault.kinds)
    whose = "worker" if fault.by_worker else "driver"
    error = errno.errorcode.get(fault.error, "killed")
    return f"{kind} {fault.number} {fault.pattern}, {whose}, {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=500, help="states that are looked at")
    parser.add_argument("--recoveries", type=int, default=6, help="of them, that are gone on from")
    parser.add_argument("--faults", type=int, default=12, help="sweeps with one random fault each")
    parser.add_argument("--everywhere", action="store_true", help="faults in turn, instead of that")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rng, found = random.Random(arguments.seed), Found()
    recorded = record(arguments.out / "recorded", SMALLER if arguments.everywhere else SWEEP)
    kinds = Counter(operation.kind for operation in recorded.operations)
    print(f"{len(recorded.operations)} operations: {dict(kinds)}", flush=True)
    met: list[bool] = []

    def tell(fault: Fault, was_met: bool) -> None:
        met.append(was_met)
        said = "" if was_met else ", not met"
        print(f"{len(met)}: {_told(fault)}{said}: {len(found.wrong)} wrong", flush=True)

    if arguments.everywhere:
        faults = faults_everywhere(recorded)
        for fault, was_met in fail_in_turn(recorded, arguments.out / "faults", faults, found):
            tell(fault, was_met)
    else:
        cut_power(recorded, arguments.out / "left", arguments.cuts, rng, found)
        print(f"{arguments.cuts} cuts: {dict(found.seen)}, {len(found.wrong)} wrong", flush=True)
        for number in range(arguments.recoveries):
            recover(recorded, arguments.out / f"recovery-{number}", rng, found)
        done = found.seen["completed"]
        print(f"{done} of {arguments.recoveries} went on to the end", flush=True)
        for number, fault in enumerate(_random_faults(recorded, arguments.faults, rng)):
            tell(fault, fail_once(recorded, arguments.out / f"fault-{number}", fault, found))
    print(f"{sum(met)} of {len(met)} faults met, {len(found.wrong)} wrong")
    for line in found.wrong[:20]:
        print(line)
    sys.exit(bool(found.wrong))


if __name__ == "__main__":
    main()
