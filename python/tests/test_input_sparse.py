"""Products by input against the formula in f64."""

import numpy as np
import pytest
from conftest import in_eight_threads

import moray
from moray import Activations, Cpu, Format, InputSparse, Quantized, Weight

RNG = np.random.default_rng(6)
N, K, M = 40, 96, 3


def random(*shape):
    return (RNG.standard_normal(shape) / 4).astype(np.float32)


W, X, BIAS = random(N, K), random(M, K), random(N)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.4, 9.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_products_match_the_formula_over_what_is_kept(threshold, dtype):
    w, residual, keep = W.astype(dtype), random(M, N), np.abs(X) > threshold
    y, kept = InputSparse(w).with_kept(X, threshold, bias=BIAS, residual=residual)
    x = np.where(keep, X, 0).astype(np.float64)
    expected = x @ w.T.astype(np.float64) + BIAS + residual
    # a chain of some hundred roundings
    bound = (np.abs(x) @ np.abs(w.T) + np.abs(BIAS) + np.abs(residual)) * (K + 4) * 2.0**-24
    assert (np.abs(y - expected) <= bound).all()
    assert kept.dtype == np.uint32 and np.array_equal(kept, np.flatnonzero(keep.any(axis=0)))


def test_four_bits_match_the_dense_product_and_then_inputs_that_are_zero():
    for format in (Format.per_channel(), Format.per_group(32, "f16")):
        quantized = Quantized.quantize(W, format)
        sparse, packed = InputSparse(quantized), Weight(quantized)
        assert np.array_equal(sparse(X, 0.0, bias=BIAS), moray.linear(packed, X, bias=BIAS))
        whole = Activations(M, K).quantize(X)
        codes = np.where(np.abs(X) > 0.2, whole.codes, 0).astype(np.int8)
        dropped = Activations(M, K).set(codes, whole.scale.reshape(M))
        assert np.array_equal(sparse(X, 0.2), moray.linear(packed, dropped))


def test_bits_depend_neither_on_threads_nor_on_how_tokens_are_split():
    weight = InputSparse(W)
    x = random(2, 11, K)
    expected = weight(x, 0.2)
    rows = x.reshape(-1, K)
    assert np.array_equal(np.concatenate([weight(row[None], 0.2) for row in rows]), expected.reshape(-1, N))
    for cpu in (Cpu(3), Cpu(1, "portable")):
        assert np.array_equal(weight(x, 0.2, cpu=cpu), expected)
    out = np.empty((2, 11, N), np.float32)
    assert weight(x, 0.2, out=out) is out and np.array_equal(out, expected)
    for weights in (W, Quantized.quantize(W, Format.per_group(32))):
        y, kept = InputSparse(weights).with_kept(random(0, K), 0.2)
        assert y.shape == (0, N) and not kept.size


def test_bad_input_is_refused_and_the_weight_goes_on():
    weight = InputSparse(W)
    expected = weight(X, 0.1)
    refused = [
        (moray.LengthError, "x: expected 96 features", lambda: weight(random(1, 95), 0.1)),
        (moray.InvalidValueError, "threshold: expected", lambda: weight(X, float("nan"))),
        (moray.InvalidValueError, "threshold: expected", lambda: weight(X, -1.0)),
        (moray.LengthError, "bias", lambda: weight(X, 0.1, bias=random(3))),
        (moray.LengthError, "residual", lambda: weight(X, 0.1, residual=random(M, N + 1))),
        (moray.OverlapError, "y", lambda: weight(X, 0.1, residual=(y := random(M, N)), out=y)),
        (moray.DtypeError, "x", lambda: weight(X.astype(np.float64), 0.1)),
        (moray.InvalidValueError, "finite", lambda: InputSparse(np.full((2, 32), np.inf, np.float32))),
        (moray.UnsupportedError, "4-bit", lambda: InputSparse(Quantized.quantize(W, Format.w8()))),
        (moray.ShapeError, "n: expected", lambda: InputSparse(random(0, 32))),
        (moray.ShapeError, "w: expected 2 dimensions", lambda: InputSparse(random(32))),
        (TypeError, "got row", lambda: weight.with_kept(X, 0.1, row=1)),
    ]
    for error, words, call in refused:
        with pytest.raises(error, match=words):
            call()
        assert np.array_equal(weight(X, 0.1), expected)


def test_eight_threads_share_a_weight():
    weight = InputSparse(Quantized.quantize(W, Format.per_group(32)))
    inputs = [random(1 + i % 3, K) for i in range(8)]
    expected = [weight(x, 0.1) for x in inputs]

    def work(i):
        return all(np.array_equal(weight(inputs[i], 0.1), expected[i]) for _ in range(200))

    assert not in_eight_threads(work)


def test_supports_answers_for_products_by_input():
    assert moray.supports("by_input", dtype="bf16") and moray.supports("by_input", Format.per_group(64, "f16"))
    assert not moray.supports("by_input", Format.qqq())
