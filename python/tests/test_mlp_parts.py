"""The parts of the sparse MLP, and ranges of every operation, against the whole calls."""

import numpy as np
import pytest
from conftest import in_eight_threads

import moray
from moray import Activations, Attention, Cpu, Format, HeadLists, InputSparse, KvCache, Part, Quantized, Span, SparseMlp, Threshold, TopK

RNG = np.random.default_rng(11)
D_MODEL, D_FF, TOKENS = 64, 96, 3


def random(*shape):
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


GATE, UP, DOWN, X = random(D_FF, D_MODEL), random(D_FF, D_MODEL), random(D_MODEL, D_FF), random(TOKENS, D_MODEL)


def both():
    """Weights in f32 and in 4 bits, each with x as their parts take it."""
    quantized = [Quantized.quantize(w, Format.per_group(32)) for w in (GATE, UP, DOWN)]
    return [(SparseMlp(GATE, UP, DOWN), X), (SparseMlp(*quantized), Activations(TOKENS, D_MODEL).quantize(X))]


def bits(masks, n):
    return np.unpackbits(masks.view(np.uint8).reshape(len(masks), -1), axis=1, bitorder="little")[:, :n].astype(bool)


@pytest.mark.parametrize("keep", [TopK(9, "gate"), Threshold(0.1, "gate"), TopK(9, "gate", np.linspace(0, 2, D_FF, dtype=np.float32))], ids=str)
def test_parts_make_up_a_call_with_its_bits(keep):
    for mlp, x in both():
        residual = random(TOKENS, D_MODEL)
        expected, read = mlp.with_kept(X, keep, residual=residual)
        gate = mlp.gate(x)
        masks, kept = moray.select(gate, keep)
        assert np.array_equal(kept, read)
        scores = np.abs(gate) * (1 if keep.channel_scale is None else keep.channel_scale)
        if isinstance(keep, Threshold):
            assert np.array_equal(bits(masks, D_FF), scores > np.float32(keep.threshold))
        else:
            assert np.array_equal(bits(masks, D_FF), np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1) < keep.k)
        hidden = mlp.gate_up(x, kept, gate=np.ascontiguousarray(gate[:, kept]))
        assert np.array_equal(hidden, mlp.gate_up(x, kept))
        # what is given is what is read
        assert np.array_equal(mlp.gate_up(x, kept, gate=np.ascontiguousarray(2 * gate[:, kept])), 2 * hidden)
        hidden *= bits(masks, D_FF)[:, kept]
        assert np.array_equal(mlp.down(hidden, kept, residual=residual), expected)
        # all neurons need no list
        assert np.array_equal(mlp.down(mlp.gate_up(x)), mlp(X))


def test_gate_is_the_formula():
    product = X.astype(np.float64) @ GATE.T
    bound = np.abs(X).astype(np.float64) @ np.abs(GATE.T) * 2.0**-16 + 2.0**-20
    assert (np.abs(SparseMlp(GATE, UP, DOWN).gate(X) - product / (1 + np.exp(-product))) <= bound).all()


def test_threads_share_parts_by_ranges():
    neurons = np.arange(0, D_FF, 2, dtype=np.uint32)
    for mlp, x in both():
        gate, hidden = mlp.gate(x, neurons), mlp.gate_up(x, neurons)
        y = mlp.down(hidden, neurons)
        got = [np.full(whole.shape, np.nan, np.float32) for whole in (gate, hidden, y)]
        ones = [Cpu(1) for _ in range(8)]

        def work(i):
            part = (16 * (i % 3), 16 * (i % 3) + 16)
            if i < 3:
                mlp.gate(x, neurons, out=got[0], positions=part, cpu=ones[i])
            elif i < 6:
                mlp.gate_up(x, neurons, out=got[1], positions=part, cpu=ones[i])
            else:
                mlp.down(hidden, neurons, out=got[2], columns=((i - 6) * 32, (i - 5) * 32), cpu=ones[i])
            return True

        assert not in_eight_threads(work)
        assert all(np.array_equal(a, b) for a, b in zip(got, (gate, hidden, y)))
        out = np.full(gate.shape, 7, np.float32)
        mlp.gate(x, neurons, out=out, positions=(16, 32))
        assert (out[:, :16] == 7).all() and (out[:, 32:] == 7).all() and np.array_equal(out[:, 16:32], gate[:, 16:32])


def test_leading_dimensions_and_no_tokens_are_taken():
    mlp = SparseMlp(GATE, UP, DOWN)
    neurons = [1, 5, 80]
    hidden = mlp.gate_up(X.reshape(1, TOKENS, D_MODEL), neurons)
    assert hidden.shape == (1, TOKENS, 3) and np.array_equal(hidden[0], mlp.gate_up(X, neurons))
    assert mlp.down(hidden, neurons).shape == (1, TOKENS, D_MODEL)
    assert mlp.gate(X[:0], neurons).shape == (0, 3) and mlp.gate_up(X, []).shape == (TOKENS, 0)
    residual = random(TOKENS, D_MODEL)
    assert np.array_equal(mlp.down(np.empty((TOKENS, 0), np.float32), [], residual=residual), residual)
    masks, kept = moray.select(np.empty((0, 70), np.float32), TopK(3))
    assert masks.shape == (0, 2) and not kept.size


