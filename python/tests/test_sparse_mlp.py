"""The sparse MLP against the formula in f64 over every kind of selection."""


import numpy as np
import pytest
from conftest import in_eight_threads

import moray
from moray import Cpu, Format, Indices, Masks, Quantized, SparseMlp, Threshold, TopK, Union

RNG = np.random.default_rng(5)
D_MODEL, D_FF, TOKENS = 64, 96, 3


def random(*shape):
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


GATE, UP, DOWN = random(D_FF, D_MODEL), random(D_FF, D_MODEL), random(D_MODEL, D_FF)
X = random(TOKENS, D_MODEL)


def hidden(x=X, act=lambda g: g / (1 + np.exp(-g))):
    return act(x.astype(np.float64) @ GATE.T) * (x.astype(np.float64) @ UP.T)


def kept_by(selection):
    """bool [TOKENS, D_FF]: which neurons each token computes, by the definitions."""
    scores = np.abs(hidden())
    match selection:
        case None:
            return np.ones((TOKENS, D_FF), bool)
        case Indices(values):
            return np.isin(np.arange(D_FF), values)[None].repeat(TOKENS, 0)
        case Masks(masks):
            return masks
        case Union(values, masks):
            return masks & np.isin(np.arange(D_FF), values)
        case Threshold(threshold, _, scale):
            return scores * (1 if scale is None else scale) > threshold
        case TopK(k, _, _):
            return np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1) < k


MASKS = RNG.random((TOKENS, D_FF)) < 0.4
SELECTIONS = [
    None,
    Indices([0, 5, 95]),
    Indices(np.arange(0, D_FF, 3, dtype=np.uint32)),
    Masks(MASKS),
    Union(range(10, 60), MASKS),
    Threshold(0.05),
    Threshold(0.05, channel_scale=np.linspace(0, 2, D_FF, dtype=np.float32)),
    TopK(7),
]


@pytest.mark.parametrize("number", range(len(SELECTIONS)))
def test_forward_matches_the_formula_over_what_is_kept(number):
    selection, residual = SELECTIONS[number], random(TOKENS, D_MODEL)
    keep = kept_by(selection)
    y, kept = SparseMlp(GATE, UP, DOWN).with_kept(X, selection, residual=residual)
    expected = (hidden() * keep) @ DOWN.astype(np.float64).T + residual
    # sums of products of some sixty numbers below 4 in f32
    bound = (np.abs(hidden()) * keep) @ np.abs(DOWN).T * 2.0**-16 + 2.0**-20
    assert (np.abs(y - expected) <= bound).all()
    read = selection.list if isinstance(selection, Union) else np.flatnonzero(keep.any(axis=0))
    assert np.array_equal(kept, read)


def test_halves_and_quantized_weights_match_their_numbers_in_f32():
    halves = [w.astype(np.float16) for w in (GATE, UP, DOWN)]
    wide = SparseMlp(*(w.astype(np.float32) for w in halves))
    assert np.array_equal(SparseMlp(*halves)(X), wide(X))
    quantized = [Quantized.quantize(w, Format.per_group(32)) for w in (GATE, UP, DOWN)]
    y, plain = SparseMlp(*quantized)(X), SparseMlp(*(w.dequantize() for w in quantized))(X)
    assert not np.array_equal(y, plain) and np.abs(y - plain).max() < 0.05 * np.abs(plain).max()


def test_relu_and_biases_match_the_formula():
    gate_bias, up_bias, down_bias = random(D_FF), random(D_FF), random(D_MODEL)
    mlp = SparseMlp(GATE, UP, DOWN, activation="relu", gate_bias=gate_bias, up_bias=up_bias, down_bias=down_bias)
    x = X.astype(np.float64)
    middle = np.maximum(x @ GATE.T + gate_bias, 0) * (x @ UP.T + up_bias)
    assert np.allclose(mlp(X), middle @ DOWN.astype(np.float64).T + down_bias, rtol=1e-4, atol=1e-5)


def test_bits_depend_neither_on_threads_nor_on_how_tokens_are_split():
    mlp = SparseMlp(GATE, UP, DOWN)
    expected = mlp(X, TopK(9))
    assert np.array_equal(np.concatenate([mlp(row[None], TopK(9)) for row in X]), expected)
    for cpu in (Cpu(3), Cpu(1, "portable")):
        assert np.array_equal(mlp(X, TopK(9), cpu=cpu), expected)
    out = np.empty((1, TOKENS, D_MODEL), np.float32)
    assert mlp(X[None], TopK(9), out=out) is out and np.array_equal(out[0], expected)
    assert mlp(X[:0], TopK(9)).shape == (0, D_MODEL)


@pytest.mark.parametrize(
    ("error", "selection"),
    [
        (moray.NotIncreasingError, Indices([3, 3])),
        (moray.OutOfRangeError, Indices([D_FF])),
        (moray.NotIncreasingError, Indices([-1])),
        (moray.LengthError, Masks(np.ones((TOKENS + 1, D_FF), bool))),
        (moray.InvalidValueError, Threshold(float("nan"))),
        (moray.UnsupportedError, Threshold(1.0, "sum")),
        (moray.MorayError, TopK(0)),
        (moray.LengthError, Threshold(0.1, channel_scale=np.ones(3, np.float32))),
        (moray.DtypeError, Masks(np.ones((TOKENS, D_FF), np.int32))),
    ],
    ids=str,
)
def test_bad_selections_are_refused_and_the_mlp_goes_on(error, selection):
    mlp = SparseMlp(GATE, UP, DOWN)
    expected = mlp(X)
    with pytest.raises(error):
        mlp(X, selection)
    assert np.array_equal(mlp(X), expected)


def test_bad_weights_are_refused():
    quantized = Quantized.quantize(GATE, Format.per_channel())
    with pytest.raises(moray.DtypeError, match="expected all quantized or none, got gate alone"):
        SparseMlp(quantized, UP, DOWN)
    with pytest.raises(moray.LengthError, match=r"down: expected shape \[64, 96\], got \[96, 64\]"):
        SparseMlp(GATE, UP, GATE)
    with pytest.raises(moray.DtypeError, match="up: expected elements of f32, as gate has, got f16"):
        SparseMlp(GATE, UP.astype(np.float16), DOWN)
    with pytest.raises(moray.LengthError, match="gate_bias"):
        SparseMlp(GATE, UP, DOWN, gate_bias=np.ones(3, np.float32))
    with pytest.raises(moray.LengthError, match="x: expected 64 features"):
        SparseMlp(GATE, UP, DOWN)(random(1, 65))
    apart = RNG.permutation(np.arange(64, dtype=np.int32) // 32)
    ordered = Quantized.from_gptq(np.zeros((8, D_FF), np.int32), np.ones((2, D_FF), np.float16), None, apart)
    up, down = Quantized.quantize(UP, Format.per_group(32)), Quantized.quantize(DOWN, Format.per_group(32))
    with pytest.raises(moray.UnsupportedError, match="gate: expected columns in their own order"):
        SparseMlp(ordered, up, down)


def test_eight_threads_share_an_mlp():
    mlp = SparseMlp(GATE, UP, DOWN)
    inputs = [random(1 + i % 3, D_MODEL) for i in range(8)]
    expected = [mlp(x, TopK(9)) for x in inputs]

    def work(i):
        return all(np.array_equal(mlp(inputs[i], TopK(9)), expected[i]) for _ in range(200))

    assert not in_eight_threads(work)
