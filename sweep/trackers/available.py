"""Which trackers there are, and whether their packages are installed."""

from __future__ import annotations

from importlib.util import find_spec

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import check_names

TRACKERS = {
    "tensorboard": ("tensorboardX",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),  # the latter two for a store in a file
    "wandb": ("wandb",),
    "none": (),
}
"""Tracker -> the packages it needs. Those of mlflow and wandb come with the extra of that name."""


def check_tracker(name: str) -> None:
    """Raise a `UserError` if there is no such tracker or a package it needs is missing."""
    check_names("tracker", [name], TRACKERS)
    missing = [package for package in TRACKERS[name] if not _installed(package)]
    if missing:
        raise UserError(
            f"--log-to {name} needs packages that are not installed ({', '.join(missing)}): "
            f"pip install 'lorasweep[{name}]'"
        )


def _installed(package: str) -> bool:
    """Whether it could be imported, without doing so."""
    spec = find_spec(package)
    # A plain folder of that name (wandb makes one where it is used) passes for a package of
    # modules to come, which has no origin.
    return spec is not None and spec.origin is not None