def test_bad_parts_are_refused_and_the_mlp_goes_on():
    (mlp, _), (four_bit, held) = both()
    expected, out = mlp.gate_up(X), np.empty((TOKENS, D_FF), np.float32)
    refused = [
        (moray.LengthError, "x: expected 64 features", lambda: mlp.gate(random(1, 65))),
        (moray.UnsupportedError, "x: expected", lambda: four_bit.gate(X)),
        (moray.UnsupportedError, "x: expected", lambda: mlp.gate(held)),
        (moray.NotIncreasingError, "list", lambda: mlp.gate(X, [3, 3])),
        (moray.OutOfRangeError, "list", lambda: mlp.gate(X, [D_FF])),
        (moray.LengthError, "gate: expected shape", lambda: mlp.gate_up(X, [1, 2], gate=random(TOKENS, 3))),
        (moray.ShapeError, "out: expected an array for the positions", lambda: mlp.gate(X, positions=(0, 16))),
        (moray.OutOfRangeError, "positions: expected a range from 0 to 96", lambda: mlp.gate(X, out=out, positions=(16, 16))),
        (moray.MorayError, "8", lambda: mlp.gate(X, out=out, positions=(8, 16))),
        (moray.MorayError, "112", lambda: mlp.gate(X, out=out, positions=(16, 112))),
        (moray.OverlapError, "hidden", lambda: mlp.gate_up(X, gate=out, out=out)),
        (moray.LengthError, "hidden: expected 96 neurons", lambda: mlp.down(random(TOKENS, 95))),
        (moray.LengthError, "residual", lambda: mlp.down(expected, residual=random(TOKENS, 3))),
        (moray.OutOfRangeError, "65", lambda: mlp.down(expected, out=np.empty_like(X), columns=(0, 65))),
        (moray.OverlapError, "y", lambda: mlp.down(expected, residual=(y := random(TOKENS, D_MODEL)), out=y)),
        (moray.UnsupportedError, "keep: expected Threshold or TopK", lambda: moray.select(X, moray.Indices([1]))),
        (moray.InvalidValueError, "threshold", lambda: moray.select(X, Threshold(float("nan")))),
        (moray.MorayError, "65", lambda: moray.select(X, TopK(65))),
        (moray.LengthError, "masks: expected shape", lambda: moray.select(X, TopK(3), masks=np.empty((TOKENS, 2), np.uint64))),
        (moray.DtypeError, "values", lambda: moray.select(X.astype(np.float16), TopK(3))),
    ]
    for error, words, call in refused:
        with pytest.raises(error, match=words):
            call()
        assert np.array_equal(mlp.gate_up(X), expected)


def test_threads_share_a_product_by_input_by_rows():
    n, k = 80, 96
    for weight in (InputSparse(random(n, k)), InputSparse(Quantized.quantize(random(n, k), Format.per_group(32)))):
        x, bias = random(2, k), random(n)
        expected, out = weight(x, 0.2, bias=bias), np.full((2, n), np.nan, np.float32)
        ones = [Cpu(1) for _ in range(8)]

        def work(i):
            if i < 5:
                weight(x, 0.2, bias=bias, out=out, rows=(16 * i, 16 * i + 16), cpu=ones[i])
            return True

        assert not in_eight_threads(work)
        assert np.array_equal(out, expected)
        weight(x, 0.2, bias=bias, out=(some := np.full((2, n), 7, np.float32)), rows=(16, 32))
        assert np.array_equal(some[:, 16:32], expected[:, 16:32]) and (np.delete(some, np.s_[16:32], axis=1) == 7).all()
        with pytest.raises(moray.ShapeError, match="out: expected an array for the rows"):
            weight(x, 0.2, rows=(0, 16))
        with pytest.raises(moray.OutOfRangeError, match="rows: expected a range from 0 to 80, got 16 to 0"):
            weight(x, 0.2, out=out, rows=(16, 0))


def test_threads_share_attention_by_spans_and_heads():
    heads, kv_heads, head_dim, capacity = 4, 2, 16, 64
    cache, sizes = KvCache(1, 3, kv_heads, head_dim, capacity), {"max_rows": 16, "max_spans": 3, "capacity": capacity}
    whole = Attention(heads, kv_heads, head_dim, **sizes)
    spans = [Span(0, 0, 5), Span(1, 0, 3), Span(2, 0, 7)]
    lists = HeadLists([[0, 3], [1], [0, 1, 2, 3]])
    whole.write_kv(cache, 0, spans, random(15, kv_heads, head_dim), random(15, kv_heads, head_dim))
    q = random(15, heads, head_dim)
    for chosen in (None, lists):
        expected, out = whole.attend(cache, 0, spans, q, heads=chosen), np.full(q.shape, np.nan, np.float32)
        own = [Attention(heads, kv_heads, head_dim, cpu=Cpu(1), **sizes) for _ in range(8)]

        def work(i):
            if i < 6:
                part = Part((i // 2, i // 2 + 1), (i % 2, i % 2 + 1))
                own[i].attend(cache, 0, spans, q, heads=chosen, out=out, part=part)
            return True

        assert not in_eight_threads(work)
        assert np.array_equal(out, expected)
        some = np.full(q.shape, 7, np.float32)
        whole.attend(cache, 0, spans, q, heads=chosen, out=some, part=Part((1, 2), (1, 2)))
        assert np.array_equal(some[5:8, 2:], expected[5:8, 2:])
        some[5:8, 2:] = 7
        assert (some == 7).all()
    with pytest.raises(moray.ShapeError, match="out: expected an array for Part"):
        whole.attend(cache, 0, spans, q, part=Part((0, 1), (0, 1)))
    with pytest.raises(moray.OutOfRangeError, match="kv_heads: expected a range from 0 to 2, got 1 to 1"):
        whole.attend(cache, 0, spans, q, out=out, part=Part((0, 1), (1, 1)))
    with pytest.raises(moray.MorayError, match="4"):
        whole.attend(cache, 0, spans, q, out=out, part=Part((0, 4), (0, 1)))
