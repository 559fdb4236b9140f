"""What a model architecture declares: its layers' names in every spelling, and its base models.

A path is a module's name inside its network, with dots: `blocks.3.self_attn.q`. Canonical paths are
those of diffusers' classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

UNET, TRANSFORMER = "unet", "transformer"
"""diffusers' names of the network that denoises."""
SECOND_TRANSFORMER = "transformer_2"
"""diffusers' name of Wan 2.2's network for the last, least noisy steps."""

Size = tuple[float, float] | None
"""(outputs, inputs) of a module in widths of the transformer; None: any."""
Shape = tuple[int, int]
"""(outputs, inputs) of a module."""

Bounds = Callable[[int, int], Sequence[int] | None]
"""(outputs, inputs) of a fused module -> the rows where its parts begin, and where the last ends;
None: the sizes do not allow it, and the module stays whole."""


def thirds(outputs: int, inputs: int) -> Sequence[int] | None:
    """Bounds of three parts of one size."""
    return [outputs * i // 3 for i in range(4)] if outputs % 3 == 0 else None


@dataclass(frozen=True)
class FusedModule:
    """A module that is several layers of diffusers' in one matrix.

    Attributes:
        parts: their paths from the module's block.
        bounds: where they begin and end.
    """

    parts: tuple[str, ...]
    bounds: Bounds = thirds


@dataclass(frozen=True)
class KnownBase:
    """A base model's transformer, by numbers of blocks, widths and names of modules.

    Sources: published configurations and diffusers' classes.

    Attributes:
        width: of its attention.
        blocks: list of blocks -> how many there are, and their modules by patterns.
        outside: pattern of the layers outside of all blocks.
        marks: pattern of paths that no other model has, as far as is known; "": there are none, and
            only all of its blocks tell it.
        claim: pattern of its name in headers and configurations, in lower case.
    """

    name: str
    width: int
    blocks: Mapping[str, tuple[int, Mapping[str, Size]]]
    outside: str
    claim: str
    marks: str = ""

    @cached_property
    def _patterns(self) -> dict[str, list[tuple[re.Pattern[str], Size]]]:
        return {
            name: [(re.compile(pattern), size) for pattern, size in modules.items()]
            for name, (_, modules) in self.blocks.items()
        }

    def has(self, path: str, outputs: int, inputs: int) -> bool:
        """Return whether it may have a layer of this canonical path and size."""
        match = _IN_LIST.fullmatch(path)
        if match is None or match["list"] not in self.blocks:
            return bool(re.fullmatch(self.outside, path))
        if int(match["number"]) >= self.blocks[match["list"]][0]:
            return False
        return any(
            pattern.fullmatch(match["module"])
            and (size is None or (outputs, inputs) == (size[0] * self.width, size[1] * self.width))
            for pattern, size in self._patterns[match["list"]]
        )

    def is_marked(self, path: str) -> bool:
        """Return whether a path is of this model alone."""
        return bool(self.marks and re.search(self.marks, path))


_IN_LIST = re.compile(r"(?P<list>[a-z_]+)\.(?P<number>\d+)\.(?P<module>.+)")


def block_of(path: str) -> tuple[str, int] | None:
    """(list, number) of the block that a path lies in; None: it lies in none."""
    match = _IN_LIST.fullmatch(path)
    return (match["list"], int(match["number"])) if match else None


@dataclass(frozen=True, eq=False)
class Architecture:
    """Names of the layers of models that are built alike.

    Attributes:
        name: for people and tests.
        component: the network that its paths are of.
        bases: its base models.
        first_words: first words of canonical paths, where they alone tell the network.
        words: words of its paths with an underscore inside, which kohya's names keep.
        plain_words: other words of its paths.
        rename: another program's path -> the canonical one; None: it is no path of this model.
        is_shown_by: whether a file's paths and shapes show this model, of one whose names mean
            something else in other models. Then `rename` is asked of such files alone.
        fused: ends of canonical paths -> the parts of the module.
        swapped: pattern of other programs' paths whose two halves of rows diffusers has in the
            other order.
    """

    name: str
    component: str = TRANSFORMER
    bases: tuple[KnownBase, ...] = ()
    first_words: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    plain_words: tuple[str, ...] = ()
    rename: Callable[[str], str | None] = field(default=lambda path: None)
    is_shown_by: Callable[[Mapping[str, Shape]], bool] | None = None
    fused: Mapping[str, FusedModule] = field(default_factory=dict)
    swapped: str = ""
