"""What runs on a CUDA device against the CPU's: tensors are DLPack capsules over memory of the driver's, a GPU's or the simulated one's."""

import ctypes
import os

import numpy as np
import pytest
from conftest import require

import moray
from moray import Format, Quantized, cuda

REQUIRED = os.environ.get("MORAY_REQUIRE_CUDA") == "1"
FORMATS = [Format.per_channel(), Format.w8(), Format.per_group(64, "f16"), Format.two_level(64)]
RNG = np.random.default_rng(3)
try:
    DRIVER = ctypes.CDLL("libcuda.so.1")
except OSError:
    if REQUIRED:
        raise
    pytest.skip("skipped: no CUDA driver", allow_module_level=True)
if not REQUIRED and not moray.supports("linear", Format.per_channel(), arch="sm_80"):
    pytest.skip("skipped: the library was built without CUDA", allow_module_level=True)


def driver(name, *arguments):
    """Calls the driver, which has to succeed."""
    status = getattr(DRIVER, name)(*arguments)
    assert status == 0, f"{name}: {status}"


class DlTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    ]  # fmt: skip


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Tensor:
    """A numpy array's copy in device memory, which says by DLPack where it is, and which streams it was lent to."""

    def __init__(self, array, device=2):
        self.array, self.device, self.streams = np.ascontiguousarray(array), device, []
        address = ctypes.c_uint64()
        driver("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(self.array.nbytes, 1)))
        driver("cuMemcpyHtoD_v2", address, self.array.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(self.array.nbytes))
        kind = {"f": 2, "u": 1, "i": 0}[self.array.dtype.kind]
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.lent = DlTensor(address.value, device, 0, array.ndim, kind, 8 * array.itemsize, 1, shape, None, 0, None, None)

    def part(self, of):
        """A view of some elements, with the strides that they have; it lends memory alone."""
        view = self.array[of]
        start = view.__array_interface__["data"][0] - self.array.__array_interface__["data"][0]
        shape = (ctypes.c_int64 * view.ndim)(*view.shape)
        strides = (ctypes.c_int64 * view.ndim)(*(step // view.itemsize for step in view.strides))
        made = object.__new__(Tensor)
        made.array, made.device, made.streams, made.whole = view, self.device, [], self
        whole = self.lent
        made.lent = DlTensor(whole.data, self.device, 0, view.ndim, whole.code, whole.bits, 1, shape, strides, start, None, None)
        return made

    def of_another(self):
        """The same memory, said to be of the next device."""
        made = self.part(np.s_[:])
        made.lent.device_id = 1
        return made

    def reshape(self, shape):
        self.array = self.array.reshape(shape)
        self.lent.ndim, self.lent.shape = len(shape), (ctypes.c_int64 * len(shape))(*shape)

    def __dlpack_device__(self):
        return self.device, self.lent.device_id

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return new_capsule(ctypes.addressof(self.lent), b"dltensor", None)

    def fetch(self, stream):
        driver("cuStreamSynchronize", stream)
        out = np.empty_like(self.array)
        driver("cuMemcpyDtoH_v2", out.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(self.lent.data), ctypes.c_size_t(out.nbytes))
        return out


@pytest.fixture(scope="module")
def stream():
    """A stream of the primary context, which is current."""
    device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    driver("cuInit", 0)
    driver("cuDeviceGet", ctypes.byref(device), 0)
    driver("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    driver("cuCtxSetCurrent", context)
    driver("cuStreamCreate", ctypes.byref(stream), 1)
    return stream


def problem(format, m):
    w, x = RNG.standard_normal((48, 128), np.float32), RNG.standard_normal((m, 128), np.float32)
    host = moray.Weight(Quantized.quantize(w, format))
    sections = {part: Tensor(section) for part, section in host.sections.items()}
    return host, cuda.Weight(sections, host.n, host.k, format), x


def scratch(weight, m, **kinds):
    sizes = weight.scratch(m, **kinds)
    return {"tokens": Tensor(np.zeros(sizes.tokens, np.uint8)), "workspace": Tensor(np.zeros(max(sizes.workspace, 1), np.uint8))}


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("m", [1, 20])
def test_products_have_the_bits_of_the_cpu(format, m, stream):
    host, weight, x = problem(format, m)
    bias, residual = RNG.standard_normal(48).astype(np.float32), RNG.standard_normal((m, 48)).astype(np.float32)
    for scales in ("token", "fine"):
        there, out = Tensor(x), Tensor(np.zeros((m, 48), np.float32))
        returned = cuda.linear(
            weight, there, out=out, bias=Tensor(bias), residual=Tensor(residual), act_scales=scales, stream=stream.value,
            **scratch(weight, m, act_scales=scales),
        )  # fmt: skip
        assert returned is out and there.streams == [stream.value]
        assert np.array_equal(out.fetch(stream), moray.linear(host, x, bias=bias, residual=residual, act_scales=scales))


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("m", [1, 4, 9])
def test_products_of_a_source_have_the_bits_of_the_cpu(format, m, stream):
    host, weight, x = problem(format, m)
    bias, residual = RNG.standard_normal(48).astype(np.float32), RNG.standard_normal((m, 48)).astype(np.float32)
    gate_up = np.concatenate([x, RNG.standard_normal((m, 128)).astype(np.float32)], axis=1)
    relu = np.maximum(gate_up[:, :128], 0) * gate_up[:, 128:]
    for scales in ("token", "fine"):
        for source, given, taken in ((None, x, x), (cuda.Gated("relu"), gate_up, relu)):
            out = Tensor(np.zeros((m, 48), np.float32))
            room = zeros(cuda.product_scratch(weight, m, source=source, act_scales=scales))
            returned = cuda.product(
                weight, Tensor(given), out=out, workspace=room, source=source, bias=Tensor(bias), residual=Tensor(residual), act_scales=scales,
                stream=stream.value,
            )  # fmt: skip
            assert returned is out
            expected = moray.linear(host, taken, bias=bias, residual=residual, act_scales=scales)
            assert np.array_equal(out.fetch(stream), expected)


def test_products_of_few_tokens_are_normalised_and_gated(stream):
    w, x = RNG.standard_normal((64, 128), np.float32), RNG.standard_normal((2, 128), np.float32)
    host = moray.Weight(Quantized.quantize(w, FORMATS[0]))
    weight = cuda.Weight({part: Tensor(section) for part, section in host.sections.items()}, 64, 128, FORMATS[0])
    ones = Tensor(np.ones(128, np.float32))
    out, halves = Tensor(np.zeros((2, 64), np.float32)), Tensor(np.zeros((2, 32), np.float32))
    room = zeros(cuda.product_scratch(weight, 2, source=cuda.Norm(ones, 1e-6)))
    cuda.product(weight, Tensor(x), out=out, workspace=room, source=cuda.Norm(ones, 1e-6), stream=stream.value)
    y = out.fetch(stream)
    exact = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + 1e-6)
    # a code may be the next one where the sum of squares has another order
    assert np.abs(y - moray.linear(host, exact.astype(np.float32))).max() <= 128 * np.abs(w).max() * np.abs(exact).max() / 127
    assert cuda.product_scratch(weight, 2, source=cuda.Norm(ones, 1e-6), gate="relu") == 0
    cuda.product(weight, Tensor(x), out=halves, source=cuda.Norm(ones, 1e-6), gate="relu", stream=stream.value)
    assert np.array_equal(halves.fetch(stream), np.maximum(y[:, :32], 0) * y[:, 32:])
    for error, text, changed in [
        (moray.LengthError, "out: expected shape [2, 32]", {"out": out}),
        (moray.UnsupportedError, "residual", {"residual": out}),
        (moray.LengthError, "x: expected 256 features", {"source": cuda.Gated()}),
        (moray.LengthError, "norm: expected shape [128]", {"source": cuda.Norm(Tensor(np.ones(64, np.float32)), 1e-6)}),
        (moray.UnsupportedError, "activation", {"gate": "tanh"}),
        (TypeError, "source", {"source": "norm"}),
    ]:
        with pytest.raises(error) as raised:
            cuda.product(weight, Tensor(x), stream=stream.value, **{"out": halves, "gate": "relu", **changed})
        assert text in str(raised.value)


def test_types_of_halves_and_leading_dimensions_are_taken(stream):
    host, weight, x = problem(FORMATS[2], 6)
    x = x.astype(np.float16).reshape(2, 3, 128)
    out = Tensor(np.zeros((2, 3, 48), np.float16))
    cuda.linear(weight, Tensor(x), out=out, stream=stream.value, **scratch(weight, 6, dtype="f16"))
    assert np.array_equal(out.fetch(stream), moray.linear(host, x))
    # no tokens, no kernels; and the default stream is 1 to DLPack
    none = Tensor(np.zeros((0, 128), np.float32))
    cuda.linear(weight, none, out=Tensor(np.zeros((0, 48), np.float32)), tokens=None)
    assert none.streams == [1]


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_functions_of_tvm_ffi_have_the_bits_of_the_cpu(format, stream):
    tvm_ffi = require("tvm_ffi")
    library = tvm_ffi.load_module(moray.library_path())
    host, weight, x = problem(format, 5)
    numbers = format.bits, format.group_size, format.group_scale or "none", format.offset
    lend = tvm_ffi.from_dlpack
    sizes = np.zeros(2, np.int64)
    library["moray_cuda_linear_scratch"](lend(sizes), 5, host.n, host.k, *numbers, "fine", 0)
    tokens, workspace = Tensor(np.zeros(sizes[0], np.uint8)), Tensor(np.zeros(max(sizes[1], 1), np.uint8))
    bias = RNG.standard_normal(48).astype(np.float32)
    added, out, there = Tensor(bias), Tensor(np.zeros((5, 48), np.float32)), Tensor(x)
    sections = {part: Tensor(section) for part, section in host.sections.items()}
    parts = [lend(sections[part]) if part in sections else None for part in ("codes", "channel", "group", "offset")]

    def call(given):
        room = lend(tokens), lend(workspace), lend(added), None
        library["moray_cuda_linear"](lend(out), given, *parts, *room, *numbers, "fine")

    with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), stream.value):
        call(lend(there))
        assert np.array_equal(out.fetch(stream), moray.linear(host, x, bias=bias, act_scales="fine"))
        with pytest.raises(ValueError, match="x: expected memory of a CUDA device, got DLPack device 1:0"):
            call(lend(x))
        with pytest.raises(ValueError, match="y: expected memory of the CPU, got DLPack device 2:0"):
            library["moray_linear"](lend(out), lend(x), *[None] * 7, *numbers, "fine", 1)


def test_refusals_name_the_argument_and_leave_the_device_usable(stream):
    host, weight, x = problem(FORMATS[0], 3)
    good = {"x": Tensor(x), "out": Tensor(np.zeros((3, 48), np.float32)), **scratch(weight, 3)}
    for error, text, changed in [
        (moray.DeviceError, "x: expected memory of a CUDA device, got DLPack device 1:0", {"x": x}),
        (moray.DeviceError, "x: expected memory of a CUDA device, got DLPack device 10:0", {"x": Tensor(x, 10)}),
        (moray.DeviceError, "x: expected memory of CUDA device 0, whose context is current to the thread, got of device 1", {"x": Tensor(x).of_another()}),
        (moray.DeviceError, "out: expected memory of CUDA device 0", {"out": good["out"].of_another()}),
        (moray.DtypeError, "x: expected an array with DLPack, got list", {"x": [1.0]}),
        (moray.DtypeError, "x: expected elements of f32 or f16 or bf16, got i32", {"x": Tensor(x.astype(np.int32))}),
        (moray.LengthError, "x: expected 128 features", {"x": Tensor(x[:, :64])}),
        (moray.LengthError, "out: expected shape [3, 48], got [2, 48]", {"out": Tensor(np.zeros((2, 48), np.float32))}),
        (moray.LengthError, "bias: expected shape [48], got [3]", {"bias": Tensor(np.zeros(3, np.float32))}),
        (moray.LengthError, "out.memory: expected", {"tokens": Tensor(np.zeros(9, np.uint8))}),
        (moray.OverlapError, "y: expected memory of its own", {"residual": good["out"]}),
        (moray.UnsupportedError, "act_scales", {"act_scales": "row"}),
    ]:
        with pytest.raises(error) as raised:
            cuda.linear(weight, stream=stream.value, **{**good, **changed})
        assert text in str(raised.value)
    cuda.linear(weight, stream=stream.value, **good)
    assert np.array_equal(good["out"].fetch(stream), moray.linear(host, x))
    with pytest.raises(moray.DeviceError, match="codes: expected memory of CUDA device 0"):
        cuda.Weight({part: Tensor(section).of_another() for part, section in host.sections.items()}, host.n, host.k, FORMATS[0])
    with pytest.raises(moray.DeviceError, match="codes: expected memory of a CUDA device"):
        cuda.Weight(host.sections, host.n, host.k, FORMATS[0])
    driver("cuCtxSetCurrent", None)
    try:
        with pytest.raises(moray.DeviceError, match="context: expected a CUDA context that is current"):
            weight.scratch(1)
    finally:
        context = ctypes.c_void_p()
        driver("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        driver("cuCtxSetCurrent", context)


D_MODEL, D_FF = 64, 96


def zeros(size, dtype=np.uint8):
    return Tensor(np.zeros(max(int(size), 1), dtype))


def mlps():
    """An MLP in 16 bits and one in 4, on the CPU and on the device."""
    gate, up, down = [(RNG.standard_normal(s) / 4).astype(np.float16) for s in ((D_FF, D_MODEL), (D_FF, D_MODEL), (D_MODEL, D_FF))]
    bias = (RNG.standard_normal(D_FF) / 4).astype(np.float32)
    quantized = [Quantized.quantize(w, Format.per_group(32, "f16")) for w in (gate, up, down)]
    hosts = [moray.SparseMlp(gate, up, down, gate_bias=bias), moray.SparseMlp(*quantized)]
    for host in hosts:
        yield host, cuda.SparseMlp({name: Tensor(part) for name, part in cuda.SparseMlp.sections(host).items()}, host)


def words(keep):
    """Masks bool [tokens, n] as u64."""
    padded = np.zeros((len(keep), -(-keep.shape[1] // 64) * 64), bool)
    padded[:, : keep.shape[1]] = keep
    return np.packbits(padded, axis=1, bitorder="little").view("<u8")


@pytest.mark.parametrize("tokens", [1, 3, 20])
def test_mlps_on_the_device_are_the_cpus_but_for_the_order_of_sums(tokens, stream):
    x = (RNG.standard_normal((tokens, D_MODEL)) / 2).astype(np.float32)
    residual = RNG.standard_normal((tokens, D_MODEL)).astype(np.float32)
    keep, listed = RNG.random((tokens, D_FF)) < 0.4, np.arange(0, D_FF, 3, dtype=np.uint32)
    scale = np.linspace(0.5, 2, D_FF, dtype=np.float32)
    padded = np.zeros(D_FF, np.uint32)
    padded[: listed.size] = listed
    there = {"list": Tensor(padded), "count": Tensor(np.array([listed.size], np.uint32))}
    forms = [
        (None, None),
        (moray.Indices(listed), cuda.Indices(**there)),
        (moray.Masks(keep), cuda.Masks(Tensor(words(keep)))),
        (moray.Union(listed, keep), cuda.Union(**there, masks=Tensor(words(keep)))),
        (moray.TopK(9, "gate", scale), moray.TopK(9, "gate", Tensor(scale))),
        (moray.TopK(20, "input", scale[:D_MODEL]), moray.TopK(20, "input", Tensor(scale[:D_MODEL]))),
    ]
    for host, mlp in mlps():
        for selection, on_device in forms:
            expected, read = host.with_kept(x, selection, residual=residual)
            size = mlp.scratch(tokens, on_device, max_tokens=32)
            out, kept, count = Tensor(np.zeros_like(x)), zeros(D_FF, np.uint32), zeros(1, np.uint32)
            returned = cuda.sparse_mlp(
                mlp, Tensor(x), on_device, out=out, workspace=zeros(size), residual=Tensor(residual), kept=kept, kept_count=count,
                max_tokens=32, stream=stream.value,
            )  # fmt: skip
            assert returned is out
            y = out.fetch(stream)
            # 16 bits on the matrix units, and int8 codes that another order of sums may round the other way
            bound = 2.0**-6 * np.abs(expected - residual).max() + 2.0**-20
            assert np.abs(y - expected).max() <= bound, selection
            if isinstance(selection, moray.Masks) or getattr(selection, "score", "") == "gate":
                assert np.array_equal(kept.fetch(stream)[: count.fetch(stream)[0]], read)


@pytest.mark.parametrize("tokens", [1, 20])
def test_parts_of_mlps_have_the_bits_of_the_whole(tokens, stream):
    x = Tensor((RNG.standard_normal((tokens, D_MODEL)) / 2).astype(np.float32))
    residual, at = Tensor(RNG.standard_normal((tokens, D_MODEL)).astype(np.float32)), {"stream": stream.value, "max_tokens": 32}
    padded = np.zeros(D_FF, np.uint32)
    padded[:32] = np.arange(0, D_FF, 3)
    there = cuda.Indices(Tensor(padded), Tensor(np.array([32], np.uint32)))
    keep = Tensor(words(RNG.random((tokens, D_FF)) < 0.4))
    for _, mlp in mlps():
        room = zeros(cuda.parts_scratch(mlp, tokens, max_tokens=32))
        gate, hidden = (zeros(tokens * mlp.stride, np.float32) for _ in range(2))
        for values in (gate, hidden):
            values.reshape((tokens, mlp.stride))
        for neurons in (None, there, cuda.Union(there.list, there.count, keep), moray.TopK(9, "gate")):
            expected, y = (Tensor(np.zeros((tokens, D_MODEL), np.float32)) for _ in range(2))
            kept = {"kept": zeros(D_FF, np.uint32), "kept_count": zeros(1, np.uint32)}
            cuda.sparse_mlp(mlp, x, neurons, out=expected, residual=residual, workspace=zeros(mlp.scratch(tokens, neurons, max_tokens=32)), **kept, **at)
            if given := isinstance(neurons, moray.TopK):
                cuda.gate_up(mlp, x, gate=gate, workspace=room, **at)
                masks = cuda.select(gate, neurons, masks=Tensor(np.zeros((tokens, 2), np.uint64)), stream=stream.value)
                neurons = cuda.Union(*cuda.union(masks, D_FF, list=kept["kept"], count=kept["kept_count"], stream=stream.value), masks)
            cuda.gate_up(mlp, x, neurons, gate=gate, hidden=hidden, gate_is_given=given, workspace=room, **at)
            assert cuda.down(mlp, hidden, neurons, out=y, residual=residual, workspace=room, **at) is y
            assert np.array_equal(y.fetch(stream), expected.fetch(stream)) and y.fetch(stream).any()
        for error, text, attempt in [
            (moray.NullError, "hidden", lambda: cuda.gate_up(mlp, x, gate=gate, gate_is_given=True, workspace=room, **at)),
            (moray.LengthError, "gate: expected shape", lambda: cuda.gate_up(mlp, x, gate=Tensor(np.zeros((tokens + 1, 96), np.float32)), workspace=room, **at)),
            (moray.LengthError, "x: expected 64 features", lambda: cuda.gate_up(mlp, hidden, gate=gate, workspace=room, **at)),
            (moray.LengthError, "workspace", lambda: cuda.gate_up(mlp, x, gate=gate, workspace=zeros(16), **at)),
            (moray.OverlapError, "hidden", lambda: cuda.gate_up(mlp, x, gate=gate, hidden=gate, workspace=room, **at)),
            (TypeError, "neurons", lambda: cuda.gate_up(mlp, x, [1, 2], gate=gate, workspace=room, **at)),
            (moray.LengthError, "hidden: expected 96 features", lambda: cuda.down(mlp, x, out=y, workspace=room, **at)),
            (moray.LengthError, "out: expected", lambda: cuda.down(mlp, hidden, out=Tensor(np.zeros((tokens + 1, D_MODEL), np.float32)), workspace=room, **at)),
            (moray.OverlapError, "y", lambda: cuda.down(mlp, hidden, out=y, residual=y, workspace=room, **at)),
        ]:  # fmt: skip
            with pytest.raises(error, match=text):
                attempt()


def test_masks_and_unions_of_the_device_are_the_cpus(stream):
    values = RNG.standard_normal((5, 70)).astype(np.float32)
    scale = np.linspace(0, 2, 70, dtype=np.float32)
    for keep in (moray.TopK(9), moray.TopK(9, channel_scale=scale), moray.Threshold(0.8)):
        expected, read = moray.select(values, keep)
        there = keep if keep.channel_scale is None else moray.TopK(9, channel_scale=Tensor(scale))
        masks = cuda.select(Tensor(values), there, masks=Tensor(np.zeros((5, 2), np.uint64)), stream=stream.value)
        assert np.array_equal(masks.fetch(stream), expected)
        listed, count = cuda.union(masks, 70, list=zeros(70, np.uint32), count=zeros(1, np.uint32), stream=stream.value)
        assert np.array_equal(listed.fetch(stream)[: count.fetch(stream)[0]], read)


@pytest.mark.parametrize("m", [1, 9])
def test_products_by_input_have_the_bits_of_the_cpu(m, stream):
    n, k = 40, 96
    w, x = RNG.standard_normal((n, k)).astype(np.float32), RNG.standard_normal((m, k)).astype(np.float32)
    bias, residual = RNG.standard_normal(n).astype(np.float32), RNG.standard_normal((m, n)).astype(np.float32)
    padded = np.zeros((k, 48), np.float16)
    padded[:, :n] = w.T
    four_bit = [moray.InputSparse(Quantized.quantize(w, format)) for format in (Format.per_channel(), Format.per_group(32, "f16"))]
    pairs = [(host, cuda.InputSparse({name: Tensor(part) for name, part in cuda.InputSparse.sections(host).items()}, host)) for host in four_bit]
    pairs.append((moray.InputSparse(w), cuda.InputSparse.of_columns(Tensor(np.ascontiguousarray(w.T)))))
    pairs.append((moray.InputSparse(w.astype(np.float16)), cuda.InputSparse.of_columns(Tensor(padded), n)))
    for host, weight in pairs:
        sizes, out = weight.scratch(m), Tensor(np.zeros((m, n), np.float32))
        room = {"workspace": zeros(sizes.workspace), "counters": zeros(sizes.counters, np.uint32)}
        for threshold in (0.0, 0.7):
            cuda.by_input(weight, Tensor(x), threshold, out=out, bias=Tensor(bias), residual=Tensor(residual), stream=stream.value, **room)
            assert np.array_equal(out.fetch(stream), host(x, threshold, bias=bias, residual=residual))
        with pytest.raises(moray.InvalidValueError, match="threshold"):
            cuda.by_input(weight, Tensor(x), float("nan"), out=out, stream=stream.value, **room)
        with pytest.raises(moray.LengthError, match="x: expected 96 features"):
            cuda.by_input(weight, Tensor(x[:, :64]), 0.1, out=out, stream=stream.value, **room)
        with pytest.raises(moray.OverlapError, match="y"):
            cuda.by_input(weight, Tensor(x), 0.1, out=out, residual=out, stream=stream.value, **room)
    assert cuda.by_input(weight, Tensor(x[:0]), 0.1, out=(none := Tensor(np.zeros((0, n), np.float32)))) is none
    with pytest.raises(moray.ShapeError, match="columns: expected rows of 40 or more outputs in multiples of 16 bytes, got 41 f16"):
        cuda.InputSparse.of_columns(Tensor(padded[:, :41]), n)
    with pytest.raises(moray.UnsupportedError, match="weight: expected one of 4 bits"):
        cuda.InputSparse.sections(moray.InputSparse(w))
    with pytest.raises(moray.LengthError, match="rows: expected"):
        cuda.InputSparse({}, four_bit[0])


HEADS, KV_HEADS, HEAD_DIM, CAPACITY, PAGE = 4, 2, 16, 64, 16
STEPS = [
    [moray.Span(1, 0, 20)],
    [moray.Span(0, 0, 3), moray.Span(1, 20, 1)],
    [moray.Span(0, 3, 1), moray.Span(1, 21, 1)],
]


def caches(layout):
    """A paged cache in one allocation with keys beside values, as engines have them, in f16."""
    pages = 8
    shape = (pages, 2, PAGE, KV_HEADS, HEAD_DIM) if layout == "NHD" else (pages, 2, KV_HEADS, PAGE, HEAD_DIM)
    whole = Tensor(np.zeros(shape, np.float16))
    table = Tensor(np.array([[5, 0, 7, 2], [1, 6, 3, 4]], np.uint32))
    halves = [whole.part(np.s_[:, i]) for i in range(2)]
    return cuda.KvCache(*halves, capacity=CAPACITY, page_table=table, layout=layout), (whole, table)


def softmax_over(q, keys, values):
    """One head in f64."""
    scores = keys @ q / np.sqrt(HEAD_DIM)
    weights = np.exp(scores - scores.max())
    return weights @ values / weights.sum()


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("form", ["all", "lists", "groups", "mask"])
def test_attention_over_pages_matches_the_formula(layout, form, stream):
    cache, _alive = caches(layout)
    past = {slot: [[], []] for slot in range(2)}
    for spans in STEPS:
        rows = sum(span.len for span in spans)
        q, k, v = [RNG.standard_normal((rows, heads, HEAD_DIM)).astype(np.float16) for heads in (HEADS, KV_HEADS, KV_HEADS)]
        running = {"all": [0, 1, 2, 3], "lists": [1, 2], "groups": [2, 3], "mask": [0, 3]}[form]
        n = len(spans)
        heads = {
            "all": None,
            "lists": cuda.HeadLists(Tensor(np.tile(np.array([1, 2], np.uint32), (n, 1))), Tensor(np.full(n, 2, np.uint32))),
            "groups": cuda.HeadLists(Tensor(np.full((n, 1), 1, np.uint32)), Tensor(np.full(n, 1, np.uint32)), groups=True),
            "mask": cuda.HeadMask(Tensor(np.full((n, 1), 0b1001, np.uint32))),
        }[form]
        batch = cuda.Batch(Tensor(cuda.span_records(spans)), rows=rows, longest=max(span.len for span in spans), heads=heads)
        turned, out = Tensor(np.zeros((rows, HEADS, HEAD_DIM), np.float32)), Tensor(np.full((rows, HEADS, HEAD_DIM), 9, np.float32))
        fused = Tensor(np.concatenate([q, k, v], axis=1))
        parts = [fused.part(np.s_[:, a:b]) for a, b in ((0, HEADS), (HEADS, HEADS + KV_HEADS), (HEADS + KV_HEADS, HEADS + 2 * KV_HEADS))]
        cuda.write_kv(cache, batch, *parts[1:], n_q_heads=HEADS, q=parts[0], q_out=turned, stream=stream.value)
        room = zeros(cuda.attend_scratch(cache, batch, HEADS, max_spans=2))
        assert cuda.attend(cache, batch, turned, out=out, max_spans=2, workspace=room, stream=stream.value) is out
        got, row = out.fetch(stream), 0
        # once more, together: the same keys and values to the same places
        again, counters = Tensor(np.full((rows, HEADS, HEAD_DIM), 9, np.float32)), zeros(2 * KV_HEADS, np.uint32)
        room = zeros(cuda.write_attend_scratch(cache, batch, HEADS, max_spans=2))
        returned = cuda.write_attend(
            cache, batch, *parts, out=again, max_spans=2, workspace=room, counters=counters if rows == 2 else None, stream=stream.value,
        )  # fmt: skip
        assert returned is again and np.array_equal(again.fetch(stream), got) and not counters.fetch(stream).any()
        for span in spans:
            keys, values = past[span.slot]
            for _ in range(span.len):
                keys.append(k[row].astype(np.float64))
                values.append(v[row].astype(np.float64))
                for head in range(HEADS):
                    if head not in running:
                        assert not got[row, head].any()
                        continue
                    group = head // (HEADS // KV_HEADS)
                    ks, vs = np.array(keys)[:, group], np.array(values)[:, group]
                    expected = softmax_over(q[row, head].astype(np.float64), ks, vs)
                    # the weights of the softmax are rounded to 16 bits before they multiply
                    assert np.abs(got[row, head] - expected).max() <= 4 * 2.0**-11 * np.abs(vs).max()
                row += 1


def test_rotations_int8_and_holes_are_the_cpus(stream):
    spans, heads = STEPS[0], 20
    rope = RNG.standard_normal((CAPACITY, HEAD_DIM)).astype(np.float32)
    q, k, v = [RNG.standard_normal((heads, count, HEAD_DIM)).astype(np.float32) for count in (HEADS, KV_HEADS, KV_HEADS)]
    shape, scales = (2, CAPACITY, KV_HEADS, HEAD_DIM), [zeros((2 * KV_HEADS * CAPACITY), np.float32) for _ in range(2)]
    codes = [Tensor(np.zeros(shape, np.int8)) for _ in range(2)]
    present = Tensor(np.zeros((2, KV_HEADS, 2), np.uint32))
    for scale in scales:
        scale.reshape((2, KV_HEADS, CAPACITY))
    cache = cuda.KvCache(*codes, capacity=CAPACITY, k_scale=scales[0], v_scale=scales[1], present=present)
    lists = cuda.HeadLists(Tensor(np.array([[0]], np.uint32)), Tensor(np.array([1], np.uint32)))
    batch = cuda.Batch(Tensor(cuda.span_records(spans)), rows=heads, longest=heads, heads=lists)
    turned = Tensor(np.zeros_like(q))
    cuda.write_kv(
        cache, batch, Tensor(k), Tensor(v), n_q_heads=HEADS, policy="hole", q=Tensor(q), q_out=turned, rope=Tensor(rope), stream=stream.value,
    )  # fmt: skip
    positions, half = np.arange(heads), HEAD_DIM // 2
    cos, sin = rope[positions, None, :half], rope[positions, None, half:]

    def turn(x):
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    assert np.allclose(turned.fetch(stream)[:, 0], turn(q)[:, 0], rtol=1e-6, atol=1e-6)
    held = present.fetch(stream)
    assert held[1, 0, 0] == (1 << heads) - 1 and not held[1, 1].any() and not held[0].any()
    keys = codes[0].fetch(stream)[1, :heads, 0] * scales[0].fetch(stream)[1, 0, :heads, None]
    assert np.abs(keys - turn(k)[:, 0]).max() <= np.abs(turn(k)).max() / 127


def test_refusals_of_mlps_and_attention_name_the_argument(stream):
    (host, mlp), _ = mlps()
    x = Tensor(np.zeros((3, D_MODEL), np.float32))
    good = {"x": x, "out": Tensor(np.zeros((3, D_MODEL), np.float32)), "workspace": zeros(mlp.scratch(3, max_tokens=8)), "max_tokens": 8}
    for error, text, changed in [
        (moray.DeviceError, "x: expected memory of a CUDA device", {"x": np.zeros((3, D_MODEL), np.float32)}),
        (moray.LengthError, "x: expected 64 features", {"x": Tensor(np.zeros((3, 65), np.float32))}),
        (moray.LengthError, "out: expected shape [3, 64]", {"out": Tensor(np.zeros((2, D_MODEL), np.float32))}),
        (moray.LengthError, "workspace", {"workspace": zeros(16)}),
        (moray.ShapeError, "tokens", {"max_tokens": 2}),
        (moray.OverlapError, "y", {"residual": good["out"]}),
        (moray.LengthError, "masks: expected shape [3, 2]", {"selection": cuda.Masks(Tensor(np.zeros((2, 2), np.uint64)))}),
        (moray.LengthError, "list: expected shape [96]", {"selection": cuda.Indices(zeros(9, np.uint32), zeros(1, np.uint32))}),
        (moray.InvalidValueError, "threshold", {"selection": moray.Threshold(float("nan"), "input")}),
        (moray.NullError, "kept: expected u32 [96], where Threshold lists what is kept", {"selection": moray.Threshold(0.1)}),
        (moray.UnsupportedError, "score", {"selection": moray.TopK(3, "sum")}),
        (TypeError, "selection", {"selection": moray.Indices([1])}),
        (moray.NullError, "kept: expected u32 [96], where Masks lists", {"selection": cuda.Masks(Tensor(np.zeros((3, 2), np.uint64)))}),
    ]:
        with pytest.raises(error) as raised:
            cuda.sparse_mlp(mlp, stream=stream.value, **{**good, **changed})
        assert text in str(raised.value)
    cuda.sparse_mlp(mlp, stream=stream.value, **good)
    assert not good["out"].fetch(stream).any()
    with pytest.raises(moray.UnsupportedError):
        cuda.SparseMlp.sections(moray.SparseMlp(*[np.ones((64, 64), np.float32)] * 3))
    with pytest.raises(moray.LengthError, match="gate_rows: expected"):
        cuda.SparseMlp({}, host)

    cache, _alive = caches("NHD")
    spans = [moray.Span(0, 0, 3)]
    batch = cuda.Batch(Tensor(cuda.span_records(spans)), rows=3, longest=3)
    kv, q = [Tensor(np.zeros((3, heads, HEAD_DIM), np.float16)) for heads in (KV_HEADS, HEADS)]
    single = Tensor(np.zeros((3, KV_HEADS, HEAD_DIM), np.float32))
    refused = [
        (moray.LengthError, "k: expected shape [any, 2, 16]", lambda: cuda.write_kv(cache, batch, q, kv, n_q_heads=HEADS)),
        (moray.LayoutError, "v: expected f16", lambda: cuda.write_kv(cache, batch, kv, single, n_q_heads=HEADS)),
        (moray.UnsupportedError, "policy", lambda: cuda.write_kv(cache, batch, kv, kv, n_q_heads=HEADS, policy="some")),
        (moray.MorayError, "hole", lambda: cuda.write_kv(cache, batch, kv, kv, n_q_heads=HEADS, policy="hole")),
        (moray.MorayError, "n_q_heads", lambda: cuda.write_kv(cache, batch, kv, kv, n_q_heads=3)),
        (moray.LengthError, "k: expected 4 tokens", lambda: cuda.write_kv(cache, cuda.Batch(batch.records, rows=4, longest=4), kv, kv, n_q_heads=HEADS)),
        (moray.DtypeError, "q: expected elements of f32, got f16", lambda: cuda.attend(cache, batch, q, out=q)),
        (moray.UnsupportedError, "layout", lambda: cuda.KvCache(kv, kv, capacity=3, layout="DHN")),
        (moray.ShapeError, "k: expected 4 dimensions", lambda: cuda.KvCache(kv, kv, capacity=3)),
    ]
    for error, text, call in refused:
        with pytest.raises(error) as raised:
            call()
        assert text in str(raised.value)
    cuda.write_kv(cache, batch, kv, kv, n_q_heads=HEADS, stream=stream.value)


def captured(stream, call):
    """A graph of what a call puts on a stream."""
    graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
    driver("cuStreamBeginCapture_v2", stream, 2)
    call()
    driver("cuStreamEndCapture", stream, ctypes.byref(graph))
    driver("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
    return executable


def tvm_ffi_functions(stream):
    """Calls a function of TVM FFI's on the stream, arrays of the device and numpy's by DLPack."""
    tvm_ffi = require("tvm_ffi")
    library = tvm_ffi.load_module(moray.library_path())

    def call(name, *arguments):
        with tvm_ffi.use_raw_stream(tvm_ffi.device("cuda:0"), stream.value):
            return library[f"moray_{name}"](*(tvm_ffi.from_dlpack(a) if hasattr(a, "__dlpack__") else a for a in arguments))

    return call


@pytest.mark.parametrize("m", [1, 9])
def test_products_by_input_of_tvm_ffi_have_the_bits_of_the_cpu(m, stream):
    call, n, k = tvm_ffi_functions(stream), 40, 96
    w, x = RNG.standard_normal((n, k)).astype(np.float32), RNG.standard_normal((m, k)).astype(np.float32)
    bias, residual = RNG.standard_normal(n).astype(np.float32), RNG.standard_normal((m, n)).astype(np.float32)
    out, there, added = Tensor(np.zeros((m, n), np.float32)), Tensor(x), (Tensor(bias), Tensor(residual))
    call("cuda_load_kernels", 0)
    for format in (Format.per_channel(), Format.per_group(32), Format.per_group(32, "f16")):
        host, sizes = moray.InputSparse(Quantized.quantize(w, format)), np.zeros(2, np.int64)
        numbers = format.bits, format.group_size, format.group_scale or "none", format.offset
        number = call("by_input_create_quantized", w, *numbers)
        call("by_input_rows_sizes", sizes, number)
        parts = [np.zeros(size, np.uint8) for size in sizes]
        call("by_input_rows", *parts, number)
        assert all(np.array_equal(part, mine) for part, mine in zip(parts, cuda.InputSparse.sections(host).values()))
        of = format.group_size, format.offset
        call("cuda_by_input_four_bit_scratch", sizes, m, n, k, *of, 0)
        room = [zeros(size) for size in sizes]
        weight = [Tensor(part) for part in parts]
        for threshold in (0.0, 0.7):
            call("cuda_by_input_four_bit", out, there, *weight, *of, threshold, *added, *room)
            assert np.array_equal(out.fetch(stream), host(x, threshold, bias=bias, residual=residual))
        for text, attempt in [
            ("rows: expected", lambda: call("cuda_by_input_four_bit", out, there, Tensor(parts[0][:-16]), weight[1], *of, 0.1, None, None, *room)),
            ("offset_kind: expected one of", lambda: call("cuda_by_input_four_bit", out, there, *weight, of[0], "some", 0.1, None, None, *room)),
            ("x: expected memory of CUDA device 0, got of device 1", lambda: call(
                "cuda_by_input_four_bit", out, there.of_another(), *weight, *of, 0.1, None, None, *room)),
            ("rows: expected memory of a CUDA device", lambda: call("cuda_by_input_four_bit", out, there, *parts, *of, 0.1, None, None, *room)),
            ("y: expected shape", lambda: call("cuda_by_input_four_bit", out, Tensor(np.zeros((m + 1, k), np.float32)), *weight, *of, 0.1, None, None, *room)),
            ("rows: expected", lambda: call("by_input_rows", parts[0][:-1], parts[1], number)),
            ("rows: expected memory of its own", lambda: call("by_input_rows", parts[0], parts[0], number)),
        ]:  # fmt: skip
            with pytest.raises(ValueError) as raised:
                attempt()
            assert text in str(raised.value)
        call("by_input_destroy", number)
    for width, kind in ((40, np.float32), (48, np.float16)):
        columns = np.zeros((k, width), kind)
        columns[:, :n] = w.T
        held = Tensor(columns)
        call("cuda_by_input", out, there, held, 0.7, *added)
        assert np.array_equal(out.fetch(stream), moray.InputSparse(w.astype(kind))(x, 0.7, bias=bias, residual=residual))
    for text, attempt in [
        ("columns: expected 96 rows of 40 outputs or more", lambda: call("cuda_by_input", out, there, Tensor(columns[:95]), 0.7, None, None)),
        ("columns: expected 96 rows of 40 outputs or more", lambda: call("cuda_by_input", out, there, Tensor(columns[:, :39]), 0.7, None, None)),
        ("row_bytes", lambda: call("cuda_by_input", out, there, Tensor(columns[:, :41]), 0.7, None, None)),
        ("threshold", lambda: call("cuda_by_input", out, there, held, -1.0, None, None)),
        ("y", lambda: call("cuda_by_input", out, there, held, 0.5, None, out)),
        ("y: expected 1 dimension or more", lambda: call("cuda_by_input", Tensor(np.zeros((), np.float32)), there, held, 0.5, None, None)),
    ]:  # fmt: skip
        with pytest.raises(ValueError) as raised:
            attempt()
        assert text in str(raised.value)
    number = call("by_input_create", w)
    with pytest.raises(ValueError, match="weight: expected one of 4 bits"):
        call("by_input_rows_sizes", sizes, number)
    call("cuda_by_input", out, there, held, 0.7, *added)
    assert np.array_equal(out.fetch(stream), moray.InputSparse(w.astype(kind))(x, 0.7, bias=bias, residual=residual))


@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("kind", [np.float16, None], ids=["f16", "4 bits"])
def test_mlps_of_tvm_ffi_have_the_bits_of_the_packages(kind, tokens, stream):
    call, sizes = tvm_ffi_functions(stream), np.zeros(6, np.int64)
    gate, up, down = [(RNG.standard_normal(s) / 4).astype(np.float16) for s in ((D_FF, D_MODEL), (D_FF, D_MODEL), (D_MODEL, D_FF))]
    if kind:
        number, host, form = call("sparse_mlp_create", gate, up, down, "relu"), moray.SparseMlp(gate, up, down, activation="relu"), ("f16", 0, "none")
    else:
        number = call("sparse_mlp_create_quantized", gate, up, down, "relu", 4, 32, "f16", "f16")
        host = moray.SparseMlp(*(Quantized.quantize(w, Format.per_group(32, "f16")) for w in (gate, up, down)), activation="relu")
        form = ("four_bit", 32, "f16")
    call("sparse_mlp_rows_sizes", sizes, number)
    parts = [np.zeros(size, np.uint8) if size else None for size in sizes]
    call("sparse_mlp_rows", *parts, number)
    sections = cuda.SparseMlp.sections(host)
    names = [f"{matrix}_{part}" for matrix in ("gate", "up", "down") for part in ("rows", "scales")]
    assert all(np.array_equal(part, sections[name]) if part is not None else name not in sections for name, part in zip(names, parts))
    mlp = cuda.SparseMlp({name: Tensor(part) for name, part in sections.items()}, host)
    rows = [Tensor(part) if part is not None else None for part in parts]
    stored = "relu", D_FF, *form
    x, residual = Tensor((RNG.standard_normal((tokens, D_MODEL)) / 2).astype(np.float32)), Tensor(RNG.standard_normal((tokens, D_MODEL)).astype(np.float32))
    listed, masks = np.arange(0, D_FF, 3, dtype=np.uint32), Tensor(words(RNG.random((tokens, D_FF)) < 0.4))
    padded = np.zeros(D_FF, np.uint32)
    padded[: listed.size] = listed
    there, scale = [Tensor(padded), Tensor(np.array([listed.size], np.uint32))], Tensor(np.linspace(0.5, 2, D_FF, dtype=np.float32))
    kept, count = zeros(D_FF, np.uint32), zeros(1, np.uint32)
    lists = {"kept": kept, "kept_count": count}
    forms = [
        (("all", 0, "gate"), (None, None, None, None), None),
        (("indices", 0, "gate"), (None, *there, None), cuda.Indices(*there)),
        (("masks", 0, "gate"), (None, None, None, masks), cuda.Masks(masks)),
        (("union", 0, "gate"), (None, *there, masks), cuda.Union(*there, masks=masks)),
        (("threshold", 0.25, "hidden"), (scale, None, None, None), moray.Threshold(0.25, "hidden", scale)),
        (("top_k", 9, "gate"), (scale, None, None, None), moray.TopK(9, "gate", scale)),
    ]
    for chosen, given, selection in forms:
        size = call("cuda_sparse_mlp_scratch", tokens, 32, D_MODEL, *stored, *chosen, 0)
        assert size == mlp.scratch(tokens, selection, max_tokens=32)
        room, out, expected = zeros(size), Tensor(np.zeros((tokens, D_MODEL), np.float32)), Tensor(np.ones((tokens, D_MODEL), np.float32))
        call("cuda_sparse_mlp", out, x, *rows, *stored, *chosen, *given, residual, kept, count, room, 32)
        mine = kept.fetch(stream)[: count.fetch(stream)[0]]
        cuda.sparse_mlp(mlp, x, selection, out=expected, workspace=room, residual=residual, max_tokens=32, stream=stream.value, **lists)
        assert np.array_equal(out.fetch(stream), expected.fetch(stream))
        assert np.array_equal(mine, kept.fetch(stream)[: count.fetch(stream)[0]])
    before, whole = out.fetch(stream), (None, None, None, None)
    refused = [
        ("gate.rows", lambda: call("cuda_sparse_mlp", out, x, Tensor(parts[0][:-16]), *rows[1:], *stored, "all", 0, "gate", *whole, None, None, None, room, 32)),
        ("up_rows: expected an address, got null", lambda: call("cuda_sparse_mlp", out, x, *rows[:2], None, *rows[3:], *stored, "all", 0, "gate", *whole, None, None, None, room, 32)),
        ("gate_rows: expected memory of a CUDA device", lambda: call("cuda_sparse_mlp", out, x, parts[0], *rows[1:], *stored, "all", 0, "gate", *whole, None, None, None, room, 32)),
        ("workspace", lambda: call("cuda_sparse_mlp", out, x, *rows, *stored, "all", 0, "gate", *whole, None, None, None, zeros(16), 32)),
        ("x: expected memory of CUDA device 0, got of device 1", lambda: call(
            "cuda_sparse_mlp", out, x.of_another(), *rows, *stored, "all", 0, "gate", *whole, None, None, None, room, 32)),
        ("list: expected an address, got null", lambda: call("cuda_sparse_mlp", out, x, *rows, *stored, *forms[-1][0], *forms[-1][1], None, None, None, room, 32)),
        ("y", lambda: call("cuda_sparse_mlp", out, out, *rows, *stored, "all", 0, "gate", *whole, None, None, None, room, 32)),
        ("y: expected shape", lambda: call("cuda_sparse_mlp", Tensor(np.zeros((tokens, D_MODEL + 8), np.float32)), x, *rows, *stored, "all", 0, "gate", *whole, None, None, None, room, 32)),
        ("list: expected an address, got null", lambda: call("cuda_sparse_mlp", out, x, *rows, *stored, "indices", 0, "gate", *whole, None, None, None, room, 32)),
        ("format: expected one of", lambda: call("cuda_sparse_mlp_scratch", tokens, 32, D_MODEL, "relu", D_FF, "f32", 0, "none", "all", 0, "gate", 0)),
        ("expected", lambda: call("cuda_sparse_mlp_scratch", tokens, 32, D_MODEL, "relu", 2**60, *form, "all", 0, "gate", 0)),
        ("gate_rows: expected", lambda: call("sparse_mlp_rows", parts[0][:-1].copy(), *parts[1:], number)),
        ("gate_rows: expected memory of its own", lambda: call("sparse_mlp_rows", parts[0], parts[1], parts[0], *parts[3:], number)),
    ]  # fmt: skip
    if not kind:
        refused.append(("down_scales: expected an address, got null", lambda: call(
            "cuda_sparse_mlp", out, x, *rows[:5], None, *stored, "all", 0, "gate", *whole, None, None, None, room, 32)))  # fmt: skip
    for text, attempt in refused:
        with pytest.raises(ValueError) as raised:
            attempt()
        assert text in str(raised.value)
    assert np.array_equal(out.fetch(stream), before)
    call("sparse_mlp_destroy", number)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("form", ["all", "list", "groups", "mask"])
def test_attention_of_tvm_ffi_has_the_bits_of_the_packages(layout, form, stream):
    call = tvm_ffi_functions(stream)
    (cache, (theirs, _table)), (_, (whole, table)) = caches(layout), caches(layout)
    rope = Tensor(RNG.standard_normal((CAPACITY, HEAD_DIM)).astype(np.float32))
    mine = [*(whole.part(np.s_[:, i]) for i in range(2)), layout, CAPACITY, table, None, None, None]
    for spans in STEPS:
        rows, n = sum(span.len for span in spans), len(spans)
        fused = Tensor(RNG.standard_normal((rows, HEADS + 2 * KV_HEADS, HEAD_DIM)).astype(np.float16))
        q, k, v = (fused.part(np.s_[:, a:b]) for a, b in ((0, 4), (4, 6), (6, 8)))
        lists = Tensor(np.tile(np.array([1, 2] if form == "list" else [1, 0], np.uint32), (n, 1)))
        counts = Tensor(np.full(n, 2 if form == "list" else 1, np.uint32))
        mask = Tensor(np.full((n, 1), 0b1001, np.uint32))
        heads = {
            "all": (None, None, None),
            "list": (cuda.HeadLists(lists, counts), lists, counts),
            "groups": (cuda.HeadLists(lists, counts, groups=True), lists, counts),
            "mask": (cuda.HeadMask(mask), mask, None),
        }[form]
        records, longest = Tensor(cuda.span_records(spans).view(np.int32)), max(span.len for span in spans)
        batch = cuda.Batch(records, rows=rows, longest=longest, heads=heads[0])
        turned, out = ([Tensor(np.zeros((rows, HEADS, HEAD_DIM), np.float32)) for _ in range(2)] for _ in range(2))
        cuda.write_kv(cache, batch, k, v, n_q_heads=HEADS, q=q, q_out=turned[0], rope=rope, stream=stream.value)
        call("cuda_write_kv", k, v, q, turned[1], rope, records, longest, "write_all", HEADS, form, *heads[1:], *mine)
        size = call("cuda_attend_scratch", out[1], turned[1], records, longest, 2, None, form, *heads[1:], *mine)
        assert size == cuda.attend_scratch(cache, batch, HEADS, max_spans=2)
        room = zeros(size)
        cuda.attend(cache, batch, turned[0], out=out[0], max_spans=2, workspace=room, stream=stream.value)
        call("cuda_attend", out[1], turned[1], records, longest, 2, room, form, *heads[1:], *mine)
        assert np.array_equal(turned[1].fetch(stream), turned[0].fetch(stream)) and out[0].fetch(stream).any()
        assert np.array_equal(out[1].fetch(stream), out[0].fetch(stream))
    assert np.array_equal(whole.fetch(stream), theirs.fetch(stream))
    before = out[1].fetch(stream)
    graph = captured(stream, lambda: call("cuda_attend", out[0], turned[1], records, longest, 2, room, form, *heads[1:], *mine))
    driver("cuMemsetD8_v2", ctypes.c_uint64(out[0].lent.data), ctypes.c_ubyte(0), ctypes.c_size_t(before.nbytes))
    assert not out[0].fetch(stream).any()
    driver("cuGraphLaunch", graph, stream)
    assert np.array_equal(out[0].fetch(stream), before)

    def write(k=k, v=v, q=None, q_out=None, rope=None, records=records, policy="write_all", n=HEADS, where=mine):
        call("cuda_write_kv", k, v, q, q_out, rope, records, longest, policy, n, "all", None, None, *where)

    def attend(y=out[1], q=turned[1]):
        call("cuda_attend", y, q, records, longest, 2, room, "all", None, None, *mine)

    single, half = Tensor(np.zeros((rows, KV_HEADS, HEAD_DIM), np.float32)), Tensor(np.zeros((rows, HEADS, HEAD_DIM), np.float16))
    for text, attempt in [
        ("k: expected [M, heads, head_dim] with the heads of a token one after another", lambda: write(k=mine[0])),
        ("v: expected", lambda: write(v=q)),
        ("v: expected the type of k", lambda: write(v=single)),
        ("q: expected elements of k's type", lambda: write(q=turned[0])),
        ("q_out: expected shape", lambda: write(q=q, q_out=single)),
        ("rope: expected shape", lambda: write(rope=Tensor(np.zeros((4, 8), np.float32)))),
        ("records: expected shape", lambda: write(records=Tensor(np.zeros((2, 3), np.int32)))),
        ("policy: expected one of write_all, hole, zero, keep, got some", lambda: write(policy="some")),
        ("hole", lambda: write(policy="hole")),
        ("n_q_heads", lambda: write(n=3)),
        ("v: expected memory of CUDA device 0, got of device 1", lambda: write(v=v.of_another())),
        ("pages.v: expected memory of CUDA device 0, got of device 1", lambda: write(where=[mine[0], mine[1].of_another(), *mine[2:]])),
        ("v cache: expected rows that do not lie over those of the k cache", lambda: write(where=[mine[0], mine[0], *mine[2:]])),
        ("pages.k: expected memory of a CUDA device", lambda: write(where=[np.zeros((8, 16, 2, 16), np.float16), *mine[1:]])),
        ("pages.v: expected shape", lambda: write(where=[mine[0], whole, *mine[2:]])),
        ("q: expected elements of f32, got f16", lambda: attend(q=half)),
        ("out: expected shape", lambda: attend(y=single)),
        ("q: expected 3 dimensions", lambda: attend(q=rope)),
    ]:  # fmt: skip
        with pytest.raises(ValueError) as raised:
            attempt()
        assert text in str(raised.value)
    attend()


def test_every_call_goes_to_its_stream_and_can_be_captured(stream):
    at, made = stream.value, {}

    def array(name, shape, dtype=np.float32):
        made[name] = Tensor(np.zeros(shape, dtype))
        return made[name]

    host, weight, x = problem(FORMATS[2], 3)
    room = scratch(weight, 3)
    y = array("linear", (3, 48))
    calls = [lambda: cuda.linear(weight, Tensor(x), out=y, stream=at, **room)]
    mlp_host, mlp = next(mlps())
    inputs = (RNG.standard_normal((3, D_MODEL)) / 2).astype(np.float32)
    parts = {"out": array("sparse_mlp", (3, D_MODEL)), "kept": array("kept", D_FF, np.uint32), "kept_count": array("kept_count", 1, np.uint32)}
    there = moray.TopK(9, "gate")
    work = zeros(mlp.scratch(3, there, max_tokens=8))
    calls.append(lambda: cuda.sparse_mlp(mlp, Tensor(inputs), there, workspace=work, max_tokens=8, stream=at, **parts))
    masks, listed, count = array("select", (3, 2), np.uint64), array("list", D_FF, np.uint32), array("count", 1, np.uint32)
    values = Tensor(RNG.standard_normal((3, D_FF)).astype(np.float32))
    calls.append(lambda: cuda.select(values, moray.Threshold(1.0), masks=masks, stream=at))
    calls.append(lambda: cuda.union(masks, D_FF, list=listed, count=count, stream=at))
    w = RNG.standard_normal((40, 128)).astype(np.float32)
    four = moray.InputSparse(Quantized.quantize(w, Format.per_channel()))
    held = cuda.InputSparse({name: Tensor(part) for name, part in cuda.InputSparse.sections(four).items()}, four)
    sizes, by_four, by_float = held.scratch(3), array("by_input", (3, 40)), array("by_float", (3, 40))
    spare = {"workspace": zeros(sizes.workspace), "counters": zeros(sizes.counters, np.uint32)}
    calls.append(lambda: cuda.by_input(held, Tensor(x), 0.5, out=by_four, stream=at, **spare))
    dense = cuda.InputSparse.of_columns(Tensor(np.ascontiguousarray(w.T)))
    dense.scratch(3)
    calls.append(lambda: cuda.by_input(dense, Tensor(x), 0.5, out=by_float, stream=at))
    cache, (whole, _table) = caches("NHD")
    made["write_kv"] = whole
    batch = cuda.Batch(Tensor(cuda.span_records(STEPS[0])), rows=20, longest=20)
    k, v = (Tensor(RNG.standard_normal((20, KV_HEADS, HEAD_DIM)).astype(np.float16)) for _ in range(2))
    q, out = Tensor(RNG.standard_normal((20, HEADS, HEAD_DIM)).astype(np.float32)), array("attend", (20, HEADS, HEAD_DIM))
    split = zeros(cuda.attend_scratch(cache, batch, HEADS))
    calls.append(lambda: cuda.write_kv(cache, batch, k, v, n_q_heads=HEADS, stream=at))
    calls.append(lambda: cuda.attend(cache, batch, q, out=out, workspace=split, stream=at))
    # the memory of arguments is there for as long as the graph
    kept, lend = [], Tensor.__dlpack__

    def keeping(self, stream=None):
        # what its owner does elsewhere comes before what this stream gets; -1: it is ordered already
        assert stream in (-1, at)
        kept.append(self)
        return lend(self, stream)

    Tensor.__dlpack__ = keeping
    try:
        graphs = [captured(stream, call) for call in calls]
    finally:
        Tensor.__dlpack__ = lend
    # what went elsewhere would have run
    assert not [name for name, there in made.items() if there.fetch(stream).any()]
    for graph in graphs:
        driver("cuGraphLaunch", graph, stream)
    assert not [name for name, there in made.items() if not there.fetch(stream).any()]
    assert np.array_equal(y.fetch(stream), moray.linear(host, x)) and np.array_equal(by_four.fetch(stream), four(x, 0.5))
    first = out.fetch(stream)
    for call in calls:
        call()
    assert np.array_equal(out.fetch(stream), first) and np.array_equal(y.fetch(stream), moray.linear(host, x))
