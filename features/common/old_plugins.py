"""Plug-ins of version 0.1, which import `features` and `trainables` instead of `lorasweep`.

Their copies in run directories and models go on loading: while such a module runs, and in its
functions later, an import of an old name gives today's module. No other module is affected.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

_FEATURES = "lorasweep.features"
_MODULES = {
    "features.batch": f"{_FEATURES}.numerics.matrix_batch",
    "features.core.errors": f"{_FEATURES}.common.errors",
    "features.kernels": f"{_FEATURES}.numerics.kernels",
    "features.layer_configs": f"{_FEATURES}.layers.configs",
    "features.layer_names": f"{_FEATURES}.layers.names",
    "features.layers": f"{_FEATURES}.layers.pairing",
    "features.layout": f"{_FEATURES}.layers.factor_layout",
    "features.representations": f"{_FEATURES}.representations.base",
    "features.representations.base": f"{_FEATURES}.representations.base",
    "features.updates": f"{_FEATURES}.numerics.update_batch",
    "trainables.classifiers.base": "lorasweep.trainables.classifiers.old_interface",
    "trainables.data": "lorasweep.trainables.data.trial_data",
}
"""Name of a module in version 0.1 -> its name today."""


def imports_old_names(imported: Collection[str]) -> bool:
    """Return whether modules with these imports were written for version 0.1."""
    return not _MODULES.keys().isdisjoint(imported) and not any(
        name.split(".")[0] == "lorasweep" for name in imported
    )


@contextmanager
def old_names(root: Path, tops: Collection[str]) -> Iterator[None]:
    """Load the modules `tops` of a folder so that old names mean today's modules in them."""
    finder = _Finder(root, tops)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    def __init__(self, root: Path, tops: Collection[str]) -> None:
        self._root, self._tops = root, tops

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.split(".")[0] not in self._tops:
            return None
        spec = PathFinder.find_spec(name, path or [str(self._root)])
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)


def _import(
    name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
) -> ModuleType:
    if level == 0 and name in _MODULES:
        return import_module(_MODULES[name])
    return builtins.__import__(name, globals, locals, fromlist, level)
