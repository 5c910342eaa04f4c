"""Attention over the heads that run, on a device, over a cache of the caller's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from .. import _memory
from .._library import check, constant, constants, ffi, lib
from .._memory import WORDS
from .._numbers import WORD, whole
from .._pages import pages_of
from ..attention import Span
from ..errors import LayoutError, LengthError, OutOfRangeError
from ..quantized import DTYPES
from ._arrays import Lender
from ._device import UNORDERED, current, handle_of

POLICIES = constants("MORAY_KV_")


@dataclass(frozen=True)
class HeadLists:
    """The query heads that run of each span: u32 [spans, width], strictly increasing as far as `counts`, u32 [spans], go; with ``groups`` KV
    heads, each for all query heads of its group."""

    lists: Any
    counts: Any
    groups: bool = False


@dataclass(frozen=True)
class HeadMask:
    """One bit for each query head: u32 [spans, ⌈n_q_heads / 32⌉], head h bit h % 32 of word h / 32."""

    words: Any


def span_records(spans: Sequence[Span]) -> np.ndarray:
    """Spans as kernels read them, to be copied to the device: u32 [spans, 4], slot, start, length and the row of the first token."""
    records, row = [], 0
    for span in spans:
        fields = {**dict(zip(Span._fields, span, strict=True)), "row": row}
        records.append([whole(f"spans.{name}", at, WORD, OutOfRangeError) for name, at in fields.items()])
        row += records[-1][2]
    return np.array(records, np.uint32).reshape(-1, 4)


class Batch:
    """The tokens of a call, and the heads that run for them. Kernels read both, so that a graph replays with others as long as the numbers here
    hold.

    Args:
        records: u32 [spans, 4] in device memory, see :func:`span_records`. It is kept.
        rows: M, the tokens of all spans at most.
        longest: the tokens of the longest span at most.
        heads: which heads run; None for all.
    """

    def __init__(self, records: Any, *, rows: int, longest: int, heads: HeadLists | HeadMask | None = None) -> None:
        self.records, self.rows, self.longest, self.heads = records, whole("rows", rows), whole("longest", longest), heads

    def fields(self, lender: Lender, n_q_heads: int, n_kv_heads: int, head_dim: int) -> tuple:
        """The `MorayCudaSpans` of C."""
        records = lender.view("records", self.records, WORDS, (None, 4))
        spans, width = records.shape[0], 0
        listed, counts, kind = _memory.NONE, _memory.NONE, lib.MORAY_HEADS_ALL
        match self.heads:
            case None:
                pass
            case HeadLists(lists, many, groups):
                kind = lib.MORAY_HEADS_GROUPS if groups else lib.MORAY_HEADS_LIST
                found = lender.view("lists", lists, WORDS, (spans, None))
                listed, width, counts = found.memory, found.shape[1], lender.memory("counts", many, WORDS, (spans,))
            case HeadMask(words):
                kind, listed = lib.MORAY_HEADS_MASK, lender.memory("words", words, WORDS, (spans, -(-n_q_heads // 32)))
            case _:
                raise TypeError(f"heads: expected moray.cuda's HeadLists, HeadMask or None, got {type(self.heads).__name__}")
        return (
            records.memory, spans, self.longest, self.rows, kind, listed, counts, width, n_q_heads, n_kv_heads, head_dim,
        )  # fmt: skip


class KvCache:
    """One layer of a KV cache in device memory of the caller's, which is kept. Nothing of it is read but by calls.

    Args:
        k, v: f32, f16, bf16 or i8, both the same: [pages, positions of a page, n_kv_heads, head_dim], or with layout ``"HND"``
            [pages, n_kv_heads, positions of a page, head_dim]. They may have strides of multiples of 16 bytes, as halves of one array have; head_dim
            has none.
        capacity: positions of a sequence.
        page_table: u32 [sequences, pages of a sequence] of a paged cache, whose pages have a power of two of positions; None if sequence s is page s.
        layout: ``"NHD"`` or ``"HND"``.
        k_scale, v_scale: f32 [pages, n_kv_heads, positions of a page] of an i8 cache.
        present: u32 [sequences, n_kv_heads, 2 · ⌈capacity / 64⌉], which positions are held; None where all before a span's end are. Zeros to
            begin with, in a cache with holes.

    Raises:
        UnsupportedError: for another layout.
        ShapeError, LengthError, DtypeError, DeviceError, LayoutError: for arrays of other sizes, types, places and strides.
    """

    def __init__(
        self, k: Any, v: Any, *, capacity: int, page_table: Any = None, layout: str = "NHD", k_scale: Any = None, v_scale: Any = None,
        present: Any = None,
    ) -> None:  # fmt: skip
        # kept views: calls are ordered with what their stream is ordered with
        self._owners = Lender(UNORDERED)
        found = pages_of(
            self._owners, k, v, capacity=capacity, page_table=page_table, layout=layout, k_scale=k_scale, v_scale=v_scale, present=present
        )
        #: Key and value heads.
        self.n_kv_heads: int = found.n_kv_heads
        #: Elements of a head.
        self.head_dim: int = found.head_dim
        #: Positions of a sequence.
        self.capacity = capacity
        self._fields = found.fields


def _tokens(lender: Lender, what: str, array: Any, heads: int, head_dim: int) -> _memory.Strided:
    """An array [M, heads, head_dim] whose tokens may be apart."""
    found = lender.strided(what, array, tuple(DTYPES), 3)
    if found.view.shape[1:] != (heads, head_dim):
        raise LengthError(f"{what}: expected shape [any, {heads}, {head_dim}], got {list(found.view.shape)}")
    if heads > 1 and found.strides[1] != head_dim:
        raise LayoutError(f"{what}: expected the heads of a token one after another, got strides {list(found.strides)} in elements")
    return found


def _of_tokens(what: str, found: _memory.Strided, rows: int) -> None:
    if found.view.shape[0] < rows:
        raise LengthError(f"{what}: expected {rows} tokens or more, got {found.view.shape[0]}")


def _projected(lender: Lender, cache: KvCache, batch: Batch, k: Any, v: Any) -> tuple[_memory.Strided, _memory.Strided]:
    """The keys and values of a call's tokens, which lie alike."""
    keys, values = (_tokens(lender, what, array, cache.n_kv_heads, cache.head_dim) for what, array in (("k", k), ("v", v)))
    for what, found in (("k", keys), ("v", values)):
        _of_tokens(what, found, batch.rows)
    if values.strides[0] != keys.strides[0] or values.view.dtype != keys.view.dtype:
        expected = f"{keys.view.dtype} with tokens {keys.strides[0]} apart, as k's"
        raise LayoutError(f"v: expected {expected}, got {values.view.dtype} with {values.strides[0]}")
    return keys, values


