"""What a representation of a layer config reads of an adapter, and its values of new adapters.

Everything goes by canonical names of layers, so that an adapter may come in any spelling. Values
are computed by the same code as those of a dataset.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lorasweep.features.adapters.adapter import LayerShape
from lorasweep.features.adapters.bases import Base, guess_base
from lorasweep.features.adapters.modules import LOKR_RANK
from lorasweep.features.adapters.stack import Stack
from lorasweep.features.common.errors import UserError
from lorasweep.features.common.names import abbreviate
from lorasweep.features.compute.batches import DatasetBatches
from lorasweep.features.compute.dataset_matrix import read_matrix
from lorasweep.features.datasets.scan import DatasetScan
from lorasweep.features.layers.names import parse_layer
from lorasweep.features.layers.pairing import (
    Layer,
    is_down,
    layer_name,
    rank_column,
    ranked_tensors,
    scale_column,
    tensor_names,
)
from lorasweep.features.representations import Representation, Unit

if TYPE_CHECKING:
    from lorasweep.features.projections.kernel import FactorBatch

WHOLE = "adapter"
"""The one column of what is about whole adapters."""


@dataclass(frozen=True)
class ModelInput:
    """What is read of an adapter.

    Attributes:
        columns: layer tensors or layers in the order of the features, or `WHOLE`.
        tensors: layer tensor -> (m, n), of those that are columns.
        layers: canonical layer -> (outputs, inputs, rank), all that are read, sorted.
        scaled: the layers of which the training data had a scale s.
        ranks: of the training data's adapters.
        dora: whether the training data had adapters of DoRA.
        bases: the models they were trained on; see `guess_base`.
        padded: layers of which the training data had the ranks of before padding: tensors of other
            adapters are taken without padding, too.
        lacking: layers that some of the training data's adapters lacked: they count as zero.
        unread: what was ignored of the training data's layers, see `AdapterFile.unread`.
        lokr_rank: most singular values of a LoKr layer that were kept.
    """

    columns: tuple[str, ...]
    tensors: dict[str, tuple[int, int]]
    layers: dict[str, LayerShape]
    scaled: tuple[str, ...]
    ranks: tuple[int, ...]
    dora: bool
    bases: tuple[str, ...]
    padded: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    lokr_rank: int = LOKR_RANK

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return vars(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ModelInput:
        """From what `to_json` gave, written and read."""
        return cls(
            tuple(value["columns"]),
            {name: (m, n) for name, (m, n) in value["tensors"].items()},
            {name: (m, n, rank) for name, (m, n, rank) in value["layers"].items()},
            tuple(value["scaled"]),
            tuple(value["ranks"]),
            value["dora"],
            tuple(value["bases"] if "bases" in value else [value["base"]]),
            tuple(value.get("padded", ())),
            tuple(value.get("lacking", ())),
            tuple(value.get("unread", ())),
            value.get("lokr_rank", LOKR_RANK),
        )

    # What does not fit

    def problem(
        self, item: Representation, shapes: Mapping[str, LayerShape], base: Base, rank: int
    ) -> str | None:
        """Why an adapter cannot be judged, as far as names and shapes say; None: it can.

        Arguments:
            item: the representation.
            shapes: the adapter's canonical layers.
            base: what is known of the model it was trained on.
            rank: the largest of its layers.
        """
        there = [name for name in self.layers if name in shapes]
        allowed = {*there, *self.lacking}
        missing = [name for name in self.layers if name not in allowed]
        trained = [Base.parse(text) for text in self.bases]
        of = abbreviate([one.in_words for one in trained])
        seems = f"seems to be of {base.in_words}, the model of {of}"
        differs = base.differs_from(trained)
        other = f"; it {seems}" if differs or base.names != trained[0].names else ""
        if not there:
            has = ", ".join(dict.fromkeys(parse_layer(name).component for name in shapes))
            return f"has none of the {len(self.layers)} layers that are read (it has {has}){other}"
        if missing:
            shown = f"lacks {len(missing)} of {len(self.layers)} layers, like {missing[0]}"
            return shown + other
        for name in there:
            own, (outputs, inputs) = shapes[name][:2], self.layers[name][:2]
            if own != (outputs, inputs):
                return (
                    f"layer {name} is {own[0]} × {own[1]}, in training {outputs} × {inputs}: it is "
                    f"of another base model{other}"
                )
        if differs:
            return seems
        return self._rank_problem(item, {name: shapes[name][2] for name in there}, rank)

    def _rank_problem(
        self, item: Representation, ranks: Mapping[str, int], rank: int
    ) -> str | None:
        beyond = [name for name, own in ranks.items() if own > self.layers[name][2]]
        if item.invariant:
            grown = [
                name
                for name in beyond
                if item.unit is Unit.LAYER
                and item.width((*self.layers[name][:2], ranks[name]))
                != item.width(self.layers[name])
            ]
            fits = not grown and not (beyond and item.unit is Unit.TENSOR)
        else:
            same = all(own == self.layers[name][2] for name, own in ranks.items())
            fits = same or (not beyond and rank in self.ranks)
        if fits:
            return None
        known = abbreviate([str(own) for own in self.ranks])
        return f"is of rank {rank}, and {item.name} depends on the rank: in training it was {known}"

    def stack(self, rows: int, rank: int = 0) -> Stack:
        """Room for some adapters' layers, of at least a rank."""
        layers = {name: (m, n, max(rank, own)) for name, (m, n, own) in self.layers.items()}
        return Stack(layers, rows)

    def unknown_scale(self, item: Representation, stack: Stack, row: int) -> str | None:
        """What is wrong with an adapter whose scale the training data do not know."""
        if item.unit is Unit.TENSOR:
            return None  # it reads A and B as they are
        for name, scale in stack.scale.items():
            if name not in self._scaled and scale[row] != 1:
                return (
                    f"layer {name} has a scale of {scale[row]:g} (α), and the training data have "
                    "none: make a dataset of adapter files with `lorasweep data import`, or, if "
                    "its updates are B·A as stored, run with --assume-scale 1"
                )
        return None

    @cached_property
    def _scaled(self) -> set[str]:
        return set(self.scaled)

    # Values

    def values(self, item: Representation, stack: Stack, rows: int) -> np.ndarray:
        """(rows, n_features) float32 of the first adapters of a stack, as the feature stage would
        compute them; not of a fitted representation."""
        layers = []
        for name in self.layers:
            outputs, rank = stack.up[name].shape[1:]
            scale = scale_column(name) if name in self._scaled else None
            shape = outputs, stack.down[name].shape[2], rank
            layers.append(Layer(name, *tensor_names(name), shape, scale))
        table = _Memory(pa.RecordBatch.from_pydict(stack.columns(rows)))
        read = layers if item.unit is Unit.LAYER else []
        tensors = self.tensors if item.unit is Unit.TENSOR else {}
        padded = ranked_tensors(tensors, {rank_column(name) for name in self.padded})
        batches = DatasetBatches(lambda: table, tensors, read, padded)
        return read_matrix(batches, item, self.columns, rows)

    def factors(self, stack: Stack, rows: int) -> list[FactorBatch]:
        """Every layer of the first adapters of a stack, in the order of `layers`."""
        import torch

        from lorasweep.features.projections.kernel import FactorBatch

        return [
            FactorBatch(*(torch.from_numpy(part[name][:rows]) for part in stack.parts))
            for name in self.layers
        ]


