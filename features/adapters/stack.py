"""The weights of several adapters as arrays of one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from lorasweep.features.datasets.columns import matrix_column
from lorasweep.features.layers.pairing import rank_column, scale_column, tensor_names

from .adapter import AdapterFile, LayerShape
from .errors import BadAdapterError


class Stack:
    """The factors of some adapters, layer by layer, each padded with zeros to one rank.

    Attributes:
        down, up: layer -> (rows, rank, inputs) and (rows, outputs, rank) float32.
        scale: layer -> (rows,) float32 s.
        ranks: layer -> (rows,) int64, what an adapter's own rank is; of a layer it lacks, the
            stack's.
        rank: (rows,) the largest of an adapter's layers.
        lost: (rows,) largest share of a layer's ‖ΔW‖² that a truncated SVD has left out.

    Arguments:
        layers: layer -> (outputs, inputs, rank).
        rows: how many adapters.
    """

    def __init__(self, layers: Mapping[str, LayerShape], rows: int) -> None:
        self.down = {n: np.zeros((rows, r, i), np.float32) for n, (_, i, r) in layers.items()}
        self.up = {n: np.zeros((rows, o, r), np.float32) for n, (o, _, r) in layers.items()}
        self.scale = {name: np.ones(rows, np.float32) for name in layers}
        self.ranks = {n: np.full(rows, r, np.int64) for n, (_, _, r) in layers.items()}
        self.rank = np.zeros(rows, np.int64)
        self.lost = np.zeros(rows)

    def read(self, row: int, adapter: AdapterFile, wanted: frozenset[str]) -> None:
        """Put an adapter into a row; what it has no layer for is zero.

        Raises:
            BadAdapterError: it cannot be read or has bad numbers; the row is to be written again.
        """
        rank, lost, bad = 0, 0.0, []
        missing = set(wanted)
        for name, layer in adapter.read(wanted):
            missing.discard(name)
            down, up = self.down[name][row], self.up[name][row]
            own = len(layer.down)
            if own > len(down) or (len(layer.up), layer.down.shape[1]) != (len(up), down.shape[1]):
                raise BadAdapterError(adapter.weights, f"layer {name} has another shape by now")
            down[:own], down[own:] = layer.down, 0.0
            up[:, :own], up[:, own:] = layer.up, 0.0
            self.scale[name][row], self.ranks[name][row] = layer.scale, own
            if not (np.isfinite(layer.scale) and np.isfinite(down).all() and np.isfinite(up).all()):
                bad.append(name)
            rank, lost = max(rank, own), max(lost, layer.lost)
        if bad:
            raise BadAdapterError(
                adapter.weights, f"NaN or infinite numbers in {len(bad)} layers, like {bad[0]}"
            )
        if not rank:
            raise BadAdapterError(adapter.weights, "has none of the layers that are kept")
        for name in missing:
            self.down[name][row], self.up[name][row], self.scale[name][row] = 0.0, 0.0, 1.0
            self.ranks[name][row] = self.down[name].shape[1]
        self.rank[row], self.lost[row] = rank, lost

    @property
    def parts(self) -> tuple[dict[str, np.ndarray], ...]:
        """down, up and scale."""
        return self.down, self.up, self.scale

    def select(self, rows: Sequence[int]) -> None:
        """Keep some rows only, in their order."""
        for of in (*self.parts, self.ranks):
            for name, values in of.items():
                of[name] = values[rows]
        self.rank, self.lost = self.rank[rows], self.lost[rows]

    def columns(self, rows: int) -> dict[str, pa.Array]:
        """The first rows as Arrow columns."""
        columns: dict[str, pa.Array] = {}
        for name in self.down:
            down, up = tensor_names(name)
            columns[down] = matrix_column(self.down[name][:rows])
            columns[up] = matrix_column(self.up[name][:rows])
            columns[scale_column(name)] = pa.array(self.scale[name][:rows])
            columns[rank_column(name)] = pa.array(self.ranks[name][:rows])
        return columns