def _queries(lender: Lender, batch: Batch, q: Any, shape: tuple[int, int], keys: _memory.Strided) -> _memory.Strided:
    """The queries of a call's tokens, before they are turned."""
    found = _tokens(lender, "q", q, *shape)
    _of_tokens("q", found, batch.rows)
    if found.view.dtype != keys.view.dtype:
        raise LayoutError(f"q: expected {keys.view.dtype}, as k's, got {found.view.dtype}")
    return found


def write_kv(
    cache: KvCache,
    batch: Batch,
    k: Any,
    v: Any,
    *,
    n_q_heads: int,
    policy: str = "write_all",
    q: Any = None,
    q_out: Any = None,
    rope: Any = None,
    stream: int = 0,
) -> None:
    """Puts the writing of a call's keys and values on a stream, and the turning of keys and queries by the rotary embedding.

    Args:
        k, v: f32, f16 or bf16 [M, n_kv_heads, head_dim]; tokens may be apart, as in the output of one projection.
        n_q_heads: a multiple of the cache's KV heads.
        policy: what is stored for a KV head that no query head reads: ``"write_all"`` all the same, ``"hole"`` nothing, which needs the cache's
            `present`, ``"zero"`` zeros, ``"keep"`` nothing, and `present` stays as it is.
        q: [M, n_q_heads, head_dim] of k's type, queries to be turned, or None.
        q_out: f32 [M, n_q_heads, head_dim]: where they go. Rows of heads that do not run stay as they are.
        rope: f32 [context, head_dim], head_dim / 2 cosines and then as many sines of each position; None where q and k are turned already.
        stream: as :func:`moray.cuda.linear`.

    Raises:
        LengthError, ShapeError: for arrays of other sizes.
        DtypeError, DeviceError, LayoutError: for arrays of other types, places and strides.
        UnsupportedError: for a policy that the cache does not take.
        OverlapError: if what is written overlaps what is read.
    """
    lender, number = Lender(stream), constant("policy", POLICIES, policy)
    heads, head_dim = cache.n_kv_heads, cache.head_dim
    keys, values = _projected(lender, cache, batch, k, v)
    queries, stride, written = _memory.NONE, 0, _memory.NONE
    if q is not None:
        found = _queries(lender, batch, q, (n_q_heads, head_dim), keys)
        queries, stride = found.view.memory, found.strides[0]
        written = lender.memory("q_out", q_out, ("f32",), (None, n_q_heads, head_dim))
    table = None if rope is None else lender.view("rope", rope, ("f32",), (None, head_dim))
    spans, name = batch.fields(lender, n_q_heads, heads, head_dim), "MorayCudaWriteKv"
    if not spans[1] or not batch.rows:
        return
    call = ffi.new(f"{name} *", (
        ffi.sizeof(name), DTYPES[keys.view.dtype], number, cache._fields, spans, keys.view.memory, values.view.memory, keys.strides[0], queries,
        stride, written, _memory.memory(table), 0 if table is None else table.shape[0],
    ))  # fmt: skip
    check(lib.moray_cuda_write_kv(current(), handle_of(stream), call))