@dataclass(frozen=True)
class _Memory:
    """A table in memory."""

    batch: pa.RecordBatch

    def read(self, start: int, stop: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """See `Table`."""
        yield self.batch.select(list(columns)).slice(start, stop - start)


def canonical_layers(layers: Collection[Layer]) -> dict[str, Layer]:
    """Layers of a dataset by their canonical names, sorted.

    Raises:
        UserError: two have one name.
    """
    found = {parse_layer(layer.name).name: layer for layer in layers}
    if len(found) < len(layers):
        raise UserError("the dataset has one layer in two spellings")
    return dict(sorted(found.items()))


def model_input(
    item: Representation,
    columns: Sequence[str],
    scan: DatasetScan,
    ranks: Collection[int],
    *,
    dora: bool,
    bases: Collection[str] = (),
    lacking: Collection[str] = (),
    unread: Collection[str] = (),
    lokr_rank: int = LOKR_RANK,
    assume_scale: bool = False,
) -> ModelInput:
    """What a representation reads, of a dataset's layers.

    Arguments:
        columns: the dataset's tensors or layers that features are of, in their order; of whole
            adapters, the layers.
        ranks: of the dataset's adapters, where a column says so; and so on, see `ModelInput`.
        assume_scale: whether all layers count as having the scale 1 in the dataset.

    Raises:
        UserError: it reads a tensor without its other half, whose layer's size is not known.
    """
    is_tensor = item.unit is Unit.TENSOR
    owners = {layer_name(name) if is_tensor else name for name in columns}
    layers = canonical_layers([layer for layer in scan.layers if layer.name in owners])
    if len(layers) < len(owners):
        paired = {layer.name for layer in layers.values()}
        lonely = next(
            name for name in columns if (layer_name(name) if is_tensor else name) not in paired
        )
        raise UserError(f"layer tensor {lonely} has no other half that fits it")
    tensors = {}
    if is_tensor:
        for name in columns:
            down, up = tensor_names(parse_layer(layer_name(name)).name)
            tensors[down if is_down(name) else up] = scan.tensors[name]
    everything = {name: layer.shape for name, layer in canonical_layers(scan.layers).items()}
    by_dataset = {layer.name: name for name, layer in layers.items()}
    names = tuple(tensors) if is_tensor else tuple(by_dataset[name] for name in columns)
    return ModelInput(
        (WHOLE,) if item.unit is Unit.ADAPTER else names,
        tensors,
        {name: layer.shape for name, layer in layers.items()},
        tuple(name for name, layer in layers.items() if layer.scale or assume_scale),
        tuple(sorted(set(ranks) or {layer.shape[2] for layer in layers.values()})),
        dora,
        tuple(sorted(set(bases))) or (str(guess_base(everything, {}, {})),),
        tuple(n for n, x in layers.items() if is_tensor and rank_column(x.name) in scan.ranks),
        tuple(sorted(layers.keys() & set(lacking))),
        tuple(sorted(set(unread))),
        lokr_rank,
    )
