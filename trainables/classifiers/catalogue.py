"""Every classifier there is: one for each concrete `Classifier` in this package's modules.

Dropping a file in is enough to add one. What a classifier's `start` imports may live in a module
called …_training, which is not searched, since it may import torch.
"""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

from . import __path__ as _folders
from .base import Classifier


def _find() -> dict[str, Classifier]:
    found: list[Classifier] = []
    for module in pkgutil.iter_modules(_folders):
        if module.name.endswith("_training") or module.name == __name__.rpartition(".")[2]:
            continue
        members = vars(import_module(f"{__package__}.{module.name}"))
        found += [
            value()
            for value in members.values()
            if inspect.isclass(value)
            and issubclass(value, Classifier)
            and not inspect.isabstract(value)
            and value.__module__ == f"{__package__}.{module.name}"
        ]
    found.sort(key=lambda classifier: (classifier.name != "mlp", classifier.name))
    named = {classifier.name: classifier for classifier in found}
    if len(named) < len(found):
        raise ValueError("two classifiers have the same name")
    return named


CLASSIFIERS: dict[str, Classifier] = _find()
"""Name -> classifier: the multilayer perceptron first, the rest by name."""
