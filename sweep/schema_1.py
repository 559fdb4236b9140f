"""What version 0.1 wrote to sweep.json, read as what is written today."""

from __future__ import annotations

from typing import Any

from trainables.record import DEFAULT_CLASSIFIER

_ENSEMBLE_1 = "spectral:1+matrix_norms:1+distribution:1+frequency:1+info_theoretic:1"


def from_schema_1(value: dict[str, Any]) -> dict[str, Any]:
    """What version 0.1 wrote: one classifier, and the versions of everything were the program's."""
    decides = dict(value["frozen"]["decides"])
    config = dict(decides.pop("hyperparameters"))
    decides["threads"] = config.pop("threads")
    grid = value["grid"]
    return {
        **value,
        "schema": 2,
        "frozen": {**value["frozen"], "decides": decides},
        "grid": {
            "entries": [[name, DEFAULT_CLASSIFIER] for name in grid["representations"]],
            "configs": grid["configs"],
            "seeds": grid["seeds"],
            "unseeded": [],
            "left_out": [],
        },
        "declared": {
            "representations": {
                name: {"version": _ENSEMBLE_1 if name == "ensemble" else "1", "unit": "tensor"}
                for name in grid["representations"]
            },
            "configs": {name: {"version": "1"} for name in grid["configs"]},
            "classifiers": {DEFAULT_CLASSIFIER: {"version": 2, "config": config}},
        },
    }
