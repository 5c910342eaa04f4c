"""Products on a CUDA device against the CPU's: tensors are DLPack capsules over memory of the driver's, a GPU's or the simulated one's."""

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

    def __dlpack_device__(self):
        return self.device, 0

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
