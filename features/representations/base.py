"""What a representation is, and how one is declared."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorasweep.features.common.errors import UserError
from lorasweep.features.common.plugins import Origin

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-8

NAME = re.compile(r"[a-z][a-z0-9_]*")

Shape = tuple[int, ...]
"""(m, n) of a layer tensor; (outputs, inputs, rank) of a layer."""


def shape_name(shape: Shape) -> str:
    """ "8x2" for (8, 2): a key in JSON."""
    return "x".join(map(str, shape))


Compute = Callable[..., "Tensor"]
Values = Callable[..., Sequence[str]]


class Unit(StrEnum):
    """What one column of a representation's cache is about."""

    TENSOR = "tensor"
    LAYER = "layer"
    ADAPTER = "adapter"


@dataclass(frozen=True)
class Representation:
    """A named map from a layer tensor, or from a layer, to some numbers. Made by `representation`.

    Attributes:
        name: what users type and results are filed under; "name:D" where it takes a size D.
        version: part of cache keys and trial fingerprints.
        unit: what one column is about.
        compute: `MatrixBatch` (tensor) or `UpdateBatch` (layer) of `batch` -> (batch, width); with
            the size as second argument where there is one. None for a view.
        names: a shape (and the size) -> a name for every value.
        parts: for a view, the stored representations it puts side by side; else empty.
        default: whether it belongs to the grid of those who ask for none by name.
        sized: whether it takes a size: None (never), "optional" or "required".
        sizes: the only sizes it takes; empty: any.
        default_size: what a name without a size stands for where one is required.
        size: the size given.
        cached: whether its values are computed once and kept; else they are read from the dataset
            for every trial.
        factors: whether a layer's values are the entries of its two matrices, in the order of a
            `LayerFactors`.
        kernel: of a fitted one, the inner product of a layer whose principal components it is, by
            its name in `lorasweep.features.projections.kernel`; else "".
        invariant: whether the same update factored otherwise, (B·G, G⁻¹·A), or padded with zeros to
            a higher rank, has the same values.
        about: what it is, in one line, if no function's documentation says so.
        origin: where it was loaded from, if it is not built in.
    """

    name: str
    version: str
    unit: Unit
    compute: Compute | None
    names: Values
    parts: tuple[Representation, ...] = ()
    default: bool = False
    sized: str | None = None
    sizes: tuple[int, ...] = ()
    default_size: int | None = None
    size: int | None = None
    cached: bool = True
    factors: bool = False
    kernel: str = ""
    invariant: bool = False
    about: str = ""
    origin: Origin | None = None

    @property
    def stored(self) -> tuple[Representation, ...]:
        """The representations to compute and cache for this one."""
        return self.parts or ((self,) if self.cached and not self.kernel else ())

    @property
    def reference(self) -> str:
        """What `get_representation` finds it by, in any process."""
        if self.origin is None:
            return self.name
        return self.origin.reference + (f":{self.size}" if self.size else "")

    def copied(self, folder: Path) -> Representation:
        """The same, to be loaded by workers from a copy in a folder if it is not built in."""
        return replace(self, origin=self.origin.copied(folder)) if self.origin else self

    @property
    def doc(self) -> str:
        """The first line of its documentation."""
        if self.about:
            return self.about
        if self.parts:
            return f"{', '.join(part.name for part in self.parts)} side by side."
        function = self.compute.func if isinstance(self.compute, partial) else self.compute
        return ((getattr(function, "__doc__", None) or "").strip().splitlines() or [""])[0]

    def values(self, shape: Shape) -> tuple[str, ...]:
        """A name for every value of a column of this shape; as many as there are values."""
        if self.parts:
            return tuple(f"{p.name}.{name}" for p in self.parts for name in p.values(shape))
        return tuple(self.names(shape))

    def width(self, shape: Shape) -> int:
        """Values of a column of this shape."""
        return len(self.values(shape))

    def of_size(self, text: str | None) -> Representation:
        """This representation with the size after its name's colon.

        Raises:
            UserError: it takes none, needs one, or this is none.
        """
        if text is None and self.default_size is not None:
            text = str(self.default_size)
        if text is None:
            if self.sized == "required":
                raise UserError(f"representation {self.name!r} needs a size, as in {self.name}:64")
            if self.sized is None:
                return self
            return replace(
                self, compute=_bound(self.compute, None), names=partial(_named, self.names, None)
            )
        if self.sized is None:
            raise UserError(f"representation {self.name!r} takes no size, not {text!r}")
        if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
            raise UserError(
                f"representation {self.name}:{text}: the size must be a whole number from 1 to "
                "999999"
            )
        size = int(text)
        if self.sizes and size not in self.sizes:
            known = ", ".join(map(str, self.sizes))
            raise UserError(f"representation {self.name}:{text}: the size must be one of {known}")
        return replace(
            self,
            name=f"{self.name}:{size}",
            size=size,
            compute=_bound(self.compute, size),
            names=partial(_named, self.names, size),
        )


