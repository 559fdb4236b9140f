"""Layer configs: named predicates on layer tensors, built in or a user's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import check_doubles
from lorasweep.features.common.plugins import Origin, check_own_name, load, require_origin

from .families import (
    FAMILIES,
    WITHOUT_TOP,
    ConfigFamily,
    family_of,
    with_deciding,
    without_count,
)
from .names import (
    CROSS_ATTENTION,
    FEED_FORWARD,
    SELF_ATTENTION,
    LayerParts,
    canonical_name,
    parse_layer,
)
from .pairing import Layer, layer_name

GROUP = "lorasweep.configs"
"""The entry points that bring layer configs."""


@dataclass(frozen=True)
class LayerConfig:
    """Which layer tensors a classifier sees. Made by `layer_config`.

    Attributes:
        name: what users type and results are filed under.
        version: part of trial fingerprints.
        selects: whether it has a layer tensor of this name.
        doc: one line of documentation.
        origin: where it was loaded from, if it is brought by a file or a package.
        regex: what it was made from, if it was a regular expression.
    """

    name: str
    version: str
    selects: Callable[[str], bool]
    doc: str = ""
    origin: Origin | None = None
    regex: str | None = None

    def tensors(self, names: Iterable[str]) -> list[str]:
        """Those of some layer tensors that it has, in sorted order.

        Raises:
            UserError: it has none of them.
        """
        names = sorted(names)
        selected = [name for name in names if self.selects(name)]
        if not selected and self.regex is not None:
            some = ", ".join(sorted({canonical_name(layer_name(name)) for name in names})[:3])
            raise UserError(
                f"layer config {self.name!r}: its regular expression {self.regex!r} is found in no "
                f"layer's canonical name (they are like {some})"
            )
        if not selected:
            some = ", ".join(names[:3])
            raise UserError(
                f"layer config {self.name!r} selects none of the {len(names)} layer tensors "
                f"(they are named like {some}); leave it out with --configs"
            )
        return selected

    def copied(self, folder: Path) -> LayerConfig:
        """The same, its source copied to a folder if it is not built in."""
        return replace(self, origin=self.origin.copied(folder)) if self.origin else self

    def layers(self, layers: Iterable[Layer]) -> list[str]:
        """Names of those layers of which it has both tensors, in sorted order."""
        return sorted(
            layer.name for layer in layers if self.selects(layer.down) and self.selects(layer.up)
        )


def layer_config(name: str, *, version: int) -> Callable[[Callable[[str], bool]], LayerConfig]:
    """Declare a function of a layer tensor's name as a layer config.

    Arguments:
        version: raise it when it selects other tensors: its trials run again.
    """

    def declare(selects: Callable[[str], bool]) -> LayerConfig:
        doc = ((selects.__doc__ or "").strip().splitlines() or [""])[0]
        return LayerConfig(name, str(version), selects, doc)

    return declare


# In Stable Diffusion's transformer blocks `attn1` is self-attention (the image attends to itself)
# and `attn2` cross-attention to the text embedding.


@layer_config("all_layers", version=1)
def all_layers(tensor: str) -> bool:
    """Every layer tensor."""
    return True


@layer_config("visual_only", version=1)
def visual_only(tensor: str) -> bool:
    """Self-attention: `.attn1.` in the name."""
    return ".attn1." in tensor


@layer_config("text_only", version=1)
def text_only(tensor: str) -> bool:
    """Cross-attention to the text: `.attn2.` in the name."""
    return ".attn2." in tensor


# What a name says may be read better one day: whoever changes that raises the versions below.


def _parts(tensor: str) -> LayerParts:
    return parse_layer(layer_name(tensor))


@layer_config("attention", version=1)
def attention(tensor: str) -> bool:
    """Self- and cross-attention of every component."""
    return _parts(tensor).kind in (SELF_ATTENTION, CROSS_ATTENTION)


@layer_config("feedforward", version=1)
def feedforward(tensor: str) -> bool:
    """Feed-forward layers of every component."""
    return _parts(tensor).kind == FEED_FORWARD


@layer_config("down_blocks", version=1)
def down_blocks(tensor: str) -> bool:
    """The UNet's blocks on the way down, with what lies in them."""
    return _parts(tensor).block.startswith("down_blocks.")


@layer_config("mid_block", version=1)
def mid_block(tensor: str) -> bool:
    """The UNet's block between the way down and the way up."""
    return _parts(tensor).block == "mid_block"


@layer_config("up_blocks", version=1)
def up_blocks(tensor: str) -> bool:
    """The UNet's blocks on the way up, with what lies in them."""
    return _parts(tensor).block.startswith("up_blocks.")


@layer_config("text_encoder", version=1)
def text_encoder(tensor: str) -> bool:
    """All text encoders of a diffusion model."""
    return _parts(tensor).component.startswith("text_encoder")


