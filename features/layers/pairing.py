"""Layer tensors and the layers they belong to, known by the names of dataset columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from .names import TensorName, parse_tensor


def is_layer_tensor(column: str) -> bool:
    """Whether a dataset column holds LoRA weights (see docs/layers.md for how they are named)."""
    return parse_tensor(column) is not None


def is_down(column: str) -> bool:
    """Whether a layer tensor is the down projection (r × in); the other is up (out × r)."""
    return _parsed(column).down


def layer_name(tensor: str) -> str:
    """The layer of a layer tensor, in the dataset's own spelling."""
    return _parsed(tensor).layer


def _parsed(tensor: str) -> TensorName:
    parsed = parse_tensor(tensor)
    if parsed is None:
        raise ValueError(f"{tensor!r} is no layer tensor")
    return parsed


@dataclass(frozen=True)
class Layer:
    """An adapted module: its two layer tensors, ΔW = s·B·A with A = down and B = up.

    Attributes:
        name: what the two tensors' names have in common, like `unet.….attn1.to_q`.
        down: name of the (rank, inputs) tensor.
        up: name of the (outputs, rank) tensor.
        shape: (outputs, inputs, rank).
        scale: the column of s; None: s is 1.
    """

    name: str
    down: str
    up: str
    shape: tuple[int, int, int]
    scale: str | None


def tensor_names(layer: str) -> tuple[str, str]:
    """What the two tensors of a layer are called in a dataset that is made here: down, up."""
    return f"{layer}.lora.down.weight", f"{layer}.lora.up.weight"


def scale_column(layer: str) -> str:
    """The column that holds a layer's scale s, where a dataset has it."""
    return f"{layer}.scale"


def rank_column(layer: str) -> str:
    """The column that holds an adapter's own ranks of a layer, where a dataset pads them to one."""
    return f"{layer}.rank"


def ranked_tensors(tensors: Iterable[str], columns: Collection[str]) -> dict[str, str]:
    """Layer tensor -> the column of its own ranks, of those that have one.

    Arguments:
        columns: columns of ranks that there are.
    """
    found = {name: rank_column(layer_name(name)) for name in tensors} if columns else {}
    return {name: column for name, column in found.items() if column in columns}


def pair_layers(
    tensors: Mapping[str, tuple[int, int]], columns: Collection[str] = ()
) -> list[Layer]:
    """The layers of which both tensors are there and fit each other, in sorted order.

    A pair of flat lists whose rank is not known is taken for rank 1.

    Arguments:
        tensors: layer tensor -> (m, n).
        columns: columns of scales that there are.
    """
    halves: dict[str, dict[bool, str]] = {}
    for tensor in tensors:
        halves.setdefault(layer_name(tensor), {})[is_down(tensor)] = tensor
    layers = []
    for name, half in sorted(halves.items()):
        if len(half) < 2:
            continue
        down, up = half[True], half[False]
        (rank, inputs), (outputs, up_rank) = tensors[down], tensors[up]
        if rank == 1 and outputs == 1:
            outputs, up_rank = up_rank, 1
        if up_rank == rank:
            scale = scale_column(name)
            shape = outputs, inputs, rank
            layers.append(Layer(name, down, up, shape, scale if scale in columns else None))
    return layers
