"""Weights: round trips, what checkpoints have, and memory that outlives its first owner."""

import gc
import weakref

import numpy as np
import pytest

import moray
from moray import Format, Quantized, Weight, linear

RNG = np.random.default_rng(11)
FORMATS = [
    Format.per_channel(),
    Format.w8(),
    Format.per_group(32, "f16"),
    Format.per_group(128, "zero_point"),
    Format.two_level(64),
    Format.qqq(),
]


def plain(n, k, format):
    """A weight with every kind of array that its format has."""
    codes = RNG.integers(0, 16, (n, k), np.int8) if format.bits == 4 else RNG.integers(-127, 128, (n, k), np.int8)
    groups = (n, k // (format.group_size or k))
    parts = {}
    for name, dtype in format.scales.items():
        shape = (n,) if name == "channel" else groups
        values = RNG.integers(1, 16, shape) if dtype == "u1" else RNG.random(shape) * 0.1 + 0.01
        parts[name] = values.astype(dtype)
    return Quantized.from_parts(format, codes, **parts), codes, parts


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_packing_and_unpacking_restore_codes_and_scales(format):
    quantized, codes, parts = plain(19, 256, format)
    for weight in (Weight(quantized), Weight.borrow(quantized.pack(), 19, 256, format)):
        assert (weight.n, weight.k, weight.format) == (19, 256, format)
        back = weight.unpack()
        assert np.array_equal(back.codes, codes)
        for name in ("channel", "group", "offset"):
            assert (getattr(back, name) is None) == (name not in parts)
            assert name not in parts or np.array_equal(getattr(back, name), parts[name])
        assert np.array_equal(weight.row(18), quantized.dequantize()[18])
        assert {part: len(bytes) for part, bytes in weight.sections.items()} == {
            part: size for part, size in format.section_bytes(19, 256).items() if size
        }


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_dequantize_matches_the_documented_formula(format):
    quantized, codes, parts = plain(5, 128, format)
    spread = {n: np.repeat(a.astype(np.float64), format.group_size, 1) for n, a in parts.items() if n != "channel"}
    centre = 8 if format.bits == 4 else 0
    q = codes.astype(np.float64)
    if format.offset == "zero_point":
        w = spread["group"] * (q - spread["offset"])
    elif format.offset == "f16":
        w = spread["group"] * q + spread["offset"]
    elif format.group_scale == "f16":
        w = spread["group"] * (q - centre)
    else:
        scaled = (q - centre) * spread.get("group", 1)
        w = parts["channel"].astype(np.float64)[:, None] * (np.round(scaled) if format.group_scale == "qqq" else scaled)
    assert np.allclose(quantized.dequantize(), w, rtol=2.0**-20, atol=0)


def words(codes, bits):
    """Codes along the last axis in i32 words, the first in the lowest bits."""
    per = 32 // bits
    wide = codes.astype(np.uint32).reshape(*codes.shape[:-1], -1, per)
    return np.bitwise_or.reduce(wide << (np.arange(per, dtype=np.uint32) * bits), axis=-1).view(np.int32)


def exported(n=24, k=256, size=64):
    codes = RNG.integers(0, 16, (n, k), np.uint8)
    zeros = RNG.integers(1, 16, (n, k // size), np.uint8)
    scales = (RNG.random((n, k // size)) * 0.2 - 0.1).astype(np.float16)
    w = np.repeat(scales.astype(np.float64), size, 1) * (codes.astype(np.float64) - np.repeat(zeros, size, 1).astype(np.float64))
    return codes, zeros, scales, w


def test_gptq_arrays_match_their_definition():
    codes, zeros, scales, w = exported()
    qweight = words(np.ascontiguousarray(codes.T).T, 4).T.copy()
    assert qweight.shape == (256 // 8, 24)
    scale = scales.T.copy()
    for kind, stored in [("less_one", zeros - 1), ("plain", zeros)]:
        quantized = Quantized.from_gptq(qweight, scale, words(stored.T.copy(), 4), zeros=kind)
        assert np.allclose(quantized.dequantize(), w, rtol=2.0**-20) and quantized.order is None
    symmetric = Quantized.from_gptq(qweight, scale)
    assert np.allclose(symmetric.dequantize(), np.repeat(scales.astype(np.float64), 64, 1) * (codes - 8.0), rtol=2.0**-20)


def test_gptq_order_is_kept_by_the_packed_weight():
    codes, zeros, scales, _ = exported()
    group_of = RNG.permutation(np.repeat(np.arange(4, dtype=np.int32), 64))
    w = scales.astype(np.float64)[:, group_of] * (codes.astype(np.float64) - zeros.astype(np.float64)[:, group_of])
    quantized = Quantized.from_gptq(words(codes, 4).T.copy(), scales.T.copy(), words((zeros - 1).T.copy(), 4), group_of)
    assert np.allclose(quantized.dequantize(), w[:, quantized.order], rtol=2.0**-20)
    weight, x = Weight(quantized), RNG.standard_normal((3, 256), np.float32)
    y = linear(weight, x)
    assert np.abs(y - x.astype(np.float64) @ w.T).max() <= np.abs(x).max() / 127 * np.abs(w).sum(axis=1).max()
    lent = Weight.borrow(quantized.pack(), 24, 256, quantized.format, order=quantized.order)
    assert np.array_equal(linear(lent, x), y)
    with pytest.raises(moray.OutOfRangeError, match="order"):
        Weight.borrow(quantized.pack(), 24, 256, quantized.format, order=np.full(256, 256, np.uint32))


@pytest.mark.parametrize("grouped", [False, True])
def test_qqq_arrays_match_their_definition(grouped):
    n, k = 64, 256
    codes = RNG.integers(0, 16, (n, k), np.uint8)
    channel, group = RNG.random(n, np.float32) + 0.5, (RNG.random((n, 2)) + 0.5).astype(np.float16)
    b = np.zeros((k // 16, 2 * n), np.uint32)
    for column, i in np.ndindex(2 * n, 8):
        lane, j = column % 128 // 4, column % 4
        half = i // 2 % 2 if grouped else 1 - i % 2
        row = column // 128 * 64 + 16 * j + 8 * half + lane // 4
        inner = 4 * (lane % 4) + (2 * (i % 2) + i // 4 if grouped else i // 2)
        stored = codes[row, inner::16].astype(np.uint32)
        b[:, column] |= (stored if grouped else stored ^ 8) << np.uint32(4 * i)
    positions = np.arange(n)
    channels = positions // 32 * 32 + 2 * (positions % 32 // 8) + np.array([0, 1, 8, 9, 16, 17, 24, 25])[positions % 8]
    s_channel = channel[channels][None] / (1 if grouped else 16)
    s_group = np.ascontiguousarray(group[positions // 64 * 64 + positions % 64 // 8 + 8 * (positions % 8)].T) if grouped else None
    quantized = Quantized.from_qqq(b.view(np.int32), s_channel.astype(np.float32), s_group)
    q = codes.astype(np.float64) - 8
    whole = np.round(q * np.repeat(group.astype(np.float64), 128, 1)) if grouped else q
    assert np.allclose(quantized.dequantize(), channel.astype(np.float64)[:, None] * whole, rtol=2.0**-20)
    with pytest.raises(moray.LengthError, match=r"s_channel: expected shape \[1, 64\], got \[1, 32\]"):
        Quantized.from_qqq(b.view(np.int32), s_channel[:, :32].astype(np.float32).copy())
    with pytest.raises(moray.UnsupportedError, match="qqq layout: expected N and K that are multiples of 64"):
        Quantized.from_qqq(np.zeros((4, 64), np.int32), np.ones((1, 32), np.float32))


def test_awq_and_compressed_tensors_arrays_match_their_definition():
    codes, zeros, scales, w = exported()
    interleaved = np.array([0, 2, 4, 6, 1, 3, 5, 7])
    awq = lambda plain: words(plain.reshape(-1, 8)[:, interleaved], 4).reshape(len(plain), -1)
    quantized = Quantized.from_awq(awq(codes.T.copy()), scales.T.copy(), awq(zeros.T.copy()))
    assert np.allclose(quantized.dequantize(), w, rtol=2.0**-20)
    packed = Quantized.from_compressed_tensors(words(codes, 4), scales, words(zeros.T.copy(), 4).T.copy())
    assert np.allclose(packed.dequantize(), w, rtol=2.0**-20)


def test_gguf_blocks_match_their_definition():
    n, k = 3, 96
    scales, codes = (RNG.random((n, k // 32)) * 0.1).astype(np.float16), RNG.integers(0, 16, (n, k // 32, 32), np.uint8)
    halves = codes[..., :16] | codes[..., 16:] << 4
    blocks = np.concatenate([scales[..., None].view(np.uint8), halves], axis=2)
    quantized = Quantized.from_blocks("q4_0", blocks, n, k)
    assert np.array_equal(quantized.dequantize(), (scales[..., None].astype(np.float32) * (codes.astype(np.float32) - 8)).reshape(n, k))
    with pytest.raises(moray.UnsupportedError, match="kind: expected one of"):
        Quantized.from_blocks("q2_k", blocks, n, k)
    with pytest.raises(moray.LengthError):
        Quantized.from_blocks("q4_0", blocks[:2], n, k)


def test_borrowed_memory_lives_as_long_as_the_weight():
    quantized, _, _ = plain(32, 128, Format.per_group(64))
    x = RNG.standard_normal((2, 128), np.float32)
    expected = linear(Weight(quantized), x)
    sections = quantized.pack()
    ends = [weakref.ref(array) for array in sections.values()]
    weight = Weight.borrow(sections, 32, 128, quantized.format)
    del sections
    gc.collect()
    assert all(end() is not None for end in ends)
    assert np.array_equal(linear(weight, x), expected)
    codes = weight.sections["codes"]
    del weight
    gc.collect()
    # what is lent onwards keeps it too
    assert ends[0]() is not None and np.array_equal(codes, ends[0]())
    del codes
    gc.collect()
    assert all(end() is None for end in ends)


def test_arrays_of_a_weight_outlive_it_and_are_not_written():
    quantized, codes, _ = plain(16, 64, Format.per_channel())
    lent = quantized.codes
    del quantized
    gc.collect()
    assert np.array_equal(lent, codes)
    with pytest.raises(ValueError):
        lent[0, 0] = 1


def test_memory_that_is_lent_is_not_resized():
    quantized, _, _ = plain(32, 128, Format.per_channel())
    sections = {part: bytearray(array) for part, array in quantized.pack().items()}
    weight = Weight.borrow(sections, 32, 128, quantized.format)
    with pytest.raises(BufferError):
        sections["codes"].extend(b"more")
    assert np.array_equal(weight.unpack().codes, quantized.codes)


def test_bad_weights_are_refused():
    quantized, codes, parts = plain(32, 128, Format.per_group(64))
    sections = quantized.pack()
    short = {**sections, "codes": sections["codes"][:-1]}
    with pytest.raises(moray.LengthError, match="codes"):
        Weight.borrow(short, 32, 128, quantized.format)
    with pytest.raises(moray.MisalignedError, match="group"):
        odd = np.empty(sections["group"].size + 1, np.uint8)[1:]
        Weight.borrow({**sections, "group": odd}, 32, 128, quantized.format)
    with pytest.raises(moray.InvalidValueError):
        Quantized.from_parts(quantized.format, np.full((32, 128), 16, np.int8), group=parts["group"])
    with pytest.raises(moray.DtypeError, match="group: expected elements of f16, got f32"):
        Quantized.from_parts(quantized.format, codes, group=parts["group"].astype(np.float32))
    with pytest.raises(moray.UnsupportedError):
        Quantized.from_parts(quantized.format, codes, np.ones(32, np.float32), parts["group"])
    with pytest.raises(moray.InvalidValueError):
        Quantized.quantize(np.full((1, 32), np.nan, np.float32), Format.per_channel())
    with pytest.raises(moray.UnsupportedError):
        Quantized.quantize(np.zeros((1, 32), np.float32), Format.per_group(32, "zero_point"))
    with pytest.raises(moray.ShapeError):
        Quantized.quantize(np.zeros((1, 33), np.float32), Format.per_channel())
    with pytest.raises(moray.UnsupportedError, match="format.group_scale: expected one of"):
        Format(group_size=32, group_scale="f8").section_bytes(16, 32)
    with pytest.raises(moray.OutOfRangeError):
        Weight(quantized).row(32)
    with pytest.raises(moray.OverlapError):
        one = np.empty(sections["codes"].size, np.uint8)
        quantized.pack({"codes": one, "group": one[: sections["group"].size]})
