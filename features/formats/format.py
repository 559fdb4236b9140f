"""What a format declares: names of files, of layers, and of the tensors of a layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

DOWN, UP, MID, ALPHA, MAGNITUDE = "down", "up", "mid", "alpha", "magnitude"
"""Parts of a module: A, B, LoCon's core between them, α, and DoRA's magnitudes."""


@dataclass(frozen=True)
class Format:
    """Adapter files of one ecosystem.

    Attributes:
        name: what `inspect` calls it.
        spelled: pattern of its layers' names, where they tell who wrote them.
        prefixes: what stands before a module's path -> diffusers' component; "": the path tells.
        flat: whether its names have underscores for dots, behind the prefixes.
        down, up: patterns of what stands behind a layer's name in the names of A and B.
        parts: the same of its other tensors -> part of a module.
        weights: names of files of weights that stand for their folder, the better format first.
        config: the file beside them that has α and ranks; "": there is none.
        header: the key of a safetensors header that has them; "": there is none.
    """

    name: str
    spelled: str = ""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    flat: bool = False
    down: tuple[str, ...] = ()
    up: tuple[str, ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)
    weights: tuple[str, ...] = ()
    config: str = ""
    header: str = ""

    def spells(self, layer: str) -> bool:
        """Return whether a layer's name is one of this format's alone."""
        return bool(self.spelled and re.match(self.spelled, layer))
