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

from lorasweep.features.layers.names import LANGUAGE_MODEL, OTHER, parse_layer
from lorasweep.features.layers.spellings import TRANSFORMER, UNET

from .known_bases import KNOWN_BASES, NAMES_OF_BASES, KnownBase, block_numbers

Shape = tuple[int, int, int]

# Width of the text embedding, which keys and values of cross-attention read -> bases.
# Sources: `cross_attention_dim` of the models' published configurations.
_TEXT_WIDTHS = {
    768: ("sd-1",),
    1024: ("sd-2", "svd", "zeroscope"),
    1280: ("sdxl-refiner",),
    2048: ("kolors", "sdxl"),
}
_UNETS = tuple(sorted(name for names in _TEXT_WIDTHS.values() for name in names))
# Layers that only one UNet has.
_UNET_MARKS = {
    "temporal_transformer_blocks": "svd",
    "temp_attentions": "zeroscope",
    "temp_convs": "zeroscope",
    "motion_modules": "animatediff",
}
_KNOWN = {*_UNETS, *_UNET_MARKS.values(), *(base.name for base in KNOWN_BASES)}
_WITHOUT_CLIP = {"kolors", "svd"}
_WITH_TWO_CLIPS = {"sdxl", "sdxl-refiner"}

UNKNOWN = "unknown"
_PARTIAL = "?"
_FINEST_320 = ("sd-1", "sd-2", "svd", "zeroscope")
"""UNets whose finest level with attention has 320 channels."""
_EARLIER = {"sd-1-or-2": _FINEST_320, "unet": _UNETS}
"""Names that earlier versions wrote where they did not know a base."""
_SAYS_NOTHING = ("text-encoder", "transformer", "llm", UNKNOWN)
_WIDTH_ONLY = re.compile(r"(llm|transformer|flux)-\d+|unet-(of-)?\d+(-channels)?")
_UNRECOGNISED = re.compile(r"unknown-.+")


@dataclass(frozen=True)
class Base:
    """Base model of an adapter, as far as it is known.

    Attributes:
        names: bases that have all of its layers, sorted; one: it is certain. Of a language model
            the name that its configuration claims.
        partial: whether blocks are missing whose number would tell the names apart.
        described: what can be said where there is no name: `llm-4096`, `unknown-transformer-64`,
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
        partial = text.endswith(_PARTIAL) and "|" in text
        return cls(tuple((text[:-1] if partial else text).split("|")), partial)

    def __str__(self) -> str:
        mark = _PARTIAL if self.partial and len(self.names) > 1 else ""
        return "|".join(self.names) + mark if self.names else self.described

    @property
    def certain(self) -> str | None:
        """The base; None: it is not certain."""
        return self.names[0] if len(self.names) == 1 else None

    @cached_property
    def _folded(self) -> frozenset[str]:
        return frozenset(name.casefold() for name in self.names)

    @property
    def in_words(self) -> str:
        """For people: "flux"; "chroma or flux"; "unknown-blocks-1536"."""
        if not self.names:
            return self.described
        *others, last = self.names
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

        One that is certain vouches for another only where that one shows all of its blocks: else
        few adapters would decide what many are.
        """
        if self.says_nothing or other.says_nothing:
            return True
        if self._is_any_unet_beside(other) or other._is_any_unet_beside(self):
            return True
        if not self.names or not other.names:
            return self.described == other.described and self.names == other.names
        one_certain = (self.certain is None) != (other.certain is None)
        if one_certain and (self.partial or other.partial):
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
            return own and all(self.described != base.described for base in trained)
        if not named:
            return self._told_by_layers and any(base._told_by_layers for base in trained)
        return not any(self._fits(base) for base in named)

    def _is_any_unet_beside(self, other: Base) -> bool:
        """Return whether its few layers are in every UNet, and the other's UNet is not known."""
        return self.names == _UNETS and other.described.startswith("unknown-unet")

    @property
    def _told_by_layers(self) -> bool:
        """Return whether layers were compared with all known bases, which a claim alone is not."""
        return bool(_KNOWN & self._folded or _UNRECOGNISED.fullmatch(self.described))

    def _fits(self, trained: Base) -> bool:
        if self.certain is not None and trained.certain is None and trained.partial:
            return False
        return bool(self._folded & trained._folded)


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
    """The base that is claimed, if it is among several that fit."""
    if len(base.names) > 1:
        for claim in claims:
            named = next((n for p, n in NAMES_OF_BASES.items() if re.search(p, claim.lower())), "")
            if named in base.names:
                return Base((named,))
    return base


