"""Every classifier there is: one for each concrete `Classifier` in this package's modules.

Dropping a file in is enough to add one. What a classifier's `start` imports may live in a module
called …_training, which is not searched, since it may import torch.
"""

from __future__ import annotations

import inspect
import pkgutil
import re
from collections.abc import Sequence
from dataclasses import Field, fields
from importlib import import_module
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import check_doubles
from lorasweep.features.common.plugins import Origin, check_own_name, load, require_origin

from . import __path__ as _folders
from .base import Classifier

GROUP = "lorasweep.classifiers"
"""The entry points that bring classifiers."""


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


def built_in_settings() -> list[tuple[Classifier, Field[Any]]]:
    """Every setting of every built-in classifier."""
    return [(item, field) for item in CLASSIFIERS.values() for field in fields(item.Settings)]


def setting_option(classifier: str, field: Field[Any]) -> str:
    """The command-line option of a built-in classifier's setting."""
    own = f"--{classifier}-{field.name}".replace("_", "-")
    return field.metadata.get("option") or own


def step_names(classifier: str) -> tuple[str, str]:
    """Return the names of one step and of several; a plug-in takes steps."""
    return CLASSIFIERS[classifier].step_names if classifier in CLASSIFIERS else ("step", "steps")


def has_learning_curves(classifier: str) -> bool:
    """Return whether a classifier's curves show learning; a plug-in's are taken for such."""
    return classifier not in CLASSIFIERS or CLASSIFIERS[classifier].learning_curves


def find_classifier(reference: str) -> tuple[Classifier, Origin | None]:
    """A classifier by its name, entry point, `package.module:object` or `path/to/file.py:object`,
    and where it was loaded from, if it is not built in. The object is a class or an instance.

    Raises:
        UserError: there is none, it cannot be loaded, or has the name of a built-in one.
    """
    if reference in CLASSIFIERS:
        return CLASSIFIERS[reference], None
    origin = require_origin(reference, "classifier", GROUP, CLASSIFIERS)
    return load_classifier(origin), origin


def load_classifier(origin: Origin) -> Classifier:
    """A user's own classifier."""
    found = load(origin, "classifier", object)
    if inspect.isclass(found) and issubclass(found, Classifier) and not inspect.isabstract(found):
        found = found()
    if not isinstance(found, Classifier):
        raise UserError(f"{origin.reference} is no classifier: derive it from Classifier")
    check_own_name(origin, "classifier", found.name, CLASSIFIERS)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", found.name):
        raise UserError(
            f"{origin.reference}: {found.name!r} is no name for a classifier: need lower case "
            "letters, digits and underscores"
        )
    return found


def find_classifiers(references: Sequence[str]) -> list[tuple[Classifier, Origin | None]]:
    """Several of them; a `UserError` if there are none or two have the same name."""
    if not references:
        raise UserError(f"no classifier given; choose from {', '.join(CLASSIFIERS)}")
    found = [find_classifier(reference) for reference in references]
    check_doubles("classifier", [item.name for item, _ in found])
    return found
