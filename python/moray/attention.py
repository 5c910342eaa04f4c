"""Attention over the heads that run, and the cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Sequence

import numpy as np

from . import _memory
from ._library import check, constant, constants, create, ffi, lib
from ._numbers import index, range_of, u32_list, whole
from ._pages import pages_of
from .cpu import Cpu, shared
from .errors import ShapeError
from .quantized import DTYPES

CACHE_DTYPES = {**DTYPES, "int8": lib.MORAY_INT8}
POLICIES = constants("MORAY_KV_")


class Span(NamedTuple):
    """A run of consecutive tokens of one sequence."""

    #: The sequence's place in the cache.
    slot: int
    #: Position of the first token.
    start: int
    #: Number of tokens.
    len: int


@dataclass(frozen=True)
class HeadLists:
    """The query heads that run of each span, strictly increasing; with ``groups`` KV heads, each for all query heads of its group."""

    lists: Sequence[Sequence[int]]
    groups: bool = False


@dataclass(frozen=True)
class HeadMask:
    """One bit for each query head: u32 [spans, ⌈n_q_heads / 32⌉], head h bit h % 32 of word h / 32; or bool [spans, n_q_heads]."""

    words: Any


class Part(NamedTuple):
    """A part of a call: the first span and KV head that are computed, and one past the last."""

    spans: tuple[int, int]
    kv_heads: tuple[int, int]


class KvCache:
    """Keys and values of layers and sequences. One thread writes it at a time; any number may attend when none does.

    Args:
        head_dim: a multiple of 8, at most 512.
        capacity: positions of a sequence.
        dtype: ``"f32"``, ``"f16"``, ``"bf16"`` or ``"int8"`` with an f32 scale for each row.

    Raises:
        ShapeError: for sizes that are not supported.
    """

    def __init__(self, n_layers: int, n_slots: int, n_kv_heads: int, head_dim: int, capacity: int, dtype: str = "f32") -> None:
        kind = constant("dtype", CACHE_DTYPES, dtype)
        sizes = {"n_layers": n_layers, "n_slots": n_slots, "n_kv_heads": n_kv_heads, "head_dim": head_dim, "capacity": capacity}
        shape = ffi.new("MorayKvShape *", [whole(name, size) for name, size in sizes.items()])
        self.handle = create(lib.moray_kv_cache_destroy, "MorayKvCache", lib.moray_kv_cache_create, shape, kind)
        self.head_dim, self.dtype = head_dim, dtype

    def truncate(self, slot: int, len: int) -> None:
        """Forgets positions `len` and later of a sequence, in every layer; 0 empties it."""
        check(lib.moray_kv_cache_truncate(self.handle, index("slot", slot), index("len", len)))

    def read(self, layer: int, slot: int, kv_head: int, position: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """One key and value as the cache holds them, f32 [head_dim] each, and whether the row is held or a hole, which reads as zeros.

        Raises:
            OutOfRangeError: for a row that is not there.
        """
        k, v = np.empty(self.head_dim, np.float32), np.empty(self.head_dim, np.float32)
        place = {"layer": layer, "slot": slot, "kv_head": kv_head, "position": position}
        row, held = ffi.new("MorayKvRow *", [index(name, at) for name, at in place.items()]), ffi.new("uint32_t *")
        check(lib.moray_kv_cache_read(self.handle, row, (ffi.from_buffer(k), k.nbytes), (ffi.from_buffer(v), v.nbytes), held))
        return k, v, bool(held[0])


class _Lender:
    """Borrows arrays of the CPU, and keeps them."""

    def __init__(self) -> None:
        self._views: list[_memory.View] = []

    def view(self, what: str, array: Any, dtypes: Sequence[str], shape: Sequence[int | None] = ()) -> _memory.View:
        found = _memory.view(what, array, dtypes, shape, writable=what != "page_table")
        self._views.append(found)
        return found

    def strided(self, what: str, array: Any, dtypes: Sequence[str], dimensions: int) -> _memory.Strided:
        found = _memory.strided(what, array, dtypes, dimensions)
        self._views.append(found.view)
        return found


class KvPages:
    """One layer of a KV cache in memory of the caller's, which is kept; it stands where a :class:`KvCache` may, and then the layer that a call names
    is not looked at. One thread writes it at a time, and none meanwhile reads it. Results have the bits of a :class:`KvCache`.

    Args:
        k, v: f32, f16, bf16 or i8, both the same: [pages, positions of a page, n_kv_heads, head_dim], or with layout ``"HND"``
            [pages, n_kv_heads, positions of a page, head_dim]. They may have strides, as halves of one array have; head_dim has none.
        capacity: positions of a sequence.
        page_table: u32 [sequences, pages of a sequence], read by each call; None if sequence s is page s.
        layout: ``"NHD"`` or ``"HND"``.
        k_scale, v_scale: f32 [pages, n_kv_heads, positions of a page] of an i8 cache.
        present: u32 [sequences, n_kv_heads, 2 · ⌈capacity / 64⌉], bit p % 32 of word p / 32 says that position p is held; None where all before a
            span's end are. Zeros to begin with, in a cache with holes.

    Raises:
        UnsupportedError: for another layout.
        ShapeError, LengthError, DtypeError, DeviceError, LayoutError: for arrays of other sizes, types, places and strides.
    """

    def __init__(
        self, k: Any, v: Any, *, capacity: int, page_table: Any = None, layout: str = "NHD", k_scale: Any = None, v_scale: Any = None,
        present: Any = None,
    ) -> None:  # fmt: skip
        self._owners = _Lender()
        found = pages_of(
            self._owners, k, v, capacity=capacity, page_table=page_table, layout=layout, k_scale=k_scale, v_scale=v_scale, present=present
        )
        #: Key and value heads.
        self.n_kv_heads: int = found.n_kv_heads
        #: Elements of a head.
        self.head_dim: int = found.head_dim
        #: Positions of a sequence.
        self.capacity = capacity
        self.fields = ffi.new("MorayKvPages *", found.fields)


class Attention:
    """What attention of a head layout works in, made once. One thread uses it at a time.

    Args:
        n_q_heads: a multiple of `n_kv_heads`.
        max_rows: the most tokens of a call.
        max_spans: the most spans of a call.
        capacity: the longest context; the cache's capacity.

    Raises:
        ShapeError: for a head layout that is not supported.
    """

    def __init__(
        self, n_q_heads: int, n_kv_heads: int, head_dim: int, *, max_rows: int, max_spans: int, capacity: int, cpu: Cpu | None = None,
    ) -> None:  # fmt: skip
        self.cpu = cpu or shared()
        self.n_q_heads, self.n_kv_heads, self.head_dim = n_q_heads, n_kv_heads, head_dim
        sizes = {
            "n_q_heads": n_q_heads, "n_kv_heads": n_kv_heads, "head_dim": head_dim, "max_rows": max_rows, "max_spans": max_spans,
            "capacity": capacity,
        }  # fmt: skip
        shape = ffi.new("MorayAttentionShape *", [whole(name, size) for name, size in sizes.items()])
        make = lib.moray_attention_create
        self.handle = create(lib.moray_attention_destroy, "MorayAttention", make, self.cpu.handle, shape)

    def write_kv(
        self, cache: KvCache | KvPages, layer: int, spans: Sequence[Span], k: Any, v: Any, *, heads: HeadLists | HeadMask | None = None,
        policy: str = "write_all",
    ) -> None:  # fmt: skip
        """Writes the keys and values of the spans' tokens, f32 [M, n_kv_heads, head_dim] each; keys are turned by the rotary embedding already.

        Args:
            policy: what is stored for a head that no query head reads: ``"write_all"`` all the same, ``"hole"`` nothing, so that later tokens
                leave the position out of its softmax, ``"zero"`` zeros, which take part.

        Raises:
            OutOfRangeError: for a layer, slot or position out of range.
            LengthError, ShapeError: for arrays of other sizes.
            BusyError: if another thread is using the cache.
        """
        number = constant("policy", POLICIES, policy)
        shape = (None, self.n_kv_heads, self.head_dim)
        keys, values = _memory.view("k", k, ("f32",), shape), _memory.view("v", v, ("f32",), shape)
        call, _alive = self._call(cache, layer, spans, heads)
        check(lib.moray_write_kv(self.cpu.handle, call, number, keys.memory, values.memory))

    def attend(
        self, cache: KvCache | KvPages, layer: int, spans: Sequence[Span], q: Any, *, heads: HeadLists | HeadMask | None = None, out: Any = None,
        part: Part | None = None,
    ) -> Any:  # fmt: skip
        """Computes out[t, h] = Σ_j softmax_j(q[t, h] · k[j] / √head_dim) · v[j] over the positions j up to t's own that the cache holds, for the
        heads that run; others give zeros. The spans' own tokens have been written.

        Args:
            q: f32 [M, n_q_heads, head_dim], turned by the rotary embedding.
            out: the same, apart from `q`; without it a new numpy array.
            part: what of it is computed; all without it. Threads of the caller's own share a call by parts that do not overlap, each with an
                :class:`Attention` of its own on a ``Cpu(1)``.

        Raises:
            OutOfRangeError, ShapeError: for a part.
            NotIncreasingError: for a list with duplicates.
            OverlapError: if `out` overlaps `q`.
            Besides as :meth:`write_kv`.
        """
        found = _memory.view("q", q, ("f32",), (None, self.n_q_heads, self.head_dim))
        if out is None:
            if part is not None:
                raise ShapeError(f"out: expected an array for {part}, got none: the rest has no value")
            out = np.empty(found.shape, np.float32)
        written = _memory.view("out", out, ("f32",), found.shape, writable=True)
        call, _alive = self._call(cache, layer, spans, heads)
        if part is not None:
            call.span_begin, call.span_end = range_of("spans", part.spans, len(spans))
            call.kv_head_begin, call.kv_head_end = range_of("kv_heads", part.kv_heads, self.n_kv_heads)
        check(lib.moray_attend(self.cpu.handle, call, found.memory, written.memory))
        return out

    def _call(
        self, cache: KvCache | KvPages, layer: int, spans: Sequence[Span], heads: HeadLists | HeadMask | None,
    ) -> tuple[Any, Any]:  # fmt: skip
        """The `MorayAttend` of C, and what has to live during the call."""
        handle, pages = ffi.NULL, ffi.NULL
        match cache:
            case KvCache():
                handle = cache.handle
            case KvPages():
                for name in ("n_kv_heads", "head_dim"):
                    if getattr(cache, name) != getattr(self, name):
                        raise ShapeError(f"cache: expected {name} of {getattr(self, name)}, got {getattr(cache, name)}")
                pages = cache.fields
            case _:
                raise TypeError(f"cache: expected a KvCache or KvPages, got {type(cache).__name__}")
        listed, counts = None, None
        match heads:
            case None:
                kind = lib.MORAY_HEADS_ALL
            case HeadLists(lists, groups):
                kind = lib.MORAY_HEADS_GROUPS if groups else lib.MORAY_HEADS_LIST
                rows = [u32_list("heads", values) for values in lists]
                counts = np.array([len(row) for row in rows], np.uint32)
                listed = np.zeros((len(rows), max(counts, default=0)), np.uint32)
                for row, values in zip(listed, rows):
                    row[: len(values)] = values
            case HeadMask(words):
                kind, listed = lib.MORAY_HEADS_MASK, self._words(words)
            case _:
                raise TypeError(f"heads: expected HeadLists, HeadMask or None, got {type(heads).__name__}")
        views = [_memory.optional("heads", array, ("u32",)) for array in (listed, counts)]
        runs = ffi.new("MoraySpan[]", [[index(f"spans.{name}", at) for name, at in zip(Span._fields, span, strict=True)] for span in spans])
        call = ffi.new("MorayAttend *", (
            ffi.sizeof("MorayAttend"), kind, self.handle, handle, index("layer", layer), runs, len(runs), *map(_memory.memory, views), 0, 0, 0, 0, pages,
        ))  # fmt: skip
        return call, (views, runs)

    def _words(self, words: Any) -> Any:
        found = _memory.view("heads", words, ("u32", "bool"), (None, None))
        if found.dtype == "u32":
            return words
        _memory.check_shape("heads", found.shape, (None, self.n_q_heads))
        bits = np.frombuffer(ffi.buffer(found.address, found.bytes), np.uint8).reshape(found.shape)
        padded = np.zeros((found.shape[0], -(-found.shape[1] // 32) * 4), np.uint8)
        packed = np.packbits(bits, axis=1, bitorder="little")
        padded[:, : packed.shape[1]] = packed
        return padded.view("<u4")
