"""Which base models an adapter may be of: certain, compatible with several, or unknown.

A base is stated only where no other known one has such layers. What a header or a configuration
claims chooses among those that fit, and never beyond.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from lorasweep.features.architectures.architecture import TRANSFORMER, UNET, KnownBase, block_of
from lorasweep.features.architectures.catalogue import CLAIMS, KNOWN_BASES
from lorasweep.features.architectures.unet import FINEST_320, UNET_MARKS, UNETS, fitting_unets
from lorasweep.features.layers.names import LANGUAGE_MODEL, OTHER, parse_layer

Shape = tuple[int, int, int]

_KNOWN = {*UNETS, *UNET_MARKS.values(), *(base.name for base in KNOWN_BASES)}

UNKNOWN = "unknown"
_PARTIAL = "?"
_EARLIER = {"sd-1-or-2": FINEST_320, "unet": UNETS}
"""Names that earlier versions wrote where they did not know a base."""
_SAYS_NOTHING = ("text-encoder", "transformer", "llm", UNKNOWN)
_WIDTH_ONLY = re.compile(r"(llm|transformer|flux)-\d+|unet-(of-)?\d+(-channels)?")
_UNRECOGNISED = re.compile(r"unknown-(?P<lists>.+)-(?P<width>[^-]+)")
_NUMBERED = re.compile(r"([A-Za-z_]+)\.\d+(?:\.|$)")
_LONG, _LONG_ALONE = 12, 8
"""Blocks of a list that tells a base where another list of it is not there: others may fit, or none
that is known."""
_ANY_LIST = "transformer"
"""What stands for an unknown transformer's lists of blocks where none is shown."""


