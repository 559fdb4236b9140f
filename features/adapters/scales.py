"""The number s of ΔW = s·B·A, counted exactly once.

kohya, LyCORIS and diffusers: s = α / r with α beside the tensors, 1 without. PEFT: s = α / r, or
α / √r (rank-stabilised, Kalajdzievski 2023, arXiv:2312.03732), with α from a configuration, whose
patterns may give a module a number of its own. A and B are never scaled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

from lorasweep.features.formats.catalogue import DIFFUSERS, PEFT
from lorasweep.features.formats.format import ALPHA
from lorasweep.features.layers.spellings import is_of_peft, unwrapped

from .locations import component_weights
from .modules import Module

_READ_TYPES = ("LORA", "LOHA", "LOKR")
_OTHER_UPDATES = (
    *("target_parameters", "use_qalora", "use_bdlora"),
    *("kasa_config", "monteclora_config", "arrow_config"),
)
"""Settings of PEFT's LORA with which the update is not s·B·A, or not of the module's weight."""

_BASE_CHANGERS = ("pissa", "olora", "corda", "loftq", "lora_ga", "lora-ga", "milora")
"""How `init_lora_weights` begins where the base loses what A and B begin with: the update is the
difference from them, and they are not in the file."""


@dataclass(frozen=True)
class Scaling:
    """How the modules of a file are scaled where no α lies beside them.

    Attributes:
        config: PEFT's configuration of the whole file; empty: there is none.
        components: those of components, as diffusers writes them into the header.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    components: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def alpha_of(self, module: Module) -> tuple[float | None, bool]:
        """(α, whether its rank is taken the root of) of a module without an α of its own."""
        config, path = self._config_of(module)
        if not config:
            return None, False
        default = config.get("lora_alpha", config.get("alpha"))
        alpha = _by_pattern(config.get("alpha_pattern"), path, default)
        return None if alpha is None else float(alpha), bool(config.get("use_rslora"))

    def rank_of(self, module: Module) -> int:
        """The rank that a configuration claims of a module whose tensors have none; or 0."""
        config, path = self._config_of(module)
        return int(_by_pattern(config.get("rank_pattern"), path, config.get("r")) or 0)

    def _config_of(self, module: Module) -> tuple[Mapping[str, Any], str]:
        if self.config:
            return self.config, unwrapped(module.spelled)
        component, _, rest = module.name.partition(".")
        return self.components.get(component, {}), rest


def scale(alpha: float | None, rank: int, root: bool) -> float:
    """s of an α and a rank; without α, 1."""
    if alpha is None or not rank:
        return 1.0
    return alpha / (sqrt(rank) if root else rank)


def read_scaling(weights: Path, header: Mapping[str, str], modules: list[Module]) -> Scaling:
    """How a file's modules are scaled.

    Raises:
        ValueError: it is PEFT's, and its configuration is missing, damaged or of a kind whose
            update is no B·A.
    """
    if weights.is_dir():
        parts = component_weights(weights)
        return Scaling(
            components={
                name: _read_config(own.with_name(PEFT.config)) for name, own in parts.items()
            }
        )
    from_peft = weights.name.startswith("adapter_model.") or any(
        is_of_peft(module.spelled) for module in modules
    )
    if from_peft and not all(ALPHA in module.tensors for module in modules):
        return Scaling(config=_read_config(weights.with_name(PEFT.config)))
    if DIFFUSERS.header in header:
        return Scaling(components=_components(header[DIFFUSERS.header]))
    return Scaling()


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"has no {PEFT.config} beside it, which says how PEFT scales it") from None
    except ValueError as error:
        raise ValueError(f"its {PEFT.config} is damaged") from error
    if not _is_config(config):
        raise ValueError(f"its {PEFT.config} is damaged")
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind not in _READ_TYPES:
        raise ValueError(
            f"is a PEFT adapter of type {kind}: only {', '.join(_READ_TYPES)} are read"
        )
    _refuse_other_updates(config)
    return config


def _refuse_other_updates(config: Mapping[str, Any]) -> None:
    found = [name for name in _OTHER_UPDATES if config.get(name)]
    if found:
        raise ValueError(f"is a PEFT adapter with {found[0]}, whose update is not s·B·A")
    begins = str(config.get("init_lora_weights", "")).lower()
    if begins.startswith(_BASE_CHANGERS):
        raise ValueError(
            f"is a PEFT adapter that began by {begins}, which changes the base: its update is "
            "B·A − B₀·A₀, and B₀ and A₀ are not in it; PEFT's save_pretrained converts it with "
            "path_initial_model_for_weight_conversion"
        )


def _components(text: str) -> dict[str, dict[str, Any]]:
    """Component -> configuration, from keys like `unet.lora_alpha`."""
    found: dict[str, dict[str, Any]] = {}
    try:
        for key, value in json.loads(text).items():
            component, _, name = key.partition(".")
            found.setdefault(component, {})[name] = value
    except (ValueError, AttributeError) as error:
        raise ValueError(f"its header's {DIFFUSERS.header} is damaged") from error
    if not all(map(_is_config, found.values())):
        raise ValueError(f"its header's {DIFFUSERS.header} is damaged")
    for config in found.values():
        _refuse_other_updates(config)
    return found


def _is_config(config: Any) -> bool:
    """Whether what is read of a configuration has the types that PEFT gives it."""
    if not isinstance(config, dict):
        return False
    patterns = [config.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    if not all(isinstance(pattern, dict) for pattern in patterns):
        return False
    numbers = [config.get(name) for name in ("r", "alpha", "lora_alpha")]
    numbers += [value for pattern in patterns for value in pattern.values()]
    try:
        for pattern in (*patterns[0], *patterns[1]):
            re.compile(pattern)
    except re.error:
        return False
    return all(value is None or isinstance(value, int | float) for value in numbers)


def _by_pattern(patterns: Mapping[str, Any] | None, path: str, default: Any) -> Any:
    """The value of the first pattern that is the end of a module's path, as PEFT looks for it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default