def _model_name(claimed: str) -> str:
    """The last part of a path or a hub's name; of a snapshot in the hub's cache the model's."""
    path = claimed.replace("\\", "/").rstrip("/")
    cached = re.search(r"models--(?:[^/]+--)?([^/]+?)/snapshots/[0-9a-f]+", path)
    name = cached[1] if cached else path.rsplit("/", 1)[-1]
    return "" if name in (".", "..") else name


# UNets


def _unet(shapes: Mapping[str, Shape], components: Collection[str]) -> Base:
    for mark, name in _UNET_MARKS.items():
        if any(f".{mark}." in layer for layer in shapes):
            return Base((name,))
    names: Collection[str] = _UNETS
    widths = [s[1] for name, s in shapes.items() if re.search(r"\.attn2\.to_[kv]$", name)]
    if widths:
        if widths[0] not in _TEXT_WIDTHS:
            return Base(described=f"unknown-unet-{widths[0]}")
        names = _TEXT_WIDTHS[widths[0]]
    else:
        # These alone have several transformer blocks in a row, the refiner no more than four.
        rows = [
            int(n) for layer in shapes for n in re.findall(r"\.transformer_blocks\.(\d+)", layer)
        ]
        if max(rows, default=0) > 0:
            names = {"kolors", "sdxl"} | ({"sdxl-refiner"} if max(rows) < 4 else set())
        else:
            finest = re.compile(
                r"unet\.(down_blocks\.0|up_blocks\.3)\.attentions\.\d\..*attn1\.to_q$"
            )
            fine = [s[1] for name, s in shapes.items() if finest.match(name)]
            if fine and fine[0] != 320:
                return Base(described=f"unknown-unet-of-{fine[0]}-channels")
            if fine:
                names = _FINEST_320
    if "text_encoder_2" in components:
        names = [name for name in names if name in _WITH_TWO_CLIPS] or names
    elif "text_encoder" in components:
        names = [name for name in names if name not in _WITHOUT_CLIP] or names
    return Base(tuple(sorted(names)))


# Transformers


def _transformer(shapes: Mapping[str, Shape]) -> Base:
    layers = [
        (name.partition(".")[2], outputs, inputs) for name, (outputs, inputs, _) in shapes.items()
    ]
    fitting = [base for base in KNOWN_BASES if all(base.has(*layer) for layer in layers)]
    if not fitting:
        return _unrecognised(shapes, TRANSFORMER)
    numbers: dict[str, set[int]] = {}
    for path, _, _ in layers:
        if place := block_numbers(path):
            numbers.setdefault(place[0], set()).add(place[1])
    # Where all blocks of a base are there, one with more of them would show more.
    whole = [base for base in fitting if _is_whole(base, numbers)]
    return Base(tuple(sorted(base.name for base in whole or fitting)), partial=not whole)


def _is_whole(base: KnownBase, numbers: Mapping[str, set[int]]) -> bool:
    """Return whether an adapter has layers in every block of a base, or of a long list of it."""
    counts = {name: base.blocks[name][0] for name in numbers}
    complete = all(len(numbers[name]) == count for name, count in counts.items())
    return (
        complete
        and bool(counts)
        and (len(counts) == len(base.blocks) or min(counts.values()) >= 12)
    )


def _unrecognised(shapes: Mapping[str, Shape], what: str = "") -> Base:
    """Describe layers that no known base has: by their list of blocks and their width."""
    words = Counter(
        word for name in shapes for word in re.findall(r"([A-Za-z_]+)\.\d+(?:\.|$)", name)[:1]
    )
    widths = Counter(
        inputs for name, (_, inputs, _) in shapes.items() if re.search(r"(q|qkv|query)$", name)
    ) or Counter(inputs for _, inputs, _ in shapes.values())
    what = what or (words.most_common(1)[0][0] if words else "")
    return Base(described=f"unknown-{what}-{widths.most_common(1)[0][0]}" if what else UNKNOWN)


def _language_model(shapes: Mapping[str, Shape]) -> Base:
    queries = re.compile(r"\.(q_proj|query_key_value|c_attn|qkv_proj|query|Wqkv)$")
    widths = [s[1] for name, s in shapes.items() if queries.search(name)]
    return Base(described=f"llm-{widths[0]}") if widths else _unrecognised(shapes)
