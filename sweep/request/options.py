"""How a field of a sweep is spelled: on the command line, in a sweep file, and in help.

A field is declared once, by `option`; the command line, the YAML file and shell completion read the
declaration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from lorasweep.features.common.errors import UserError

Read = Callable[[Any], Any]
"""What was typed, or what YAML made of it -> the field's value; raises ValueError with what is
needed instead."""


@dataclass(frozen=True)
class Option:
    """How a field is given.

    Attributes:
        help: what it is, in its unit.
        read: see `Read`.
        kind: what the command line takes it for: bool, int, Path, str, or a list of str.
        show: the value as it would be typed.
        shown_default: what help says of the default, "" for nothing; None: the default as typed.
        only_on: its flag is spelled without a --no- twin.
        known: names to choose from, for shell completion.
        about_data: it says which data are read and how; sweep.json keeps such fields together.
    """

    help: str
    read: Read
    kind: type
    show: Callable[[Any], str]
    shown_default: str | None = None
    only_on: bool = False
    known: Callable[[], Iterable[str]] | None = None
    about_data: bool = False


def as_int(value: Any) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("need a whole number")
    return value


def as_number(value: Any) -> float:
    """A number."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError("need a number") from None


def as_text(value: Any) -> str:
    """A string; YAML may have taken one for a number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("need a text")
    return str(value)


def as_bool(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("need true or false")
    return value


def as_path(value: Any) -> Path:
    """A path."""
    if not isinstance(value, str | Path):
        raise ValueError("need a path")
    return Path(value)


def as_names(value: Any) -> tuple[str, ...]:
    """Names, comma-separated or in a list."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
        raise ValueError("need names, comma-separated or as a list")
    return tuple(item.strip() for item in items if item.strip())


def as_texts(value: Any) -> tuple[str, ...]:
    """Texts, each as it is: one, or a list."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
        raise ValueError("need a text or a list of texts")
    return tuple(items)


def as_pairs(value: Any) -> tuple[tuple[str, str], ...]:
    """REPRESENTATION:CLASSIFIER, comma-separated or in a list."""
    found = []
    for item in as_names(value):
        representation, colon, classifier = item.rpartition(":")
        if not colon or not representation:
            raise ValueError("need REPRESENTATION:CLASSIFIER")
        found.append((representation, classifier))
    return tuple(found)


def as_gpus(value: Any) -> float | None:
    """A number, or 'auto'."""
    if value == "auto":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError("is neither 'auto' nor a number") from None


_KINDS: dict[Read, type] = {as_int: int, as_bool: bool, as_path: Path, as_texts: list}


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(item if isinstance(item, str) else ":".join(item) for item in value)
    return str(value)


def option(
    default: Any,
    read: Read,
    help: str,
    *,
    shown_default: str | None = None,
    only_on: bool = False,
    known: Callable[[], Iterable[str]] | None = None,
    show: Callable[[Any], str] = _show,
    about_data: bool = False,
) -> Any:
    """A field of a dataclass with its `Option`."""
    kind = _KINDS.get(read, str)
    spelled = Option(help, read, kind, show, shown_default, only_on, known, about_data)
    return field(default=default, metadata={"option": spelled})


def options_of(kind: type) -> dict[str, tuple[Field[Any], Option]]:
    """Name -> (field, option) of a dataclass's fields that are options."""
    return {f.name: (f, f.metadata["option"]) for f in fields(kind) if "option" in f.metadata}


def flag_of(name: str) -> str:
    """The command-line spelling of a field's name."""
    return "--" + name.replace("_", "-")


def changed_options(given: Any) -> list[str]:
    """Return the command-line words for the fields of a dataclass that differ from their defaults.

    A flag that is off, and one without a value, cannot be spelled and is left out.
    """
    words: list[str] = []
    for name, (declared, option) in options_of(type(given)).items():
        value = getattr(given, name)
        if value == declared.default or value is None:
            continue
        if option.kind is list:
            words += [word for item in value for word in (flag_of(name), item)]
        else:
            words += [flag_of(name)] if option.kind is bool else [flag_of(name), option.show(value)]
    return words


def read_typed(name: str, option: Option, typed: Any) -> Any:
    """The value of a field from what was typed on the command line.

    Raises:
        UserError: it is none.
    """
    try:
        return option.read(typed)
    except ValueError as error:
        colon = "" if str(error).startswith("is ") else ":"
        raise UserError(f"{flag_of(name)} {typed!r}{colon} {error}") from error
