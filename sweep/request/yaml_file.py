"""A sweep as a YAML file: the same fields as on the command line, checked by the same code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import nearest

from .options import options_of
from .spec import RuntimeOptions, Settings, SweepSpec


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of `SweepSpec` and `RuntimeOptions` that a file gives, as values.

    Names may be written with underscores or as the command line's options, without the dashes
    before them. Relative paths are relative to the working directory, as on the command line.

    Raises:
        UserError: it cannot be read, or says something that is no field or no value of it.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{path} is no YAML: {said}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: need fields like `dataset: examples/digits-zoo`")
    known = {**options_of(SweepSpec), **options_of(RuntimeOptions)}
    found: dict[str, Any] = {}
    for written, value in content.items():
        name = str(written).replace("-", "_")
        if name == "settings":
            found[name] = _settings(path, value)
            continue
        if name not in known:
            raise UserError(
                f"{path}: unknown field {written!r}{nearest(name, [*known, 'settings'])}"
            )
        field, option = known[name]
        try:
            found[name] = field.default if value is None else option.read(value)
        except ValueError as error:
            raise UserError(f"{path}: {written}: {value!r}: {error}") from error
    return found


def _settings(path: Path, value: Any) -> Settings:
    if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
        raise UserError(f"{path}: settings: need CLASSIFIER, and below it SETTING: VALUE")
    return {str(name): {str(k): v for k, v in of.items()} for name, of in value.items()}


def write_yaml(spec: SweepSpec, options: RuntimeOptions) -> str:
    """A file that asks for the same; options that have their defaults are left out, the
    experiment's fields are all there."""
    import yaml

    lines: dict[str, Any] = {}
    for name in options_of(SweepSpec):
        value = getattr(spec, name)
        if value is not None and not (spec.pairs and name in ("representations", "classifiers")):
            lines[name] = _plain(value)
    if spec.settings:
        lines["settings"] = {name: dict(of) for name, of in spec.settings.items()}
    defaults = asdict(RuntimeOptions())
    for name, (_, option) in options_of(RuntimeOptions).items():
        value = getattr(options, name)
        if value != defaults[name]:
            lines[name] = option.show(value) if isinstance(value, Path) else value
    return yaml.safe_dump(lines, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Tuples as YAML's lists, pairs as they are typed."""
    if isinstance(value, tuple):
        return [item if isinstance(item, str) else ":".join(item) for item in value]
    return value
