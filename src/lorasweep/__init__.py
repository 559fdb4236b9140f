"""Find out which representation of LoRA weights carries a concept, and in which layers it lives.

    import lorasweep as ls

    result = ls.run_sweep(ls.SweepSpec("adapters/", representations=("stats", "update_sketch:128")))
    ls.open_run(result.run_dir).trials

Names are imported at their first use: `import lorasweep` loads neither Ray nor torch.
"""

from importlib import import_module
from os.path import dirname, isdir, join
from typing import TYPE_CHECKING, Any

if not isdir(join(dirname(__file__), "features")):
    raise ImportError(
        "this copy of lorasweep lacks its symbolic links: clone it with git on a file system that "
        "has them, or install a wheel"
    )

if TYPE_CHECKING:
    from lorasweep.features.common.errors import UserError
    from lorasweep.features.layers.configs import layer_config
    from lorasweep.features.layers.names import parse_layer
    from lorasweep.features.layers.pairing import layer_name
    from lorasweep.features.representations.base import Representation, Unit, representation
    from lorasweep.sweep.driver.launch import SweepResult, run_sweep
    from lorasweep.sweep.driver.run import Run, open_run
    from lorasweep.sweep.process.supervisor import RayDiedError
    from lorasweep.sweep.request.spec import RuntimeOptions, SweepSpec
    from lorasweep.trainables.classifiers.base import (
        Classifier,
        DataSize,
        Fit,
        FitState,
        LayerSum,
        LinearPart,
        Predictor,
        Settings,
        setting,
    )

_MODULES = {
    "features.common.errors": ("UserError",),
    "features.layers.configs": ("layer_config",),
    "features.layers.names": ("parse_layer",),
    "features.layers.pairing": ("layer_name",),
    "features.representations.base": ("Representation", "Unit", "representation"),
    "sweep.driver.launch": ("SweepResult", "run_sweep"),
    "sweep.driver.run": ("Run", "open_run"),
    "sweep.process.supervisor": ("RayDiedError",),
    "sweep.request.spec": ("RuntimeOptions", "SweepSpec"),
    "trainables.classifiers.base": (
        *("Classifier", "DataSize", "Fit", "FitState", "LayerSum", "LinearPart", "Predictor"),
        *("Settings", "setting"),
    ),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022
    # A sweep
    "RayDiedError", "Run", "RuntimeOptions", "SweepResult", "SweepSpec", "UserError", "open_run",
    "run_sweep",
    # Plug-ins
    "Classifier", "DataSize", "Fit", "FitState", "LayerSum", "LinearPart", "Predictor",
    "Representation", "Settings", "Unit", "layer_config", "layer_name", "parse_layer",
    "representation", "setting",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
