"""What `without_top:K` leaves out: layers ranked by `each_layer`, frozen with the run directory.

A method's ranking is made once, when all of its `each_layer` trials have records. It is written
before any trial that depends on it. It holds for every K and for seeds that are added later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorasweep.features.common.files import DamagedFileError, read_signed_json, sign, write_json
from lorasweep.features.layers.families import WITHOUT_TOP, each_layer, without_count
from lorasweep.sweep.request.grid import Cell, Grid
from lorasweep.trainables.store.run_dir import RunDir
from lorasweep.trainables.store.standing import Standing, in_order
from lorasweep.trainables.store.trial_key import TrialKey

_SCHEMA = 1


@dataclass(frozen=True)
class LayerRanking:
    """A method's layers, best first.

    Attributes:
        layers: (config of `each_layer`, mean validation accuracy over seeds), best first.
        seeds: of the trials that decided it.
        trials: digest of those trials' fingerprints; if they are others today, it is made anew.
    """

    layers: tuple[tuple[str, float], ...]
    seeds: tuple[int, ...]
    trials: str

    def top(self, count: int) -> list[str]:
        """The best configs of `each_layer`."""
        return [config for config, _ in self.layers[:count]]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LayerRanking:
        """From a JSON object."""
        layers = tuple((config, accuracy) for config, accuracy in value["layers"])
        return cls(layers, tuple(value["seeds"]), value["trials"])


Rankings = dict[str, LayerRanking]
"""Method -> its ranking."""


def read_rankings(run_dir: Path) -> Rankings:
    """Those of a run directory; none where the file is missing or damaged: the same records give
    the same again."""
    try:
        value = read_signed_json(RunDir(run_dir).layer_rankings)
    except (OSError, DamagedFileError):
        return {}
    return {method: LayerRanking.from_json(item) for method, item in value["rankings"].items()}


def write_rankings(run_dir: Path, rankings: Rankings) -> None:
    """Write all of them, durably and atomically."""
    value = {
        "schema": _SCHEMA,
        "rankings": {method: asdict(ranking) for method, ranking in rankings.items()},
    }
    write_json(RunDir(run_dir).layer_rankings, sign(value))


def deciding_trials(grid: Grid, method: str) -> list[TrialKey]:
    """The trials that rank the layers of a method, in the order of the network."""
    configs = grid.families.get(each_layer.name, [])
    return [k for c in configs if method in grid.methods_of(c) for k in grid.keys_of((c, method))]


def methods_to_rank(grid: Grid) -> list[str]:
    """Methods that a config `without_top:K` of the grid needs a ranking of."""
    configs = grid.families.get(WITHOUT_TOP, [])
    return list(dict.fromkeys(method for c in configs for method in grid.methods_of(c)))


def rank_layers(
    keys: list[TrialKey], records: Mapping[TrialKey, Mapping[str, Any]], trials: str
) -> LayerRanking:
    """Rank layers by their standing, means over seeds.

    Arguments:
        keys: a method's trials of `each_layer`, in the order of the network.
        records: those of all of them.
        trials: see `LayerRanking`.
    """
    of_config: dict[str, list[Mapping[str, Any]]] = {}
    for key in keys:
        of_config.setdefault(key.config, []).append(records[key])
    standings = {config: Standing.of_records(of) for config, of in of_config.items()}
    layers = tuple(
        (config, round(standings[config].val_acc or 0.0, 12)) for config in in_order(standings)
    )
    return LayerRanking(layers, tuple(sorted({key.seed for key in keys})), trials)


def decided_tensors(
    grid: Grid,
    declared: Mapping[str, Mapping[str, Any]],
    rankings: Rankings,
    trials_digest: Callable[[str, Iterable[int]], str],
) -> dict[Cell, list[str]]:
    """(config, method) -> layer tensors in sorted order, of `without_top:K` of ranked methods.

    Arguments:
        declared: config -> what sweep.json says of it.
        trials_digest: of the trials of a method with some seeds as they are today; a ranking that
            others decided does not count.
    """
    tensors = {c: declared[c]["tensors"] for c in grid.families.get(each_layer.name, [])}
    configs = grid.families.get(WITHOUT_TOP, [])
    found = {}
    for method in methods_to_rank(grid):
        ranking = rankings.get(method)
        if ranking is None or ranking.trials != trials_digest(method, ranking.seeds):
            continue
        for config in configs:
            left_out = set(ranking.top(without_count(config) or 0))
            kept = (tensor for c, of in tensors.items() if c not in left_out for tensor in of)
            if method in grid.methods_of(config):
                found[config, method] = sorted(kept)
    return found
