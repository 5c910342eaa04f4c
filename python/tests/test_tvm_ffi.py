"""The library's functions for TVM FFI against the package's own calls."""


import numpy as np
import pytest
from conftest import in_eight_threads, require

import moray
from moray import Format, InputSparse, Quantized, SparseMlp, Threshold, TopK, Weight

tvm_ffi = require("tvm_ffi")
LIBRARY = tvm_ffi.load_module(moray.library_path())
RNG = np.random.default_rng(2)
FORMATS = [Format.per_channel(), Format.w8(), Format.per_group(32, "f16"), Format.two_level(64), Format.qqq()]
PARTS = ("codes", "channel", "group", "offset")


def call(name, *arguments):
    """Numpy arrays go by DLPack, as they are."""
    lent = (tvm_ffi.from_dlpack(a) if isinstance(a, np.ndarray) else a for a in arguments)
    return LIBRARY[f"moray_{name}"](*lent)


def named(format):
    return format.bits, format.group_size, format.group_scale or "none", format.offset


def random(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def packed(w, format):
    sizes = np.zeros(4, np.int64)
    call("section_bytes", sizes, *w.shape, *named(format))
    assert dict(zip(PARTS, sizes.tolist())) == format.section_bytes(*w.shape)
    sections = [np.zeros(size, np.uint8) if size else None for size in sizes]
    call("pack", *sections, w, *named(format))
    return sections


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_packing_and_products_equal_the_packages(format):
    w, x, bias, residual = random(24, 256), random(3, 256), random(24), random(3, 24)
    sections = packed(w, format)
    weight = Weight(Quantized.quantize(w, format))
    for part, section in zip(PARTS, sections):
        assert (section is None) == (part not in weight.sections)
        assert section is None or np.array_equal(section, weight.sections[part])
    y = np.zeros((3, 24), np.float32)
    for scales in ("token", "fine"):
        call("linear", y, x, *sections, None, bias, residual, *named(format), scales, 0)
        assert np.array_equal(y, moray.linear(weight, x, bias=bias, residual=residual, act_scales=scales))
        call("linear", y, x, *sections, None, None, None, *named(format), scales, 1)
        assert np.array_equal(y, moray.linear(weight, x, act_scales=scales))


def test_the_order_of_columns_is_taken():
    w, x, order = random(16, 64), random(2, 64), RNG.permutation(64).astype(np.int32)
    format = Format.per_channel()
    y, expected = np.zeros((2, 16), np.float32), np.zeros((2, 16), np.float32)
    sections = packed(w, format)
    call("linear", y, x, *sections, order, None, None, *named(format), "token", 1)
    call("linear", expected, np.ascontiguousarray(x[:, order]), *sections, None, None, None, *named(format), "token", 1)
    assert np.array_equal(y, expected)


def test_sparse_mlps_equal_the_packages():
    gate, up, down, x = random(96, 64), random(96, 64), random(64, 96), random(3, 64)
    scale, indices = RNG.random(96, dtype=np.float32), np.array([1, 5, 90], np.int32)
    number, mlp = call("sparse_mlp_create", gate, up, down, "silu"), SparseMlp(gate, up, down)
    cases = [
        (("all", 0.0, "hidden", None, None), None),
        (("indices", 0, "hidden", None, indices), moray.Indices(indices.view(np.uint32))),
        (("threshold", 0.5, "gate", scale, None), Threshold(0.5, "gate", scale)),
        (("top_k", 7, "hidden", None, None), TopK(7)),
    ]
    for arguments, selection in cases:
        y = np.zeros((3, 64), np.float32)
        call("sparse_mlp", y, x, number, *arguments, 0)
        assert np.array_equal(y, mlp(x, selection))
    call("sparse_mlp_destroy", number)
    with pytest.raises(ValueError, match="mlp: expected the number of an MLP"):
        call("sparse_mlp", y, x, number, *cases[0][0], 0)


@pytest.mark.parametrize("kind", ["f32", "f16", "4 bits", "groups"])
def test_products_by_input_equal_the_formula_and_the_packages(kind):
    w, x, bias, residual = random(40, 96), random(2, 5, 96), random(40), random(2, 5, 40)
    formats = {"4 bits": Format.per_channel(), "groups": Format.per_group(32, "f16")}
    if format := formats.get(kind):
        number, weight = call("by_input_create_quantized", w, *named(format)), InputSparse(Quantized.quantize(w, format))
    else:
        w = w.astype({"f32": np.float32, "f16": np.float16}[kind])
        number, weight = call("by_input_create", w), InputSparse(w)
    for threshold, threads in ((0.0, 1), (0.7, 2), (0, 0), (99.0, 1)):
        y = np.zeros((2, 5, 40), np.float32)
        call("by_input", y, x, number, threshold, bias, residual, threads)
        assert np.array_equal(y, weight(x, threshold, bias=bias, residual=residual))
        call("by_input", y, x, number, threshold, None, None, threads)
        assert np.array_equal(y, weight(x, threshold))
        if format is None:
            kept, wide = np.where(np.abs(x) > threshold, x, 0).astype(np.float64), w.astype(np.float64)
            assert (np.abs(y - kept @ wide.T) <= (np.abs(kept) @ np.abs(wide.T)) * 100 * 2.0**-24).all()
    other = call("by_input_create", w)
    assert other != number
    empty = np.zeros((0, 40), np.float32)
    call("by_input", empty, random(0, 96), number, 0.5, None, None, 1)
    call("by_input_destroy", number)
    with pytest.raises(ValueError, match="weight: expected the number of a weight by input"):
        call("by_input", y, x, number, 0.0, None, None, 1)
    with pytest.raises(ValueError, match="weight: expected the number of a weight by input"):
        call("by_input_destroy", number)
    call("by_input_destroy", other)


def test_products_by_input_refuse_bad_input_and_go_on():
    w, x, y = random(40, 96), random(3, 96), np.zeros((3, 40), np.float32)
    number, end = call("by_input_create", w), (None, None, 1)
    call("by_input", y, x, number, 0.3, *end)
    expected, memory, same = y.copy(), np.zeros(3 * 96 + 60, np.float32), np.zeros((3, 40), np.float32)
    refused = [
        ("x: expected 96 features in its last dimension", lambda: call("by_input", y, random(6, 48), number, 0.3, *end)),
        ("x: expected 96 features in its last dimension", lambda: call("by_input", y, np.zeros((), np.float32), number, 0.3, *end)),
        ("y: expected shape [3, 40], got [2, 40]", lambda: call("by_input", y[:2], x, number, 0.3, *end)),
        ("y: expected elements of f32, got f16", lambda: call("by_input", y.astype(np.float16), x, number, 0.3, *end)),
        ("x: expected elements of f32, got f64", lambda: call("by_input", y, x.astype(np.float64), number, 0.3, *end)),
        ("threshold: expected", lambda: call("by_input", y, x, number, float("nan"), *end)),
        ("threshold: expected", lambda: call("by_input", y, x, number, -1.0, *end)),
        ("threshold: expected", lambda: call("by_input", y, x, number, 1e300, *end)),
        ("threshold: expected a number, got a string", lambda: call("by_input", y, x, number, "0.3", *end)),
        ("weight: expected a size from 0, got -1", lambda: call("by_input", y, x, -1, 0.3, *end)),
        ("weight: expected the number of a weight by input", lambda: call("by_input", y, x, 0, 0.3, *end)),
        ("bias: expected shape [40], got [39]", lambda: call("by_input", y, x, number, 0.3, random(39), None, 1)),
        ("residual: expected shape [3, 40], got [40, 3]", lambda: call("by_input", y, x, number, 0.3, None, random(40, 3), 1)),
        ("y: expected memory of its own", lambda: call("by_input", same, x, number, 0.3, None, same, 1)),
        ("y: expected memory of its own", lambda: call(
            "by_input", memory[288 - 60 : 288 + 60].reshape(3, 40), memory[:288].reshape(3, 96), number, 0.3, *end)),
        ("expected 7 arguments, got 8", lambda: call("by_input", y, x, number, 0.3, *end, 1)),
        ("threads: expected an argument", lambda: call("by_input", y, x, number, 0.3, None, None)),
        ("w: expected 2 dimensions", lambda: call("by_input_create", random(96))),
        ("w: expected elements of f32, f16 or bf16", lambda: call("by_input_create", w.astype(np.float64))),
        ("finite", lambda: call("by_input_create", np.full((2, 32), np.inf, np.float32))),
        ("4-bit", lambda: call("by_input_create_quantized", w, *named(Format.w8()))),
    ]  # fmt: skip
    for text, attempt in refused:
        with pytest.raises(ValueError) as raised:
            attempt()
        assert text in str(raised.value)
        assert np.array_equal(y, expected)
    call("by_input", y, x, number, 0.3, *end)
    assert np.array_equal(y, expected)
    call("by_input_destroy", number)


def test_products_by_input_take_torchs_tensors():
    torch = require("torch")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        w, x, y = torch.randn(16, 64, dtype=dtype), torch.randn(3, 64), torch.zeros(3, 16)
        number = LIBRARY["moray_by_input_create"](w)
        LIBRARY["moray_by_input"](y, x, number, 0.4, None, None, 1)
        assert np.array_equal(y.numpy(), InputSparse(w)(x.numpy(), 0.4))
        LIBRARY["moray_by_input_destroy"](number)


def test_eight_threads_share_a_weight_by_input():
    w = random(40, 96)
    number, weight = call("by_input_create", w), InputSparse(w)

    def work(i):
        x, y = random(1 + i % 3, 96), np.zeros((1 + i % 3, 40), np.float32)
        expected = weight(x, 0.4)
        for _ in range(200):
            call("by_input", y, x, number, 0.4, None, None, 1 + i % 2)
            if not np.array_equal(y, expected):
                return False
        return True

    assert not in_eight_threads(work)
    call("by_input_destroy", number)


def refused():
    format, w, x, y = Format.per_channel(), random(16, 64), random(2, 64), np.zeros((2, 16), np.float32)
    sections, end = packed(w, format), (None, None, None, *named(format), "token", 1)
    both = np.zeros((2, 64), np.float32)
    return [
        (ValueError, "y: expected a tensor, got an integer", lambda: call("linear", 1, x, *sections, *end)),
        (ValueError, "y: expected an argument, got 0 arguments to moray_linear", lambda: call("linear")),
        (ValueError, "expected 15 arguments, got 16", lambda: call("linear", y, x, *sections, *end, 1)),
        (ValueError, "bits: expected an integer, got a string", lambda: call("linear", y, x, *sections, *end[:3], "4", *end[4:])),
        (ValueError, "act_scales: expected one of token, fine, got row", lambda: call("linear", y, x, *sections, *end[:-2], "row", 1)),
        (ValueError, "x: expected elements of f32, f16 or bf16, got i64", lambda: call("linear", y, x.astype(np.int64), *sections, *end)),
        (ValueError, "x: expected 2 dimensions", lambda: call("linear", y, x[0], *sections, *end)),
        (ValueError, "x: expected elements one after another", lambda: call("linear", y, random(64, 2).T, *sections, *end)),
        (ValueError, "bias: expected shape [16], got [15]", lambda: call("linear", y, x, *sections, None, random(15), *end[2:])),
        (ValueError, "codes: expected elements of u8, got f32", lambda: call("linear", y, x, x, *sections[1:], *end)),
        (ValueError, "codes", lambda: call("linear", y, x, sections[0][:-1], *sections[1:], *end)),
        (ValueError, "y: expected memory of its own", lambda: call("linear", both.reshape(-1)[:32].reshape(2, 16), both, *sections, *end)),
        (IndexError, "order", lambda: call("linear", y, x, *sections, np.full(64, 64, np.int32), *end[1:])),
    ]  # fmt: skip


def test_refusals_are_exceptions_that_name_the_argument():
    for error, text, attempt in refused():
        with pytest.raises(error) as raised:
            attempt()
        assert text in str(raised.value)
    # and the next call works
    packed(random(16, 64), Format.per_channel())


def test_tensors_of_torch_go_as_they_are():
    torch = require("torch")
    format = Format.per_group(32)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        w, x = torch.randn(16, 64, dtype=dtype), torch.randn(3, 64, dtype=dtype)
        sizes = torch.zeros(4, dtype=torch.int64)
        LIBRARY["moray_section_bytes"](sizes, 16, 64, *named(format))
        sections = [torch.zeros(size, dtype=torch.uint8) if size else None for size in sizes.tolist()]
        LIBRARY["moray_pack"](*sections, w, *named(format))
        y, expected = torch.zeros(3, 16, dtype=dtype), torch.zeros(3, 16, dtype=dtype)
        LIBRARY["moray_linear"](y, x, *sections, None, None, None, *named(format), "token", 0)
        moray.linear(Weight(Quantized.quantize(w, format)), x, out=expected)
        assert torch.equal(y, expected)


def test_eight_threads_call_at_once():
    format, w = Format.per_group(64), random(48, 256)
    sections, weight = packed(w, format), Weight(Quantized.quantize(w, format))

    def work(i):
        x, y = random(1 + i % 3, 256), np.zeros((1 + i % 3, 48), np.float32)
        expected = moray.linear(weight, x)
        for _ in range(1250):
            call("linear", y, x, *sections, None, None, None, *named(format), "token", 1 + i % 2)
            if not np.array_equal(y, expected):
                return False
        return True

    assert not in_eight_threads(work)
