"""One adapter file as layers: what it has, and the factors of every layer's update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lorasweep.features.architectures.architecture import Architecture
from lorasweep.features.architectures.catalogue import OTHER_BLOCKS, is_swapped
from lorasweep.features.formats.format import ALPHA, MAGNITUDE
from lorasweep.features.layers.names import canonical_name

from .bases import Base, base_by_claims, base_by_layers
from .errors import NoAdapterTensorsError, blamed
from .factors import UpdateShape, factors, update_shape
from .locations import component_weights, find_weights
from .matrix import MatrixRow, matrix_of
from .modules import (
    LOKR_RANK,
    Module,
    group_modules,
    recognise_architecture,
    rename_modules,
    spelling,
)
from .scales import Scaling, read_scaling, scale
from .splits import (
    Part,
    part_factors,
    part_names,
    split,
    swap_halves,
)
from .tensors import (
    ALPHA_DTYPES,
    PICKLES,
    WEIGHT_DTYPES,
    JoinedTensors,
    PickledTensors,
    SafeTensors,
    Shape,
    TensorFile,
)

LayerShape = tuple[int, int, int]
"""(outputs, inputs, rank) of a layer's update."""


class LayerUpdate(NamedTuple):
    """ΔW = scale · up @ down of a layer.

    Attributes:
        down: A, (rank, inputs) float32.
        up: B, (outputs, rank) float32.
        scale: s, in neither of them.
        lost: share of ‖ΔW‖² that a truncated SVD has left out.
    """

    down: np.ndarray
    up: np.ndarray
    scale: float
    lost: float


@dataclass(frozen=True)
class _FileStructure:
    """What the names and shapes of a file's tensors say; the same for many files."""

    modules: list[tuple[Module, UpdateShape, tuple[Part, ...]]]
    architecture: Architecture | None
    shapes: dict[str, LayerShape]
    ignored: tuple[str, ...]
    format: str
    algorithms: tuple[str, ...]
    dora: bool
    swapped: frozenset[str]
    base: Base


@dataclass(frozen=True)
class AdapterFile:
    """An adapter file whose numbers have not been read yet. Made by `open_adapter`.

    Attributes:
        weights: the file.
        format: who spells its layers so: diffusers, diffusers-old, peft, kohya, xlabs, authors or
            other; several are joined by `+`.
        algorithms: what its updates are made of: lora, locon, loha, lokr.
        shapes: canonical layer -> (outputs, inputs, rank), in the order of the file.
        dtypes: of its weights, as safetensors spells them.
        header: the strings of its safetensors header.
        dora: whether it has magnitudes: then B·A alone is not its update.
        ignored: tensors that are of no layer: biases, norms, whole differences.
    """

    weights: Path
    format: str
    algorithms: tuple[str, ...]
    shapes: dict[str, LayerShape]
    dtypes: tuple[str, ...]
    header: dict[str, str]
    dora: bool
    ignored: tuple[str, ...]
    _file: TensorFile = field(repr=False, compare=False)
    _layout: _FileStructure = field(repr=False, compare=False)
    _scaling: Scaling = field(repr=False, compare=False)

    @cached_property
    def base(self) -> Base:
        """The model it was trained on, see `guess_base`."""
        return base_by_claims(self._layout.base, self.header, self._scaling.config)

    @cached_property
    def fused(self) -> frozenset[str]:
        """Layers whose ranks may turn out to be smaller than in `shapes` when they are read: parts
        of fused modules, see `part_factors`."""
        return frozenset(
            part.name
            for _, shape, parts in self._layout.modules
            if len(parts) > 1 and shape.rank % len(parts) == 0
            for part in parts
        )

    @property
    def unread(self) -> dict[str, set[str]]:
        """Layer -> what is ignored of it, like `diff` or `lora_B.bias`; layers without factors are
        there, too."""
        return _unread(self.ignored, self._layout.architecture)

    def split_shapes(self) -> dict[str, LayerShape]:
        """`shapes` with the ranks that parts of fused modules turn out to have; those are read."""
        found = dict(self.shapes)
        for name, layer in self.read(self.fused) if self.fused else ():
            found[name] = (*found[name][:2], len(layer.down))
        return found

    @cached_property
    def alphas(self) -> dict[str, float | None]:
        """Layer -> α; None: there is none, and s is 1."""
        with blamed(self.weights):
            return {
                part.name: alpha
                for module, shape, parts in self._layout.modules
                for alpha in [self._alpha(module, shape)[0]]
                for part in parts
            }

    def read(self, only: frozenset[str] | None = None) -> Iterator[tuple[str, LayerUpdate]]:
        """Every layer, or those of `only`, with its factors; one module in memory at a time.

        Raises:
            BadAdapterError: it is damaged, or has changed.
        """
        with blamed(self.weights):
            yield from self._read(only)

    def _read(self, only: frozenset[str] | None) -> Iterator[tuple[str, LayerUpdate]]:
        for module, shape, parts in self._layout.modules:
            if only is not None and not any(part.name in only for part in parts):
                continue

            def get(part: str, tensors: dict[str, str] = module.tensors) -> np.ndarray:
                return self._file.array(tensors[part])

            down, up, lost = factors(module, get, shape.rank)
            if module.name in self._layout.swapped:
                up = swap_halves(up)
            alpha, rank, root = self._alpha(module, shape)
            s = scale(alpha, rank, root)
            for part, (a, b) in zip(parts, part_factors(parts, down, up)):
                if only is None or part.name in only:
                    yield part.name, LayerUpdate(a, b, s, lost)

    def _alpha(self, module: Module, shape: UpdateShape) -> tuple[float | None, int, bool]:
        """(α, the rank it is divided by, whether by its root)."""
        if ALPHA in module.tensors:
            return (
                float(self._file.array(module.tensors[ALPHA]).reshape(-1)[0]),
                shape.own_rank,
                False,
            )
        alpha, root = self._scaling.alpha_of(module)
        return alpha, shape.own_rank or self._scaling.rank_of(module), root


