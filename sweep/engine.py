"""One Tune experiment for exactly the trials that remain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from features.files import sign, write_json
from trainables.record import TrialKey

from .cluster import TrialResources
from .spec import RuntimeOptions

if TYPE_CHECKING:
    from trainables.trial import TrialJob

    from .listener import OnTrial


def new_experiment_dir(run_dir: Path) -> Path:
    """tune/<n> with the first n that is free."""
    root = run_dir / "tune"
    taken = [int(path.name) for path in root.glob("*") if path.name.isdigit()]
    folder = root / str(max(taken, default=-1) + 1)
    folder.mkdir(parents=True)
    return folder


def run_experiment(
    folder: Path,
    job: TrialJob,
    points: dict[TrialKey, str],
    resources: TrialResources,
    options: RuntimeOptions,
    on_trial: OnTrial,
) -> None:
    """Run trials with Ray Tune until every one has a record or a failure. Ray must be running.

    Arguments:
        folder: the experiment's directory, as `new_experiment_dir` makes it.
        points: trial -> fingerprint.
    """
    from ray import tune

    from trainables.trial import TrialWorker

    from .listener import TrialListener

    job_path = folder / "job.json"
    write_json(job_path, job.to_json(), indent=None)
    grid = [{**key.to_json(), "fingerprint": fingerprint} for key, fingerprint in points.items()]
    write_json(folder / "points.json", sign({"points": grid}), indent=None)
    bundle = {"CPU": float(resources.cpus)}
    if resources.gpus:
        bundle["GPU"] = resources.gpus
    # Let Tune ask for all workers at once; by default it waits for one to come up (see
    # TrialWorker._wait_for_workers for the other half of the cure).
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.slots)
    # Ctrl-C is the driver's to handle.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    listener = TrialListener(job.run_dir)
    tuner = tune.Tuner(
        tune.with_resources(TrialWorker, tune.PlacementGroupFactory([bundle])),
        param_space={"point": tune.grid_search(grid), "job": str(job_path)},
        tune_config=tune.TuneConfig(
            reuse_actors=True, max_concurrent_trials=options.max_concurrent
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            verbose=1 if options.verbose else 0,
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
            callbacks=[listener],
        ),
    )
    with listener.telling(on_trial):
        tuner.fit()
