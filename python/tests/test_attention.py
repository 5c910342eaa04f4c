"""Attention over the heads that run against softmax in f64."""

import numpy as np
import pytest

import moray
from moray import Attention, HeadLists, HeadMask, KvCache, Span

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