def open_adapter(
    path: Path, lokr_rank: int = LOKR_RANK, *, earlier_names: bool = False
) -> AdapterFile:
    """Look at an adapter: a `.safetensors` file, a pickle of tensors, a folder of PEFT's or
    diffusers', or `MATRIX.pt/ROW`. Only names, shapes and configurations are read.

    Arguments:
        lokr_rank: most singular values of a LoKr layer that are kept.
        earlier_names: whether layers have the names that version 0.1 gave them.

    Raises:
        BadAdapterError: it is damaged, or of no format that is known.
    """
    weights = find_weights(path)
    with blamed(weights):
        file = _open_tensors(weights)
        layout = _layout(tuple(file.shapes.items()), lokr_rank, earlier_names)
        modules = [module for module, _, _ in layout.modules]
        _check_dtypes(modules, file.dtypes)
        scaling = read_scaling(weights, file.metadata, modules)
    return AdapterFile(
        weights=weights,
        format=layout.format,
        algorithms=layout.algorithms,
        shapes=layout.shapes,
        dtypes=tuple(
            sorted({file.dtypes[t] for m in modules for p, t in m.tensors.items() if p != ALPHA})
        ),
        header=file.metadata,
        dora=layout.dora,
        ignored=layout.ignored,
        _file=file,
        _layout=layout,
        _scaling=scaling,
    )


def _open_tensors(path: Path) -> TensorFile:
    if path.is_dir():
        parts = {name: _open_tensors(own) for name, own in component_weights(path).items()}
        return JoinedTensors(path, parts)
    if matrix_of(path):
        return MatrixRow(path)
    return PickledTensors(path) if path.suffix.lower() in PICKLES else SafeTensors(path)


def _check_dtypes(modules: list[Module], dtypes: dict[str, str]) -> None:
    for module in modules:
        for part, tensor in module.tensors.items():
            if dtypes[tensor] not in (ALPHA_DTYPES if part == ALPHA else WEIGHT_DTYPES):
                raise ValueError(
                    f"tensor {tensor} has dtype {dtypes[tensor]}, which is not read: weights are "
                    f"{', '.join(WEIGHT_DTYPES)}"
                )


@lru_cache(maxsize=256)  # many files of a set have the same tensors
def _layout(
    tensors: tuple[tuple[str, Shape], ...], lokr_rank: int, earlier_names: bool
) -> _FileStructure:
    shapes = dict(tensors)
    modules, ignored = group_modules(shapes)
    if not modules:
        some = ", ".join(list(shapes)[:2]) + (", …" if len(shapes) > 2 else "")
        raise NoAdapterTensorsError(
            f"none of its {len(shapes)} tensors is of a LoRA, LoHa or LoKr adapter"
            + (f" (they are {some})" if some else "")
        )
    sized = []
    for module in modules:
        missing = module.lacks()
        if missing:
            raise ValueError(f"layer {module.spelled} has no {_WORDS.get(missing, missing)}")
        try:
            shape = update_shape(module, shapes, lokr_rank)
        except ValueError as error:
            raise ValueError(f"layer {module.spelled}: {error}") from error
        if not shape.outputs * shape.inputs * shape.rank:
            raise ValueError(f"layer {module.spelled} is empty")
        if ALPHA in module.tensors and prod(shapes[module.tensors[ALPHA]]) != 1:
            raise ValueError(f"layer {module.spelled}: its α is not one number")
        sized.append((module, shape))
    architecture = recognise_architecture((m, (s.outputs, s.inputs)) for m, s in sized)
    if earlier_names and architecture is not OTHER_BLOCKS:
        architecture = None
    if architecture:
        rename_modules(modules, architecture)
    swapped = frozenset(m.name for m in modules if is_swapped(m.spelled, architecture))
    for module, shape in sized:
        if module.name in swapped and shape.outputs % 2:
            raise ValueError(f"layer {module.spelled} has no two halves")
    found = [
        (module, shape, split(module.name, shape.outputs, shape.inputs, architecture))
        for module, shape in sized
    ]
    layers = {
        part.name: (part.stop - part.start, shape.inputs, shape.rank)
        for _, shape, parts in found
        for part in parts
    }
    if len(layers) < sum(len(parts) for _, _, parts in found):
        raise ValueError("a layer is there twice, in a fused module and by itself")
    return _FileStructure(
        found,
        architecture,
        layers,
        tuple(ignored),
        format="+".join(sorted({spelling(module) for module in modules})),
        algorithms=tuple(sorted({module.algorithm for module in modules})),
        dora=any(MAGNITUDE in module.tensors for module in modules),
        swapped=swapped,
        base=base_by_layers(layers),
    )


@lru_cache(maxsize=256)
def _unread(ignored: tuple[str, ...], architecture: Architecture | None) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for tensor in ignored:
        words = tensor.split(".")
        # Where the layer's name ends is not known: whoever asks knows its own layers.
        for i in range(1, len(words)):
            name = canonical_name(".".join(words[:i]), architecture)
            for layer in part_names(name, architecture):
                found.setdefault(layer, set()).add(".".join(words[i:]))
    return found


_WORDS = {"down": "A (down)", "up": "B (up)"}