def _bound(compute: Compute | None, size: int | None) -> Compute | None:
    return compute and partial(compute, size=size)


def _named(names: Values, size: int | None, shape: Shape) -> Sequence[str]:
    return names(shape, size)


def representation(
    name: str,
    *,
    version: int,
    values: Sequence[str] | Values,
    unit: Unit = Unit.TENSOR,
    sized: str | None = None,
    sizes: Sequence[int] = (),
    default_size: int | None = None,
    default: bool = False,
    cached: bool = True,
    factors: bool = False,
    invariant: bool = False,
) -> Callable[[Compute], Representation]:
    """Declare a function of a batch as a representation.

    Arguments:
        name: lower case letters, digits and underscores.
        version: raise it when its numbers change: what was computed from the old ones is computed
            again.
        values: a name for every value; or a function of a column's shape, (m, n) of a layer tensor
            or (outputs, inputs, rank) of a layer, and, if `sized`, of the size, returning them.
        unit: what one column is about. TENSOR: the function gets a `MatrixBatch`; LAYER: an
            `UpdateBatch`. It returns (batch, len(values)) finite numbers.
        sized: "optional" or "required" if the name may or must be followed by a size, as in
            `name:64`; the function gets it as `size`, None if there is none.
        sizes: the only sizes it takes; empty: any.
        default_size: what a name without the required size stands for.
        default: whether it is in the grid of those who ask for none by name.
        cached: False for what is as quickly read from the dataset, and as large.
        factors: of LAYER, whether the values are the entries of two matrices, (outputs, rank) row
            by row, then (rank, inputs): classifiers that read matrices can then read it.
        invariant: whether (B·G, G⁻¹·A) and padding with zeros to a higher rank change nothing, so
            that a model of it reads adapters of ranks that were not in its training split.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name: need lower case letters, digits and underscores")
    if factors and unit is not Unit.LAYER:
        raise ValueError(f"representation {name!r} cannot be two matrices: it is not of layers")
    if callable(values):
        names = values
    else:
        fixed = tuple(values)

        def names(shape: Shape, *size: Any) -> Sequence[str]:
            return fixed

    def declare(compute: Compute) -> Representation:
        return Representation(
            name,
            str(version),
            unit,
            compute,
            names,
            default=default,
            sized=sized,
            sizes=tuple(sizes),
            default_size=default_size,
            cached=cached,
            factors=factors,
            invariant=invariant,
        )

    return declare


def view(name: str, parts: Sequence[Representation], *, default: bool = False) -> Representation:
    """A representation that is others side by side; it is never computed or stored."""
    version = "+".join(f"{part.name}:{part.version}" for part in parts)
    first = parts[0]
    return Representation(name, version, first.unit, None, first.names, tuple(parts), default)


def principal_components(
    name: str,
    *,
    version: int,
    kernel: str,
    sizes: Sequence[int],
    default_size: int,
    about: str,
    invariant: bool = False,
) -> Representation:
    """Declare principal components of whole adapters, fitted on the training split.

    Arguments:
        kernel: the inner product of a layer, by its name in `features/projections/kernel.py`.
        sizes: how many components there may be.
        default_size: what a name without a size stands for.
        about: one line of documentation.
        invariant: see `representation`.
    """

    def names(shape: Shape, size: int | None) -> Sequence[str]:
        return [f"component_{i}" for i in range(1, (size or default_size) + 1)]

    return Representation(
        name,
        str(version),
        Unit.ADAPTER,
        None,
        names,
        sized="required",
        sizes=tuple(sizes),
        default_size=default_size,
        kernel=kernel,
        invariant=invariant,
        about=about,
    )