def attend(
    cache: KvCache, batch: Batch, q: Any, *, out: Any, max_spans: int | None = None, workspace: Any = None, stream: int = 0,
) -> Any:  # fmt: skip
    """Puts out[t, h] = Σ_j softmax_j(q[t, h] · k[j] / √head_dim) · v[j] over the positions j up to t's own that the cache holds on a stream, and
    returns `out`. Heads that do not run give zeros. The call's own tokens have been written.

    Args:
        q: f32 [M, n_q_heads, head_dim], turned by the rotary embedding.
        out: [M, n_q_heads, head_dim] in f32, f16 or bf16.
        max_spans: the most spans of the calls that the caller makes, this call's if it is None: by it contexts are cut into parts, on which results
            of few tokens depend.
        workspace: u8, as many bytes as :func:`attend_scratch` says, or more; calls that may run at once have one each.
        stream: as :func:`moray.cuda.linear`.

    Raises:
        LengthError, ShapeError: for arrays of other sizes.
        DtypeError, DeviceError: for arrays of other types and places.
        OverlapError: if what is written overlaps what is read.
    """
    lender = Lender(stream)
    found = lender.view("q", q, ("f32",), (None, None, cache.head_dim))
    y = lender.view("out", out, tuple(DTYPES), found.shape)
    spans = batch.fields(lender, found.shape[1], cache.n_kv_heads, cache.head_dim)
    if found.shape[0] < batch.rows:
        raise LengthError(f"q: expected {batch.rows} tokens or more, got {found.shape[0]}")
    if not spans[1] or not batch.rows:
        return out
    memory = [found.memory, y.memory, lender.memory("workspace", workspace, ("u8",))]
    call = _attend(cache, DTYPES[y.dtype], spans, spans[1] if max_spans is None else max_spans, memory)
    check(lib.moray_cuda_attend(current(), handle_of(stream), call))
    return out


def attend_scratch(cache: KvCache, batch: Batch, n_q_heads: int, *, max_spans: int | None = None, out_dtype: str = "f32") -> int:
    """Loads the kernels of :func:`attend` and of :func:`write_kv`, which a capture could not, and says how many bytes its workspace needs."""
    kind, size = constant("out_dtype", DTYPES, out_dtype), ffi.new("size_t *")
    spans = batch.fields(Lender(UNORDERED), n_q_heads, cache.n_kv_heads, cache.head_dim)
    most = spans[1] if max_spans is None else max_spans
    check(lib.moray_cuda_load_kernels(current()))
    check(lib.moray_cuda_attend_prepare(current(), _attend(cache, kind, spans, most, [_memory.NONE] * 3), size))
    return size[0]


