"""A KV cache in memory of the caller's, as C takes it."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Sequence

from . import _memory
from ._library import constant, lib
from ._memory import WORDS
from ._numbers import whole
from .errors import ShapeError
from .quantized import DTYPES

# Element types, by the names of arrays'.
_KINDS = {**DTYPES, "i8": lib.MORAY_INT8}


class Borrows(Protocol):
    """Borrows the arrays of a cache, and keeps what has been borrowed."""

    def view(self, what: str, array: Any, dtypes: Sequence[str], shape: Sequence[int | None] = ()) -> _memory.View: ...

    def strided(self, what: str, array: Any, dtypes: Sequence[str], dimensions: int) -> _memory.Strided: ...


class Pages(NamedTuple):
    """One layer of a cache."""

    n_kv_heads: int
    head_dim: int
    #: Positions of a sequence.
    capacity: int
    #: The `MorayKvPages` of C.
    fields: tuple


def pages_of(
    lender: Borrows, k: Any, v: Any, *, capacity: int, page_table: Any, layout: str, k_scale: Any, v_scale: Any, present: Any,
) -> Pages:  # fmt: skip
    """Borrows what a cache consists of.

    Raises:
        UnsupportedError: for another layout.
        ShapeError, LengthError, DtypeError, DeviceError, LayoutError: for arrays of other sizes, types, places and strides.
    """
    rows, capacity = constant("layout", {"NHD": 1, "HND": 2}, layout), whole("capacity", capacity)
    heads = 3 - rows
    keys, values = lender.strided("k", k, tuple(_KINDS), 4), lender.strided("v", v, tuple(_KINDS), 4)
    for what, got, expected in (("shape", values.view.shape, keys.view.shape), ("strides", values.strides, keys.strides)):
        if got != expected:
            raise ShapeError(f"v: expected the {what} of k, {list(expected)}, got {list(got)}")
    if keys.view.dtype != values.view.dtype:
        raise ShapeError(f"v: expected elements of {keys.view.dtype}, as k has, got {values.view.dtype}")
    shape, strides = keys.view.shape, keys.strides
    pages, page_size, n_kv_heads = shape[0], shape[rows], shape[heads]

    def memory(what: str, array: Any, dtypes: Sequence[str], wanted: Sequence[int | None]) -> tuple[Any, int]:
        return _memory.NONE if array is None else lender.view(what, array, dtypes, wanted).memory

    table = None if page_table is None else lender.view("page_table", page_table, WORDS, (None, None))
    slots, most = (pages, 1) if table is None else table.shape
    scale = (pages, n_kv_heads, page_size)
    fields = (
        _KINDS[keys.view.dtype], keys.view.memory, values.view.memory, memory("k_scale", k_scale, ("f32",), scale),
        memory("v_scale", v_scale, ("f32",), scale), memory("present", present, WORDS, (slots, n_kv_heads, 2 * -(-capacity // 64))),
        _memory.memory(table), slots, pages, page_size, most, strides[0], strides[heads], strides[rows], capacity,
    )  # fmt: skip
    return Pages(n_kv_heads, shape[3], capacity, fields)
