"""Kill a real sweep at random until it is done; compare it with an undisturbed one.

    python -m tests.faults.chaos --rounds 3 --seed 0

Every round starts a fresh run directory and SIGKILLs its driver, or one of its trial workers, at
random times until the sweep is complete. Then records, results and the slices that were trained are
compared with an undisturbed run of the same command.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorasweep.trainables.store.trial_key import TrialKey
from tests.processes import driver_of

ROOT = Path(__file__).parents[2]
VARYING = ("timing", "environment", "checksum")
"""Parts of a record that say how long and where, not what."""

Command = list[str]


@dataclass
class Chaos:
    """What happened in one or several rounds."""

    kills: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    twice: int = 0
    different: list[str] = field(default_factory=list)
    slice_seconds: float = 0.0

    def add(self, other: Chaos) -> None:
        """Count another round in."""
        self.kills += other.kills
        self.attempts += other.attempts
        self.twice += other.twice
        self.different += other.different
        self.slice_seconds += other.slice_seconds


def command(dataset: Path, out: Path, *options: str) -> Command:
    """A sweep whose trials last several slices."""
    return [
        sys.executable,
        str(ROOT / "cli.py"),
        "run",
        *("--dataset", str(dataset), "--output-dir", str(out), "--name", "run"),
        *("--cache-dir", str(out / "cache"), "--no-dashboard", *options),
    ]


def undisturbed(sweep: Command, out: Path) -> None:
    """Run a sweep to its end; fails if it does."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "log", "w") as log:
        subprocess.run(sweep, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=out)


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """All events so far, in order of time; a line cut short by a kill is left out."""
    events = []
    for path in (run_dir / "events").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
    return sorted(events, key=lambda event: event["time"])


def phase(run_dir: Path, since: float) -> str:
    """What an attempt started at `since` was doing last."""
    kinds = [e["event"] for e in read_events(run_dir) if e["time"] >= since]
    if not kinds:
        return "before the plan"
    if "features" not in kinds:
        return "starting Ray or features"
    if "done" in kinds:
        return "after the results"
    trials = [k for k in kinds if k.startswith("trial_")]
    if not trials:
        return "starting Tune"
    return "between trials" if trials[-1] == "trial_finished" else "mid-trial"


def torment(sweep: Command, out: Path, rng: random.Random, most_kills: int, mean: float) -> Chaos:
    """Run a sweep, killing it at exponentially distributed times, until it completes."""
    out.mkdir(parents=True, exist_ok=True)
    run_dir = out / "run"
    chaos = Chaos()
    while True:
        chaos.attempts += 1
        began = time.time()
        with open(out / "log", "a") as log:
            driver = subprocess.Popen(sweep, stdout=log, stderr=subprocess.STDOUT, cwd=out)
        left = sum(chaos.kills.values()) < most_kills
        while driver.poll() is None:
            try:
                driver.wait(timeout=rng.expovariate(1 / mean) if left else None)
            except subprocess.TimeoutExpired:
                own = driver_of(driver.pid)
                workers = _trial_workers(run_dir, own)
                if workers and rng.random() < 0.3:
                    victims, who = [rng.choice(workers)], "worker"
                    _kill(victims[0])
                else:
                    victims, who = workers, "driver"
                    driver.kill()
                    driver.wait()
                chaos.kills[f"{who}, {phase(run_dir, began)}"] += 1
                chaos.slice_seconds += _lost_seconds(run_dir, own, victims)
                left = sum(chaos.kills.values()) < most_kills
        if driver.returncode == 0:
            return chaos
        if driver.returncode != -signal.SIGKILL:
            raise RuntimeError(f"exit code {driver.returncode}: see {out / 'log'}")


def _trial_workers(run_dir: Path, driver: int) -> list[int]:
    """Process ids of this invocation's trial workers."""
    pids = []
    for path in (run_dir / "events").glob(f"*-{driver}-*.jsonl"):
        pid = int(path.stem.rpartition("-")[2])
        if pid != driver and Path(f"/proc/{pid}").exists():
            pids.append(pid)
    return pids


def _lost_seconds(run_dir: Path, driver: int, workers: list[int]) -> float:
    """Seconds since the last events of workers that were killed in mid-trial: at least what the
    slices they had begun are worth."""
    lost = 0.0
    for worker in workers:
        for path in (run_dir / "events").glob(f"*-{driver}-*-{worker}.jsonl"):
            last = json.loads(path.read_text().splitlines()[-1])
            if last["event"] != "trial_finished":
                lost += max(time.time() - last["time"], 0.0)
    return lost


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def records(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Path -> record without what varies from run to run."""
    found = {}
    for path in sorted((run_dir / "checkpoints").rglob("seed-*.json")):
        record = json.loads(path.read_text())
        name = str(path.relative_to(run_dir))
        found[name] = {k: v for k, v in record.items() if k not in VARYING}
    return found


def results_without_times(run_dir: Path) -> Any:
    """results.json without timings and what depends on them."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                k: strip(v)
                for k, v in value.items()
                if "training_time" not in k and k not in ("derived", "checksum")
            }
        return [strip(item) for item in value] if isinstance(value, list) else value

    return strip(json.loads((run_dir / "results.json").read_text()))


def compare(run_dir: Path, reference: Path, chaos: Chaos) -> None:
    """Count what differs from the undisturbed run and which trials were finished twice."""
    mine, theirs = records(run_dir), records(reference)
    chaos.different += [n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n)]
    if results_without_times(run_dir) != results_without_times(reference):
        chaos.different.append("results.json")
    finished = Counter(
        str(TrialKey(**e["key"])) for e in read_events(run_dir) if e["event"] == "trial_finished"
    )
    chaos.twice += sum(count - 1 for count in finished.values())
    chaos.slice_seconds += slice_seconds(run_dir)


def slice_seconds(run_dir: Path) -> float:
    """Training seconds of all slices that were completed, over all attempts."""
    return sum(e.get("slice_seconds", 0.0) for e in read_events(run_dir))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=12, help="at most, per round")
    parser.add_argument("--mean", type=float, default=25.0, help="mean seconds between kills")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    options = ["--representations", "stats,frequency,ensemble", "--num-runs", "2"]
    options += ["--epochs", "300", "--patience", "300"]
    dataset = ROOT / "examples/digits-zoo"
    reference = arguments.out / "undisturbed"
    undisturbed(command(dataset, reference, *options), reference)
    base = slice_seconds(reference / "run")
    print(f"undisturbed: {base:.0f} s of training", flush=True)
    total = Chaos()
    for number in range(arguments.rounds):
        rng = random.Random(f"{arguments.seed}-{number}")
        out = arguments.out / f"round-{number}"
        sweep = command(dataset, out, *options)
        chaos = torment(sweep, out, rng, arguments.kills, arguments.mean)
        compare(out / "run", reference / "run", chaos)
        total.add(chaos)
        print(
            f"round {number}: {sum(chaos.kills.values())} kills in {chaos.attempts} attempts, "
            f"{chaos.twice} trials finished twice, {len(chaos.different)} differences, "
            f"training time × {chaos.slice_seconds / base:.2f}",
            flush=True,
        )
    for where, count in total.kills.most_common():
        print(f"{count:5}  {where}")
    print(
        f"{sum(total.kills.values())} kills, {total.twice} trials finished twice, "
        f"{len(total.different)} differences {total.different[:5]}, training time × "
        f"{total.slice_seconds / base / arguments.rounds:.2f}"
    )
    sys.exit(bool(total.twice or total.different))


if __name__ == "__main__":
    main()
