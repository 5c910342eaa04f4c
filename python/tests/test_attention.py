"""Attention over the heads that run against softmax in f64."""

import numpy as np
import pytest
from conftest import require

import moray
from moray import Attention, HeadLists, HeadMask, KvCache, KvPages, Span

RNG = np.random.default_rng(3)
Q_HEADS, KV_HEADS, DIM, CAPACITY = 4, 2, 16, 80
SPANS = [Span(0, 0, 3), Span(2, 0, 2)]
TOKENS = sum(span.len for span in SPANS)


def random(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def made(dtype="f32"):
    attention = Attention(Q_HEADS, KV_HEADS, DIM, max_rows=8, max_spans=2, capacity=CAPACITY)
    return attention, KvCache(1, 3, KV_HEADS, DIM, CAPACITY, dtype)


def defined(q, k, v, runs):
    """[TOKENS, Q_HEADS, DIM] in f64; runs says of a span and a head whether it runs."""
    out, first = np.zeros(q.shape), 0
    for number, (_, _, length) in enumerate(SPANS):
        for t, head in np.ndindex(length, Q_HEADS):
            if runs(number, head):
                group = head // (Q_HEADS // KV_HEADS)
                keys, values = (a[first : first + t + 1, group].astype(np.float64) for a in (k, v))
                scores = keys @ q[first + t, head] / np.sqrt(DIM)
                weights = np.exp(scores - scores.max())
                out[first + t, head] = weights @ values / weights.sum()
        first += length
    return out


LISTS = [[0, 3], [2]]
MASK = np.array([[True, False, False, True], [False, False, True, False]])
CASES = [
    (None, lambda span, head: True),
    (HeadLists(LISTS), lambda span, head: head in LISTS[span]),
    (HeadLists([[1], [0, 1]], groups=True), lambda span, head: head // 2 in [[1], [0, 1]][span]),
    (HeadMask(MASK), lambda span, head: MASK[span, head]),
    (HeadMask(np.array([[0b1001], [0b0100]], np.uint32)), lambda span, head: MASK[span, head]),
]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_attend_matches_softmax_in_f64_over_the_heads_that_run(case):
    heads, runs = CASES[case]
    attention, cache = made()
    q, k, v = random(TOKENS, Q_HEADS, DIM), random(TOKENS, KV_HEADS, DIM), random(TOKENS, KV_HEADS, DIM)
    attention.write_kv(cache, 0, SPANS, k, v)
    out = attention.attend(cache, 0, SPANS, q, heads=heads)
    assert np.abs(out - defined(q, k, v, runs)).max() < 1e-5


def test_a_cache_reads_what_was_written_and_forgets_what_is_truncated():
    k, v = random(TOKENS, KV_HEADS, DIM), random(TOKENS, KV_HEADS, DIM)
    for dtype, error in [("f32", 0), ("f16", 2.0**-11), ("bf16", 2.0**-8), ("int8", 1 / 127)]:
        attention, cache = made(dtype)
        attention.write_kv(cache, 0, SPANS, k, v)
        key, value, held = cache.read(0, 2, 1, 1)
        assert held
        assert np.abs(key - k[4, 1]).max() <= error * np.abs(k[4, 1]).max()
        assert np.abs(value - v[4, 1]).max() <= error * np.abs(v[4, 1]).max()
        cache.truncate(2, 1)
        assert not cache.read(0, 2, 1, 1)[2] and cache.read(0, 2, 1, 0)[2]


def test_holes_are_left_where_no_head_reads():
    attention, cache = made()
    k, v = random(TOKENS, KV_HEADS, DIM), random(TOKENS, KV_HEADS, DIM)
    attention.write_kv(cache, 0, SPANS, k, v, heads=HeadLists(LISTS), policy="hole")
    # of the second span only query head 2 runs, which reads KV head 1
    assert [cache.read(0, 2, head, 0)[2] for head in (0, 1)] == [False, True]


def test_bad_calls_are_refused_and_objects_go_on():
    attention, cache = made()
    q, k, v = random(TOKENS, Q_HEADS, DIM), random(TOKENS, KV_HEADS, DIM), random(TOKENS, KV_HEADS, DIM)
    attention.write_kv(cache, 0, SPANS, k, v)
    expected = attention.attend(cache, 0, SPANS, q)
    calls = [
        (moray.OutOfRangeError, lambda: attention.write_kv(cache, 1, SPANS, k, v)),
        (moray.OutOfRangeError, lambda: attention.write_kv(cache, 0, [Span(3, 0, TOKENS)], k, v)),
        (moray.LengthError, lambda: attention.write_kv(cache, 0, [Span(0, 0, 1)], k, v)),
        (moray.LengthError, lambda: attention.attend(cache, 0, SPANS, random(TOKENS, 3, DIM))),
        (moray.NotIncreasingError, lambda: attention.attend(cache, 0, SPANS, q, heads=HeadLists([[1, 1], []]))),
        (moray.OverlapError, lambda: attention.attend(cache, 0, SPANS, q, out=q)),
        (moray.UnsupportedError, lambda: attention.write_kv(cache, 0, SPANS, k, v, policy="drop")),
        (moray.UnsupportedError, lambda: KvCache(1, 1, 1, 8, 64, "f64")),
        (moray.ShapeError, lambda: Attention(3, 2, DIM, max_rows=1, max_spans=1, capacity=64)),
        (TypeError, lambda: attention.attend(cache, 0, SPANS, q, heads=[0, 1])),
    ]
    for error, call in calls:
        with pytest.raises(error):
            call()
    assert np.array_equal(attention.attend(cache, 0, SPANS, q), expected)


PAGE, PAGES = 4, 64
KINDS = {"f32": np.float32, "f16": np.float16, "int8": np.int8}


def pages(dtype, layout="NHD", holes=False):
    """A cache whose K and V share an array, with pages of sequences in no order."""
    sides = (PAGE, KV_HEADS) if layout == "NHD" else (KV_HEADS, PAGE)
    memory = np.zeros((PAGES, 2, *sides, DIM + 8), KINDS[dtype])
    halves = (memory[:, half, ..., :DIM] for half in (0, 1))
    table = RNG.permutation(PAGES)[: 3 * 20].astype(np.uint32).reshape(3, 20)
    scales = [np.zeros((PAGES, KV_HEADS, PAGE), np.float32) if dtype == "int8" else None for _ in range(2)]
    present = np.zeros((3, KV_HEADS, 4), np.uint32) if holes else None
    made = KvPages(*halves, capacity=CAPACITY, page_table=table, layout=layout, k_scale=scales[0], v_scale=scales[1], present=present)
    return made, memory, table, present


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("dtype", KINDS)
def test_pages_of_the_callers_have_the_bits_of_a_cache(dtype, layout):
    attention, cache = made(dtype)
    mine, memory, table, present = pages(dtype, layout, holes=True)
    # a context of several pages, some positions of which head 0's group leaves out
    for first, count, heads in ((0, 3, None), (3, 3, HeadLists([[1], [1]], groups=True)), (6, 1, HeadLists(LISTS))):
        spans = [Span(slot, first, count) for slot in (2, 0)]
        tokens = 2 * count
        k, v, q = random(tokens, KV_HEADS, DIM), random(tokens, KV_HEADS, DIM), random(tokens, Q_HEADS, DIM)
        results = []
        for where in (cache, mine):
            attention.write_kv(where, 0, spans, k, v, heads=heads, policy="hole")
            results.append(attention.attend(where, 0, spans, q, heads=heads))
        assert np.array_equal(*results)
    assert not memory[..., DIM:].any() and [bin(word).count("1") for word in present[2, :, 0]] == [4, 7]
    if dtype == "f32":
        key, value, held = cache.read(0, 2, 1, 5)
        row = memory[table[2, 1], :, 1] if layout == "NHD" else memory[table[2, 1], :, :, 1]
        assert held and np.array_equal(row[0, 1, :DIM], key) and np.array_equal(row[1, 1, :DIM], value)


def test_pages_of_torchs_are_taken_in_bf16():
    torch = require("torch")
    attention, cache = made("bf16")
    k, v = (torch.zeros(3, CAPACITY, KV_HEADS, DIM, dtype=torch.bfloat16) for _ in range(2))
    mine = KvPages(k, v, capacity=CAPACITY)
    q, keys, values = torch.randn(TOKENS, Q_HEADS, DIM), torch.randn(TOKENS, KV_HEADS, DIM), torch.randn(TOKENS, KV_HEADS, DIM)
    results = []
    for where in (cache, mine):
        attention.write_kv(where, 0, SPANS, keys, values)
        results.append(attention.attend(where, 0, SPANS, q))
    assert np.array_equal(*results) and torch.equal(k[2, 1], keys[4].bfloat16())


def test_pages_that_do_not_fit_are_refused():
    attention, _ = made()
    mine, memory, table, _ = pages("f32")
    k, v = memory[:, 0, ..., :DIM], memory[:, 1, ..., :DIM]
    q, keys = random(TOKENS, Q_HEADS, DIM), random(TOKENS, KV_HEADS, DIM)
    frozen = k.copy()
    frozen.flags.writeable = False
    other = Attention(Q_HEADS, 4, DIM, max_rows=8, max_spans=2, capacity=CAPACITY)
    for error, text, attempt in [
        (moray.UnsupportedError, "layout", lambda: KvPages(k, v, capacity=CAPACITY, page_table=table, layout="DHN")),
        (moray.DtypeError, "k: expected elements of", lambda: KvPages(k.astype(np.int32), v, capacity=CAPACITY, page_table=table)),
        (moray.DtypeError, "page_table", lambda: KvPages(k, v, capacity=CAPACITY, page_table=table.astype(np.int64))),
        (moray.ShapeError, "v: expected the shape of k", lambda: KvPages(k, v[1:], capacity=CAPACITY, page_table=table)),
        (moray.ShapeError, "v: expected the strides of k", lambda: KvPages(k, v.copy(), capacity=CAPACITY, page_table=table)),
        (moray.ShapeError, "k: expected 4 dimensions", lambda: KvPages(k[0], v[0], capacity=CAPACITY)),
        (moray.LayoutError, "k: expected", lambda: KvPages(k[::-1], v[::-1], capacity=CAPACITY, page_table=table)),
        (moray.LayoutError, "k: expected", lambda: KvPages(memory[:, 0, ..., :32:2], v, capacity=CAPACITY, page_table=table)),
        (moray.LayoutError, "k: expected an array that may be written", lambda: KvPages(frozen, frozen, capacity=CAPACITY, page_table=table)),
        (moray.LengthError, "present", lambda: KvPages(k, v, capacity=CAPACITY, page_table=table, present=np.zeros((3, 2, 2), np.uint32))),
        (moray.ShapeError, "page_size", lambda: attention.attend(KvPages(k, v, capacity=CAPACITY), 0, SPANS, q)),
        (moray.ShapeError, "max_pages", lambda: attention.attend(KvPages(k, v, capacity=999, page_table=table), 0, SPANS, q)),
        (moray.ShapeError, "cache: expected n_kv_heads of 4, got 2", lambda: other.attend(mine, 0, SPANS, q)),
        (moray.UnsupportedError, "kv policy", lambda: attention.write_kv(mine, 0, SPANS, keys, keys, policy="hole")),
        (moray.OverlapError, "out", lambda: attention.attend(KvPages(q[None, :, :2], q[None, :, 2:], capacity=5), 0, [Span(0, 0, 5)], q.copy(), out=q)),
        (TypeError, "cache: expected a KvCache or KvPages", lambda: attention.attend(memory, 0, SPANS, q)),
    ]:  # fmt: skip
        with pytest.raises(error, match=text):
            attempt()
    table[2, 0] = PAGES
    with pytest.raises(moray.OutOfRangeError, match="page_table: expected an index below 64, got 64"):
        attention.attend(mine, 0, SPANS, q)
    table[2, 0] = 0
    attention.write_kv(mine, 0, SPANS, keys, keys)
    attention.attend(mine, 0, SPANS, q)
