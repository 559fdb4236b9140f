"""One call of `run_sweep`, as its steps see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lorasweep.features.common.lock import LockFile
from lorasweep.features.compute.nodes import Nodes
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.datasets.sources import Source
from lorasweep.sweep.process.signals import Interruption
from lorasweep.sweep.request.declared import Declared
from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
from lorasweep.sweep.store.sweep_file import SweepFile
from lorasweep.sweep.watch.prometheus import SweepMetrics
from lorasweep.sweep.watch.stream import Stream
from lorasweep.sweep.watch.terminal import Reporter


@dataclass
class Invocation:
    """One call of `run_sweep`: what it works on and what it has done so far.

    Attributes:
        nodes: the cluster's nodes that take trials.
        stage_nodes: those that compute features, which are always of one kind.
        devices: classifier -> on what device its trials are done, where there are records; "": they
            do not say.
    """

    run_dir: Path
    spec: SweepSpec
    options: RuntimeOptions
    source: Source
    scan: DatasetScan
    declared: Declared
    sweep: SweepFile
    reporter: Reporter
    began: float
    stream: Stream
    name: str
    interruption: Interruption
    metrics: SweepMetrics
    lock: LockFile
    nodes: Nodes
    stage_nodes: Nodes
    devices: dict[str, str] = field(default_factory=dict)
    feature_seconds: float = 0.0
    train_seconds: float = 0.0