def _attend(cache: KvCache, kind: int, spans: tuple, max_spans: int, memory: list) -> Any:
    name = "MorayCudaAttend"
    return ffi.new(f"{name} *", (ffi.sizeof(name), kind, cache._fields, spans, max_spans, *memory))


def write_attend(
    cache: KvCache,
    batch: Batch,
    q: Any,
    k: Any,
    v: Any,
    *,
    out: Any,
    workspace: Any = None,
    counters: Any = None,
    policy: str = "write_all",
    rope: Any = None,
    max_spans: int | None = None,
    stream: int = 0,
) -> Any:
    """Puts what :func:`write_kv` with `q` and :func:`attend` of these queries do on a stream, with the same bits, and returns `out`. It is one launch
    where (tokens of the longest span) · (query heads of a KV head) is at most 16, as in a decode step.

    Args:
        q: f32, f16 or bf16 [M, n_q_heads, head_dim], as it is projected; tokens may be apart, as in the output of one projection.
        k, v, policy, rope: as :func:`write_kv`.
        out, max_spans: as :func:`attend`.
        workspace: u8, as many bytes as :func:`write_attend_scratch` says, or more; calls that may run at once have one each.
        counters: u32 [spans · KV heads] or more, zeros before the first call with them and left so by each; None: parts of a context are merged by a
            launch of its own, to the same numbers.
        stream: as :func:`moray.cuda.linear`.

    Raises:
        as :func:`write_kv` and :func:`attend`.
    """
    lender, number = Lender(stream), constant("policy", POLICIES, policy)
    keys, values = _projected(lender, cache, batch, k, v)
    y = lender.view("out", out, tuple(DTYPES), (None, None, cache.head_dim))
    shape = (y.shape[1], cache.head_dim)
    queries = _queries(lender, batch, q, shape, keys)
    if y.shape[0] < batch.rows:
        raise LengthError(f"out: expected {batch.rows} tokens or more, got {y.shape[0]}")
    table = None if rope is None else lender.view("rope", rope, ("f32",), (None, cache.head_dim))
    spans = batch.fields(lender, shape[0], cache.n_kv_heads, cache.head_dim)
    if not spans[1] or not batch.rows:
        return out
    projected = (
        queries.view.memory, queries.strides[0], keys.view.memory, values.view.memory, keys.strides[0], _memory.memory(table),
        0 if table is None else table.shape[0],
    )  # fmt: skip
    memory = [y.memory, lender.memory("workspace", workspace, ("u8",)), lender.memory("counters", counters, WORDS)]
    kinds = (DTYPES[keys.view.dtype], DTYPES[y.dtype], number)
    call = _write_attend(cache, kinds, spans, spans[1] if max_spans is None else max_spans, projected, memory)
    check(lib.moray_cuda_write_attend(current(), handle_of(stream), call))
    return out


def write_attend_scratch(cache: KvCache, batch: Batch, n_q_heads: int, *, max_spans: int | None = None, out_dtype: str = "f32") -> int:
    """Loads the kernels of :func:`write_attend`, which a capture could not, and says how many bytes its workspace needs."""
    kinds, size = (DTYPES["f32"], constant("out_dtype", DTYPES, out_dtype), POLICIES["write_all"]), ffi.new("size_t *")
    spans = batch.fields(Lender(UNORDERED), n_q_heads, cache.n_kv_heads, cache.head_dim)
    most, none = spans[1] if max_spans is None else max_spans, _memory.NONE
    width = cache.n_kv_heads * cache.head_dim
    projected = (none, n_q_heads * cache.head_dim, none, none, width, none, 0)
    check(lib.moray_cuda_load_kernels(current()))
    call = _write_attend(cache, kinds, spans, most, projected, [none] * 3)
    check(lib.moray_cuda_write_attend_prepare(current(), call, size))
    return size[0]


def _write_attend(cache: KvCache, kinds: tuple[int, int, int], spans: tuple, max_spans: int, projected: tuple, memory: list) -> Any:
    """The types and the policy; q to context; out, workspace and counters."""
    name, (dtype, out_dtype, policy) = "MorayCudaWriteAttend", kinds
    return ffi.new(f"{name} *", (ffi.sizeof(name), dtype, out_dtype, policy, cache._fields, spans, max_spans, *projected, *memory))
