"""Named tensors of a file, as NumPy arrays: safetensors without torch, pickles only through it.

A safetensors file is the length of a header (8 bytes, little-endian), the header in JSON (name ->
dtype, shape and the two offsets of its bytes; `__metadata__` -> strings) and the bytes
(https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BadAdapterError, UnreadableAdapterError

if TYPE_CHECKING:
    import torch

Shape = tuple[int, ...]

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # the upper half of a float32
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
WEIGHT_DTYPES = ("F64", "F32", "F16", "BF16")
"""What weights are read from. Whole numbers are those of a quantised file: without its scales they
are none."""
ALPHA_DTYPES = (*WEIGHT_DTYPES, "I64", "I32", "I16", "I8", "U8")

_FIRST_BYTES = 64
_MAPPED_BYTES = 1 << 25
"""Files from this size on are mapped: reading a smaller one at once is faster."""

PICKLES = (".pt", ".pth", ".bin", ".ckpt")
_ZIP = b"PK\x03\x04"
"""What `torch.save` begins with since torch 1.6; only such a file can be mapped."""


class _TwiceError(Exception):
    """A name that a header has twice."""


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


class TensorFile:
    """What is in a file, known without reading the numbers.

    Attributes:
        path: the file.
        shapes: tensor -> its shape.
        dtypes: tensor -> `F32`, `F16`, `BF16`, … as safetensors spells them.
        metadata: the strings that a safetensors header may hold.
    """

    path: Path
    shapes: dict[str, Shape]
    dtypes: dict[str, str]
    metadata: dict[str, str]

    def array(self, name: str) -> np.ndarray:
        """A tensor as float32; maybe a read-only view.

        Raises:
            BadAdapterError: it has a dtype that is not read.
        """
        raise NotImplementedError


class SafeTensors(TensorFile):
    """A safetensors file; only the header is read until an array is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: Any = None
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                file.seek(0)
                _refuse_download(path, file.read(_FIRST_BYTES))
                raise BadAdapterError(path, "is no whole safetensors file: its header is cut")
            header = file.read(length)
        self._start = 8 + length
        self._parse(header, size - self._start)

    def _parse(self, header: bytes, data_bytes: int) -> None:
        try:
            entries = json.loads(header)
            if header.count(b'"data_offsets"') != len(entries) - ("__metadata__" in entries):
                json.loads(header, object_pairs_hook=_without_doubles)  # says which is there twice
            strings = entries.pop("__metadata__", None) or {}
            self.metadata = {name: str(value) for name, value in strings.items()}
            self.shapes = {name: _shape(entry["shape"]) for name, entry in entries.items()}
            self.dtypes = {name: str(entry["dtype"]) for name, entry in entries.items()}
            self._offsets = {name: _shape(entry["data_offsets"]) for name, entry in entries.items()}
            self._check_offsets(data_bytes)
        except _TwiceError as error:
            raise BadAdapterError(self.path, f"names {error} twice in its header") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BadAdapterError(self.path, "is no safetensors file: bad header") from error

    def _check_offsets(self, data_bytes: int) -> None:
        end, in_order = 0, True
        for name, (start, stop) in self._offsets.items():
            dtype = _DTYPES.get(self.dtypes[name])
            expected = (
                stop - start if dtype is None else dtype.itemsize * math.prod(self.shapes[name])
            )
            if stop < start or stop - start != expected:
                raise BadAdapterError(self.path, f"tensor {name} is not of the size it claims")
            in_order = in_order and start >= end
            end = max(end, stop)
        if not in_order:
            places = sorted((start, stop, name) for name, (start, stop) in self._offsets.items())
            for (_, stop, name), (start, _, other) in pairwise(places):
                if start < stop:
                    raise BadAdapterError(self.path, f"tensors {name} and {other} share bytes")
        if end > data_bytes:
            raise BadAdapterError(
                self.path, f"is cut: {data_bytes} of {end} bytes of weights are there"
            )

    def array(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        kind = self.dtypes[name]
        dtype = _DTYPES.get(kind)
        if dtype is None:
            raise BadAdapterError(self.path, f"tensor {name} has dtype {kind}, which is not read")
        if self._data is None:
            self._data = self._content()
        shape = self.shapes[name]
        values = np.frombuffer(
            self._data, dtype, math.prod(shape), self._start + self._offsets[name][0]
        ).reshape(shape)
        if kind == "BF16":
            return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        if kind != "F64":
            return values.astype(np.float32, copy=False)
        with np.errstate(over="ignore"):  # an infinity is found where bad numbers are looked for
            return values.astype(np.float32)

    def _content(self) -> Any:
        with open(self.path, "rb") as file:
            if self.path.stat().st_size >= _MAPPED_BYTES:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return file.read()


def _refuse_download(path: Path, first: bytes) -> None:
    """Raise a `BadAdapterError` for what is saved in place of a file that was not downloaded."""
    if not first:
        raise BadAdapterError(path, "is empty")
    if first.startswith(b"version https://git-lfs"):
        raise BadAdapterError(
            path, "is no adapter: it begins with “version https://git-lfs”: not downloaded?"
        )
    text = first.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        shown = first.lstrip()[:15].decode(errors="replace")
        raise BadAdapterError(path, f"is no adapter: it begins with “{shown}”: a web page?")
    if text.startswith((b'{"error', b"entry not found", b"invalid username", b"access to model")):
        raise BadAdapterError(path, "is no adapter: it is a server's answer, not a file")


def _shape(sizes: list[int]) -> Shape:
    """Whole numbers that are not negative, as a tuple."""
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(sizes)
    return tuple(sizes)


class JoinedTensors(TensorFile):
    """An adapter's components, each a file of its own, as one file.

    Arguments:
        parts: component -> its file; tensors are named after it.
    """

    def __init__(self, path: Path, parts: Mapping[str, TensorFile]) -> None:
        self.path = path
        self._of = {
            f"{component}.{name}": (part, name)
            for component, part in parts.items()
            for name in part.shapes
        }
        self.shapes = {name: part.shapes[own] for name, (part, own) in self._of.items()}
        self.dtypes = {name: part.dtypes[own] for name, (part, own) in self._of.items()}
        self.metadata = {
            name: value for part in parts.values() for name, value in part.metadata.items()
        }

    def array(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        part, own = self._of[name]
        return part.array(own)


class PickledTensors(TensorFile):
    """A pickle, read by `torch.load(weights_only=True)`, which knows tensors and runs no code."""

    def __init__(self, path: Path) -> None:
        import torch

        self.path = path
        content = load_pickle(path)
        if not isinstance(content, dict):
            raise BadAdapterError(path, f"holds a {type(content).__name__}, no tensors by name")
        self._tensors = {
            name: value
            for name, value in content.items()
            if isinstance(name, str) and isinstance(value, torch.Tensor)
        }
        sparse = [n for n, value in self._tensors.items() if value.layout is not torch.strided]
        if sparse:
            raise BadAdapterError(path, f"tensor {sparse[0]} is sparse, which is not read")
        self.shapes = {name: tuple(value.shape) for name, value in self._tensors.items()}
        self.dtypes = {name: spelled_dtype(value.dtype) for name, value in self._tensors.items()}
        self.metadata = {}

    def array(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        return self._tensors[name].detach().float().numpy()


def load_pickle(path: Path) -> Any:
    """What a pickle holds, if that is tensors and plain values: no code is run. Tensors are mapped
    where the file allows it, and read where they are looked at.

    Raises:
        BadAdapterError: it holds more, or is damaged.
    """
    import pickle

    import torch

    try:
        with open(path, "rb") as file:
            first = file.read(_FIRST_BYTES)
        _refuse_download(path, first)
        mapped = first[: len(_ZIP)] == _ZIP
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except BadAdapterError:
        raise
    except OSError as error:
        raise UnreadableAdapterError(path, f"cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise BadAdapterError(
            path, "is a pickle of more than tensors: it could run code, and is not loaded"
        ) from error
    except Exception as error:  # torch has no list of what it raises for damage
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadAdapterError(path, f"torch cannot load it: {reason}") from error


def spelled_dtype(dtype: torch.dtype) -> str:
    """A dtype as safetensors spells it."""
    import torch

    short = {
        **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16"},
        **{torch.bfloat16: "BF16", torch.int64: "I64", torch.int32: "I32"},
        **{torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
    }
    return short.get(dtype, str(dtype).removeprefix("torch.").upper())