@dataclass(frozen=True)
class Base:
    """Base model of an adapter, as far as it is known.

    Attributes:
        names: bases that have all of its layers, sorted; one: it is certain. Of a language model
            the name that its configuration claims.
        partial: whether blocks are missing whose number would tell its base from others.
        described: what can be said where there is no name: `llm-4096`, `unknown-blocks-1536`,
            `text-encoder`, `unknown`.
        by_name: whether only its name, which a configuration claims, tells it from others.
    """

    names: tuple[str, ...] = ()
    partial: bool = False
    described: str = UNKNOWN
    by_name: bool = field(default=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Base:
        """Read what `str` gave, or what earlier versions wrote."""
        if text in _EARLIER:
            return cls(_EARLIER[text])
        if text in _SAYS_NOTHING or _WIDTH_ONLY.fullmatch(text) or _UNRECOGNISED.fullmatch(text):
            return cls(described=text)
        named = "|" in text or text.removesuffix(_PARTIAL) in _KNOWN
        partial = text.endswith(_PARTIAL) and named
        return cls(tuple((text[:-1] if partial else text).split("|")), partial)

    def __str__(self) -> str:
        mark = _PARTIAL if self.partial else ""
        return "|".join(self.names) + mark if self.names else self.described

    @property
    def certain(self) -> str | None:
        """The base; None: it is not certain."""
        return self.names[0] if len(self.names) == 1 and not self.partial else None

    @cached_property
    def _folded(self) -> frozenset[str]:
        return frozenset(name.casefold() for name in self.names)

    @property
    def in_words(self) -> str:
        """For people: "flux"; "chroma or flux"; "perhaps ltx-video"; "unknown-blocks-1536"."""
        if not self.names:
            return self.described
        *others, last = self.names
        if not others and self.partial:
            return f"perhaps {last}"
        return f"{', '.join(others)} or {last}" if others else last

    @property
    def says_nothing(self) -> bool:
        """Return whether it is as good as any base: it has text encoders' layers alone, or none."""
        return not self.names and self.described in _SAYS_NOTHING

    def is_chosen(self, asked: str) -> bool:
        """Return whether a base that somebody asks for is this one, or one that it may be."""
        return asked.casefold() in (self._folded or {self.described.casefold()})

    def goes_with(self, other: Base) -> bool:
        """Return whether two adapters may be imported together without anybody choosing a base.

        One of a single base vouches for another only where that one shows all of its blocks: else
        few adapters would decide what many are.
        """
        if self.says_nothing or other.says_nothing:
            return True
        if self._is_any_unet_beside(other) or other._is_any_unet_beside(self):
            return True
        if not self.names or not other.names:
            return self.names == other.names and self._is_described_like(other)
        one_alone = (len(self.names) == 1) != (len(other.names) == 1)
        if one_alone and (self.partial or other.partial):
            return False
        return bool(self._folded & other._folded)

    def differs_from(self, trained: Collection[Base]) -> bool:
        """Return whether an adapter is known to be of another base than a model's training data.

        Where one side shows no name that layers decide, shapes tell.
        """
        named = [base for base in trained if base.names]
        if self.says_nothing or not trained:
            return False
        if any(self._is_any_unet_beside(base) for base in trained):
            return False
        if any(base._is_any_unet_beside(self) for base in trained):
            return False
        if not self.names:
            own = self._told_by_layers and all(base._told_by_layers for base in trained)
            return own and not any(self._is_described_like(base) for base in trained)
        if not named:
            return self._told_by_layers and any(base._told_by_layers for base in trained)
        return not any(self._fits(base) for base in named)

    def _is_any_unet_beside(self, other: Base) -> bool:
        """Return whether its few layers are in every UNet, and the other's UNet is not known."""
        return self.names == UNETS and other.described.startswith("unknown-unet")

    @property
    def _told_by_layers(self) -> bool:
        """Return whether layers were compared with all known bases, which a claim alone is not."""
        return bool(_KNOWN & self._folded or _UNRECOGNISED.fullmatch(self.described))

    def _fits(self, trained: Base) -> bool:
        if len(self.names) == 1 != len(trained.names) and trained.partial:
            return False
        return bool(self._folded & trained._folded)

    def _is_described_like(self, other: Base) -> bool:
        """Return whether two unknown bases have one width, and some list of blocks in common."""
        own, theirs = (_UNRECOGNISED.fullmatch(base.described) for base in (self, other))
        if self.described == other.described or not own or not theirs:
            return self.described == other.described
        lists, others = (set(match["lists"].split("+")) for match in (own, theirs))
        shared = lists & others or _ANY_LIST in lists | others
        return own["width"] == theirs["width"] and bool(shared)


def guess_base(
    shapes: Mapping[str, Shape], header: Mapping[str, str], config: Mapping[str, Any]
) -> Base:
    """Return what is known of an adapter's base.

    Arguments:
        shapes: canonical layer -> (outputs, inputs, rank).
        header: a safetensors header's strings.
        config: PEFT's configuration.
    """
    return base_by_claims(base_by_layers(shapes), header, config)


def base_by_layers(shapes: Mapping[str, Shape]) -> Base:
    """Return what layers alone say; see `guess_base`."""
    by_component: dict[str, dict[str, Shape]] = {}
    for name, shape in shapes.items():
        by_component.setdefault(parse_layer(name).component, {})[name] = shape
    if UNET in by_component:
        return _unet(by_component[UNET], set(by_component))
    if TRANSFORMER in by_component:
        return _transformer(by_component[TRANSFORMER])
    if LANGUAGE_MODEL in by_component:
        return replace(_language_model(by_component[LANGUAGE_MODEL]), by_name=True)
    if OTHER in by_component:
        return replace(_unrecognised(by_component[OTHER]), by_name=True)
    return Base(described="text-encoder" if by_component else UNKNOWN)


def base_by_claims(base: Base, header: Mapping[str, str], config: Mapping[str, Any]) -> Base:
    """Return the base that is claimed where it is one of several that layers fit, or where layers
    do not tell models apart, as those of language models."""
    claimed = str(config.get("base_model_name_or_path") or "")
    if base.by_name:
        name = _model_name(claimed)
        return Base((name,)) if name else base
    return _narrowed(base, [claimed, *_claims(header)])


def _claims(header: Mapping[str, str]) -> Iterable[str]:
    # The name of the base's file says nothing: `v2` is the second version of many.
    keys = "modelspec.architecture", "ss_base_model_version", "base_model"
    return [header[key] for key in keys if key in header]


def _narrowed(base: Base, claims: Iterable[str]) -> Base:
    """The base that is claimed, if it is the only one of those that fit."""
    if base.names and not base.certain:
        for claim in claims:
            named = [
                name for name in base.names if re.search(CLAIMS.get(name, "^$"), claim.lower())
            ]
            if len(named) == 1:
                return Base((named[0],))
    return base


def _model_name(claimed: str) -> str:
    """The last part of a path or a hub's name; of a snapshot in the hub's cache the model's."""
    path = claimed.replace("\\", "/").rstrip("/")
    cached = re.search(r"models--(?:[^/]+--)?([^/]+?)/snapshots/[0-9a-f]+", path)
    name = cached[1] if cached else path.rsplit("/", 1)[-1]
    return "" if name in (".", "..") else name


# Transformers


def _unet(shapes: Mapping[str, Shape], components: Collection[str]) -> Base:
    names, described = fitting_unets(
        {name.partition(".")[2]: shape[:2] for name, shape in shapes.items()}, components
    )
    return Base(names) if names else Base(described=described)


def _transformer(shapes: Mapping[str, Shape]) -> Base:
    layers = [
        (name.partition(".")[2], outputs, inputs) for name, (outputs, inputs, _) in shapes.items()
    ]
    fitting = [base for base in KNOWN_BASES if all(base.has(*layer) for layer in layers)]
    if not fitting:
        return _unrecognised(shapes, _ANY_LIST)
    numbers: dict[str, set[int]] = {}
    for path, _, _ in layers:
        if place := block_of(path):
            numbers.setdefault(place[0], set()).add(place[1])
    # Where all blocks of a base are there, one with more of them would show more.
    whole = [base for base in fitting if _is_whole(base, numbers, alone=len(fitting) == 1)]
    marked = len(fitting) == 1 and any(fitting[0].is_marked(path) for path, _, _ in layers)
    return Base(
        tuple(sorted(base.name for base in whole or fitting)), partial=not whole and not marked
    )


def _is_whole(base: KnownBase, numbers: Mapping[str, set[int]], *, alone: bool) -> bool:
    """Return whether an adapter has layers in every block of a base, or of a long list of it.

    Arguments:
        numbers: list of blocks -> numbers of those that the adapter has.
        alone: whether no other known base fits: then the last block of a list is enough.
    """
    counts = {name: base.blocks[name][0] for name in numbers}
    if alone:
        return any(
            count >= _LONG_ALONE and max(numbers[name]) + 1 == count
            for name, count in counts.items()
        ) or _is_whole(base, numbers, alone=False)
    complete = all(len(numbers[name]) == count for name, count in counts.items())
    is_long = max(counts.values(), default=0) >= _LONG
    return complete and bool(counts) and (len(counts) == len(base.blocks) or is_long)


def _unrecognised(shapes: Mapping[str, Shape], without_lists: str = "") -> Base:
    """Describe layers that no known base has: by their lists of blocks and their width."""
    words = {match[1] for name in shapes if (match := _NUMBERED.search(name))}
    blocks = {word for word in words if re.search(r"block|layer|^h$", word)}
    lists = "+".join(sorted(blocks or words)) or without_lists
    widths = Counter(
        inputs for name, (_, inputs, _) in shapes.items() if re.search(r"(q|qkv|query)$", name)
    ) or Counter(inputs for _, inputs, _ in shapes.values())
    return Base(described=f"unknown-{lists}-{widths.most_common(1)[0][0]}" if lists else UNKNOWN)


def _language_model(shapes: Mapping[str, Shape]) -> Base:
    queries = re.compile(r"\.(q_proj|query_key_value|c_attn|qkv_proj|query|Wqkv)$")
    widths = [s[1] for name, s in shapes.items() if queries.search(name)]
    return Base(described=f"llm-{widths[0]}") if widths else _unrecognised(shapes)
