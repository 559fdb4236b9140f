"""All architectures, and what is asked of them together.

A new one is a file beside this one, an entry here, and one of expected names in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from . import (
    auraflow,
    cosmos,
    flux,
    flux_2,
    hidream,
    hunyuan_video,
    ltx_video,
    lumina_2,
    pixart,
    qwen_image,
    sd_3,
    unet,
    wan,
    z_image,
)
from .architecture import TRANSFORMER, Architecture, FusedModule, KnownBase, Shape
from .joint_attention import FUSED, SWAPPED
from .text_encoder import PLAIN_WORDS as PLAIN_TEXT_WORDS
from .text_encoder import WORDS as TEXT_WORDS

_FINAL = re.compile(r"final_layer\.(linear|adaLN_modulation\.1)")
_AUTHORS_LISTS = ("double_blocks.", "single_blocks.", "joint_blocks.")


def _keep_final_layer(path: str) -> str | None:
    return path if _FINAL.fullmatch(path) else None


def _has_foreign_blocks(shapes: Mapping[str, Shape]) -> bool:
    """HiDream and others have a final layer of the same names beside other blocks, and diffusers
    leaves it as it is."""
    if not any(map(_FINAL.fullmatch, shapes)):
        return False
    if any(path.startswith(_AUTHORS_LISTS) for path in shapes):
        return False
    return any(re.search(r"\.\d+\.", path) for path in shapes)


OTHER_BLOCKS = Architecture(
    "other blocks", rename=_keep_final_layer, is_shown_by=_has_foreign_blocks
)
"""Any transformer whose final layer only looks like Flux'."""

ARCHITECTURES = (
    unet.ARCHITECTURE,
    flux.ARCHITECTURE,
    hunyuan_video.ARCHITECTURE,
    flux_2.ARCHITECTURE,
    sd_3.ARCHITECTURE,
    wan.ARCHITECTURE,
    qwen_image.ARCHITECTURE,
    lumina_2.ARCHITECTURE,
    z_image.ARCHITECTURE,
    cosmos.ARCHITECTURE,
    hidream.ARCHITECTURE,
    ltx_video.ARCHITECTURE,
    pixart.ARCHITECTURE,
    auraflow.ARCHITECTURE,
    OTHER_BLOCKS,
)
_OF_0_1 = (unet.ARCHITECTURE, flux.ARCHITECTURE, sd_3.ARCHITECTURE, wan.ARCHITECTURE)
KNOWN_BASES: tuple[KnownBase, ...] = tuple(
    base for architecture in ARCHITECTURES for base in architecture.bases
)
"""Transformers that adapters are told by."""
BLOCK_LISTS = frozenset(name for base in KNOWN_BASES for name in base.blocks)
"""Lists of blocks of transformers."""
CLAIMS: dict[str, str] = {**unet.UNET_CLAIMS, **{base.name: base.claim for base in KNOWN_BASES}}
"""Base -> pattern of its name in headers and configurations."""

WORDS = frozenset(word for item in ARCHITECTURES for word in item.words)
"""Words of paths with an underscore inside."""
PLAIN_WORDS = frozenset(word for item in ARCHITECTURES for word in item.plain_words)
NEW_WORDS = (WORDS | PLAIN_WORDS).difference(
    *((*item.words, *item.plain_words) for item in _OF_0_1), TEXT_WORDS, PLAIN_TEXT_WORDS
)
"""Those that version 0.1 did not know."""
_FIRST_WORDS = {word: item.component for item in ARCHITECTURES for word in item.first_words}


def component_of(path: str) -> str:
    """The network whose canonical paths begin like this one; "": it does not tell."""
    return _FIRST_WORDS.get(path.split(".")[0], "")


@cache
def rename(path: str, component: str = "") -> tuple[str, str] | None:
    """(component, canonical path) of another program's path that means one thing everywhere.

    Arguments:
        component: the network that it is of; "": the path tells.
    """
    for item in ARCHITECTURES:
        if item.is_shown_by is None and component in ("", item.component):
            renamed = item.rename(path)
            if renamed:
                return item.component, renamed
    return None


def recognise(shapes: Mapping[str, Shape]) -> Architecture | None:
    """The architecture that a file's transformer shows, of those whose names mean something else in
    other models; None: none of them.

    Arguments:
        shapes: path in any program's spelling -> (outputs, inputs).
    """
    shown = (item for item in ARCHITECTURES if item.is_shown_by and item.is_shown_by(shapes))
    return next(shown, None)


def fused_module(name: str, architecture: Architecture | None) -> tuple[str, FusedModule] | None:
    """(the end of a canonical layer's name, its parts) of a fused module; None: it is none."""
    if not name.startswith(f"{TRANSFORMER}."):
        return None
    table = architecture.fused if architecture and architecture.fused else FUSED
    return next(((end, table[end]) for end in table if name.endswith(f".{end}")), None)


def is_swapped(path: str, architecture: Architecture | None) -> bool:
    """Return whether diffusers has the two halves of a module's rows in the other order.

    Arguments:
        path: another program's, in dots or in underscores.
    """
    pattern = architecture.swapped if architecture else SWAPPED
    return bool(pattern and re.search(pattern, path))
