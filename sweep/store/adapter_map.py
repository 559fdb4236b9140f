"""A map of the adapters: where the first principal components of ΔW put them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lorasweep.features.common.files import DamagedFileError, read_signed_json, sign, write_json
from lorasweep.trainables.store.run_dir import RunDir

_SCHEMA = 1


@dataclass(frozen=True)
class AdapterMap:
    """The adapters of a layer config in the plane.

    Attributes:
        representation: whose first two values they are.
        seed: the seed on whose training split the components are fitted.
        x, y: (n_samples,) coordinates.
        fold: the fold, where the split has folds.
    """

    representation: str
    seed: int
    x: list[float]
    y: list[float]
    fold: str = ""


def write_maps(run_dir: Path, maps: dict[str, AdapterMap]) -> None:
    """Write those of some layer configs; those of others stay."""
    known = read_maps(run_dir)
    if known | maps != known:
        value = {config: _to_json(found) for config, found in (known | maps).items()}
        content = {"schema": _SCHEMA, "maps": value}
        write_json(RunDir(run_dir).adapter_maps, sign(content), indent=None)


def _to_json(found: AdapterMap) -> dict[str, Any]:
    value = asdict(found)
    if not found.fold:
        del value["fold"]
    return value


def read_maps(run_dir: Path) -> dict[str, AdapterMap]:
    """Layer config -> its map; nothing if the file is not there or damaged."""
    try:
        value = read_signed_json(RunDir(run_dir).adapter_maps)
    except (OSError, DamagedFileError):
        return {}
    return {config: AdapterMap(**found) for config, found in value["maps"].items()}