LAYER_CONFIGS = {item.name: item for item in list(vars().values()) if isinstance(item, LayerConfig)}
"""Every built-in config by name."""

CONFIG_NAMES = (*LAYER_CONFIGS, *FAMILIES, WITHOUT_TOP)
"""What `--configs` knows by name: configs and families of them."""

DEFAULT_CONFIGS = ("all_layers", "visual_only")


def fitting_defaults(tensors: Iterable[str]) -> tuple[str, ...]:
    """Those of the default configs that select some of a dataset's layer tensors."""
    tensors = list(tensors)
    return tuple(n for n in DEFAULT_CONFIGS if any(map(LAYER_CONFIGS[n].selects, tensors)))


def regex_config(name: str, regex: str) -> LayerConfig:
    """The config of the layers in whose canonical name a regular expression is found.

    Its version is the expression: another one makes its trials run again.

    Raises:
        UserError: the name is no word or that of a built-in config, or the expression is no valid
            one.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise UserError(
            f"--config-regex: {name!r} is no name for a layer config: need a letter, then letters, "
            "digits and underscores"
        )
    if name in CONFIG_NAMES:
        raise UserError(f"--config-regex: the name {name!r} is that of a built-in layer config")
    try:
        pattern = re.compile(regex)
    except re.error as error:
        raise UserError(
            f"--config-regex {name}: {regex!r} is no regular expression: {error}"
        ) from error

    def selects(tensor: str) -> bool:
        return pattern.search(canonical_name(layer_name(tensor))) is not None

    doc = f"`{regex}` in a layer's canonical name"
    return LayerConfig(name, f"regex {regex}", selects, doc, regex=regex)


def parse_regexes(assignments: Sequence[str]) -> dict[str, str]:
    """NAME=REGEX texts as name -> regular expression.

    Raises:
        UserError: one has no `=`, a name is given twice, or `regex_config` refuses it.
    """
    pairs = [text.partition("=")[::2] for text in assignments]
    for text, (name, regex) in zip(assignments, pairs):
        if not (name and regex):
            raise UserError(f"--config-regex {text!r}: need NAME=REGEX")
        regex_config(name, regex)
    check_doubles("--config-regex", [name for name, _ in pairs])
    return dict(pairs)


def get_config(reference: str) -> LayerConfig:
    """A config by its name, entry point, `package.module:object` or `path/to/file.py:object`.

    Raises:
        UserError: there is none, or it cannot be loaded.
    """
    if reference in LAYER_CONFIGS:
        return LAYER_CONFIGS[reference]
    if without_count(reference):
        return LayerConfig(reference, "1", lambda tensor: True, "All layers but the best K.")
    of = family_of(reference)
    if of:
        raise UserError(f"layer config {reference!r}: name its whole family, {of}")
    origin = require_origin(reference, "layer config", GROUP, CONFIG_NAMES)
    found = load(origin, "layer config", LayerConfig)
    check_own_name(origin, "layer config", found.name, CONFIG_NAMES)
    if family_of(found.name):
        raise UserError(f"{reference}: the name {found.name!r} is that of a built-in family")
    return replace(found, version=f"{found.version}-{origin.digest[:12]}", origin=origin)


def get_configs(
    references: Sequence[str],
    regexes: Mapping[str, str] | None = None,
    tensors: Iterable[str] = (),
) -> list[LayerConfig]:
    """Several of them, families as their members, and with `without_top:K` what decides it.

    Arguments:
        regexes: name -> regular expression: configs that are named among the references, or come
            after them.
        tensors: the dataset's layer tensors, which decide what members a family has.

    Raises:
        UserError: there are none, one cannot be had, two have the same name, or there are no more
            layers than one leaves out.
    """
    made = {name: regex_config(name, regex) for name, regex in (regexes or {}).items()}
    names = [*references, *(name for name in made if name not in references)]
    if not names:
        raise UserError(f"no layer config given; choose from {', '.join(CONFIG_NAMES)}")
    check_doubles("layer config", names)
    tensors = list(tensors)
    names = with_deciding(names, tensors)
    found: list[LayerConfig] = []
    for name in names:
        if name in FAMILIES:
            found += members(FAMILIES[name], tensors)
        else:
            found.append(made.get(name) or get_config(name))
    check_doubles("layer config", [item.name for item in found])
    return found


def members(family: ConfigFamily, tensors: Iterable[str]) -> list[LayerConfig]:
    """The configs that a family stands for, in the order of the network.

    Arguments:
        tensors: all layer tensors of the dataset.
    """
    return [
        LayerConfig(name, family.member_version(of), frozenset(of).__contains__, family.doc)
        for name, of in family.members(tensors).items()
    ]


def uncovered(tensors: Iterable[str]) -> list[str]:
    """Layer tensors that are in neither `visual_only` nor `text_only`, where others are."""
    names = sorted(tensors)
    left = [n for n in names if not (visual_only.selects(n) or text_only.selects(n))]
    return left if len(left) < len(names) else []
