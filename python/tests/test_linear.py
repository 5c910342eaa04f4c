"""Products against the formula in f64, and what is refused."""

import array

import numpy as np
import pytest
from conftest import in_eight_threads

import moray
from moray import Activations, Cpu, Format, Quantized, Weight, linear

RNG = np.random.default_rng(7)
FORMATS = [
    Format.per_channel(),
    Format.w8(),
    Format.per_group(32),
    Format.per_group(64, "f16"),
    Format.two_level(128),
    Format.qqq(),
]


def random(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def defined(weight, x, scales="token"):
    """y = x · wᵀ of the dequantized numbers in f64, activations rounded as documented, and a bound of its f32 sums."""
    activations = Activations(len(x), x.shape[1], scales).quantize(x)
    k = x.shape[1]
    scale = np.repeat(activations.scale, 128, axis=1)[:, :k] if scales == "fine" else activations.scale
    codes, w = activations.codes.astype(np.float64) * scale, weight.dequantize().astype(np.float64)
    return codes @ w.T, (np.abs(codes) @ np.abs(w).T + 1e-30) * k * 2.0**-23


@pytest.mark.parametrize("scales", ["token", "fine"])
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_linear_matches_the_formula_in_f64(format, scales):
    for m, n, k in [(1, 1, 128), (3, 17, 256), (33, 40, 384)]:
        quantized = Quantized.quantize(random(n, k), format)
        x, bias, residual = random(m, k), random(n), random(m, n)
        y = linear(Weight(quantized), x, bias=bias, residual=residual, act_scales=scales)
        expected, bound = defined(quantized, x, scales)
        expected += bias.astype(np.float64) + residual
        assert y.shape == (m, n) and y.dtype == np.float32
        assert (np.abs(y - expected) <= bound + np.abs(expected) * 2.0**-22 + 1e-6 * (np.abs(bias) + np.abs(residual))).all()


def test_activations_match_their_definition():
    x = random(5, 256)
    token, fine = Activations(5, 256).quantize(x), Activations(5, 256, "fine").quantize(x)
    assert np.array_equal(token.scale[:, 0], np.abs(x).max(axis=1) / np.float32(127))
    assert np.array_equal(fine.scale, np.abs(x).reshape(5, 2, 128).max(axis=2) / np.float32(127))
    # ties aside, which a random x has none of
    assert np.abs(token.codes - x / token.scale).max() <= 0.5 + 1e-4
    again = Activations(5, 256).set(token.codes.copy(), token.scale[:, 0].copy())
    assert np.array_equal(again.codes, token.codes) and (again.m, again.k) == (5, 256)


def test_bits_depend_neither_on_threads_nor_on_ranges_nor_on_the_instruction_set():
    quantized = Quantized.quantize(random(80, 320), Format.per_group(64, "f16"))
    weight, x = Weight(quantized), random(7, 320)
    expected = linear(weight, x)
    for cpu in (Cpu(1), Cpu(3), Cpu(1, "portable")):
        assert np.array_equal(linear(weight, x, cpu=cpu), expected)
    assert np.array_equal(linear(weight, x.reshape(7, 1, 320)), expected.reshape(7, 1, 80))
    assert np.array_equal(np.concatenate([linear(weight, row[None]) for row in x]), expected)
    out = np.full((7, 80), np.nan, np.float32)
    linear(weight, x, out=out, rows=(16, 48))
    assert np.array_equal(out[:, 16:48], expected[:, 16:48]) and np.isnan(np.delete(out, range(16, 48), axis=1)).all()
    linear(weight, Activations(7, 320).quantize(x), out=out)
    assert np.array_equal(out, expected)


def test_types_of_halves_follow_x():
    weight = Weight(Quantized.quantize(random(16, 64), Format.per_channel()))
    x = random(2, 64).astype(np.float16)
    y = linear(weight, x)
    assert y.dtype == np.float16
    assert np.array_equal(y, linear(weight, x.astype(np.float32)).astype(np.float16))


def test_buffers_of_any_kind_are_read_where_they_are():
    w = random(16, 64)
    plain = Quantized.quantize(w, Format.per_channel())
    weight, x = Weight(plain), random(2, 64)
    expected = linear(weight, x)

    class Dlpack:
        """numpy's DLPack with nothing else."""

        def __init__(self, array):
            self.__dlpack__, self.__dlpack_device__ = array.__dlpack__, array.__dlpack_device__

    assert np.array_equal(linear(weight, memoryview(x)), expected)
    assert np.array_equal(linear(weight, Dlpack(x)), expected)
    assert np.array_equal(linear(weight, Dlpack(np.tile(x, 2)[:1, :64])), expected[:1])
    out = array.array("f", bytes(2 * 16 * 4))
    linear(weight, Activations(2, 64).quantize(x), out=memoryview(out).cast("B").cast("f", [2, 16]))
    assert np.array_equal(np.array(out, np.float32).reshape(2, 16), expected)
    outside = np.zeros((2, 16), np.float32)
    linear(weight, x, out=Dlpack(outside))
    assert np.array_equal(outside, expected)


def refusals():
    weight = Weight(Quantized.quantize(random(32, 64), Format.per_channel()))
    x, out = random(2, 64), np.zeros((2, 32), np.float32)
    frozen = out.copy()
    frozen.flags.writeable = False
    both = np.zeros(2 * 64, np.float32)
    return [
        (moray.LengthError, "x: expected 64 features", lambda: linear(weight, random(2, 32))),
        (moray.DtypeError, "x: expected elements of f32 or f16 or bf16, got i8", lambda: linear(weight, np.zeros((2, 64), np.int8))),
        (moray.DtypeError, "x: expected elements that the library knows, got >f4", lambda: linear(weight, x.astype(">f4"))),
        (moray.DtypeError, "x: expected an array with DLPack", lambda: linear(weight, [[1.0]])),
        (moray.LayoutError, "x: expected elements one after another", lambda: linear(weight, random(64, 2).T)),
        (moray.LayoutError, "got shape [2, 64] with strides [128, 2]", lambda: linear(weight, random(2, 128)[:, ::2])),
        (moray.LayoutError, "out: expected an array that may be written", lambda: linear(weight, x, out=frozen)),
        (moray.LengthError, "out: expected shape [2, 32], got [2, 31]", lambda: linear(weight, x, out=np.zeros((2, 31), np.float32))),
        (moray.ShapeError, "out: expected 2 dimensions", lambda: linear(weight, x, out=np.zeros(64, np.float32))),
        (moray.LengthError, "bias: expected shape [32], got [31]", lambda: linear(weight, x, bias=random(31))),
        (moray.DtypeError, "residual: expected elements of f32", lambda: linear(weight, x, residual=np.zeros((2, 32), np.float16))),
        (moray.OutOfRangeError, "rows", lambda: linear(weight, x, out=out, rows=(16, 16))),
        (moray.MorayError, "row", lambda: linear(weight, x, out=out, rows=(16, 48))),
        (moray.ShapeError, "row_begin: expected a multiple of 16", lambda: linear(weight, x, out=out, rows=(3, 32))),
        (moray.OverlapError, "y: expected memory of its own", lambda: linear(weight, x, residual=out, out=out)),
        (moray.UnsupportedError, "act_scales: expected one of", lambda: linear(weight, x, act_scales="group")),
        (moray.UnsupportedError, "arch: expected one of", lambda: Cpu(1, "sse2")),
        (moray.ShapeError, "threads: expected at least 0", lambda: Cpu(-1)),
        (moray.ShapeError, "m: expected at most", lambda: Activations(1, 64).quantize(x)),
        (moray.LengthError, "", lambda: Activations(2, 64).set(np.zeros((2, 64), np.int8), np.ones(3, np.float32))),
        (moray.OverlapError, "x", lambda: linear(weight, both.reshape(2, 64), out=both[:64].reshape(2, 32)) and None),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(len(refusals()) - 1))
def test_refusals_name_the_argument_and_leave_objects_usable(number):
    error, text, call = refusals()[number]
    with pytest.raises(error, match=".*") as raised:
        call()
    assert text in str(raised.value)
    assert isinstance(raised.value, moray.MorayError)


def test_every_status_of_the_library_has_an_exception_of_its_own():
    from moray import errors
    from moray._library import ffi

    statuses = [name for name in ffi.typeof("MorayStatus").relements if not name.endswith("_OK")]
    assert len(set(errors.BY_STATUS.values())) == len(statuses)
    assert set(errors.BY_STATUS) == {ffi.typeof("MorayStatus").relements[name] for name in statuses}


def test_eight_threads_share_a_weight_and_its_device():
    weight = Weight(Quantized.quantize(random(48, 256), Format.per_group(64)))
    inputs = [random(1 + i % 3, 256) for i in range(8)]
    expected = [linear(weight, x) for x in inputs]

    def work(i):
        return all(np.array_equal(linear(weight, inputs[i]), expected[i]) for _ in range(1250))

    assert not in_eight_threads(work)
