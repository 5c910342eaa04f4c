"""torch's operators on CUDA tensors against the CPU's: the dispatcher, allocations and streams are torch's, memory and kernels the simulated driver's.

torch's own CUDA runtime does not start on the simulated driver. A dispatch mode stands in for it: tensors of the device are wrappers, allocations take
memory of the driver's, and the operators run by what is registered for CUDA.
"""

import contextlib
import ctypes
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import require

import moray
from moray import Format, Indices, Threshold, TopK, cuda

torch = require("torch")
from test_cuda import DlTensor, Tensor as Lent, captured, driver, stream  # noqa: E402, F401 - the fixture
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from moray.torch import InputSparseLinear, SparseMlp, W4A8Linear, on_cuda  # noqa: E402

GPU = torch.device("cuda", 0)
NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.uint8: np.uint8, torch.int32: np.int32}


class There(torch.Tensor):
    """A tensor of the device: memory that the driver has, and what torch asks of a tensor."""

    @staticmethod
    def __new__(cls, host, of=None, begin=0):
        made = torch.Tensor._make_wrapper_subclass(cls, host.shape, host.stride(), dtype=host.dtype, device=GPU)
        # the whole allocation, and how many bytes of it come before; views share it
        made.whole, made.begin = of or Lent(host.detach().numpy()), begin
        return made

    def data_ptr(self):
        return self.whole.lent.data + self.begin

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, stream=None):
        assert stream in (-1, MODE.stream), f"lent to stream {stream}"
        template = np.lib.stride_tricks.as_strided(np.empty(1, NUMPY[self.dtype]), self.shape, [0] * self.dim(), writeable=False)
        view = object.__new__(Lent)
        view.array, view.device, view.streams, view.whole = template, 2, [], self.whole
        shape, steps = ((ctypes.c_int64 * self.dim())(*of) for of in (self.shape, self.stride()))
        kind = {"f": 2, "u": 1, "i": 0}[np.dtype(NUMPY[self.dtype]).kind]
        bits = 8 * self.element_size()
        view.lent = DlTensor(self.whole.lent.data, 2, 0, self.dim(), kind, bits, 1, shape, steps, self.begin, None, None)
        KEPT.append(view)
        return view.__dlpack__(stream)

    def host(self):
        """A copy, when the stream has passed."""
        flat = self.whole.fetch(MODE.handle).reshape(-1).view(np.uint8)
        count = self.numel() * self.element_size()
        return torch.from_numpy(flat[self.begin : self.begin + count].copy().view(NUMPY[self.dtype]).reshape(self.shape))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return MODE.run(func, args, kwargs or {})


KEPT = []


def moved(args, f):
    return torch.utils._pytree.tree_map_only(There, f, args)


class Runtime(TorchDispatchMode):
    """What torch's CUDA runtime does, on the simulated driver."""

    def __init__(self, handle):
        super().__init__()
        self.handle, self.stream, self.capturing, self.made = handle, handle.value, False, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.run(func, args, kwargs or {})

    def run(self, func, args, kwargs):
        on_device = kwargs.get("device") in (GPU, torch.device("cuda")) or any(
            isinstance(a, There) for a in torch.utils._pytree.tree_leaves((args, kwargs))
        )
        if not on_device:
            return func(*args, **kwargs)
        if func.namespace.lstrip("_").startswith("moray"):
            with self:
                return func.redispatch(torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA), *args, **kwargs)
        name = func.overloadpacket.__name__
        if name in ("view", "_unsafe_view", "split", "detach", "alias", "slice", "reshape", "unsqueeze", "squeeze"):
            # the same memory: where a view begins is what its storage offset says
            (x, *rest) = args
            plain = func(torch.empty_strided(x.shape, x.stride(), dtype=x.dtype), *rest, **kwargs)
            size = x.element_size()
            if name == "view" and rest and isinstance(rest[0], torch.dtype):
                size = plain.element_size()
            again = lambda part: There(part, x.whole, x.begin + part.storage_offset() * size)  # noqa: E731
            return [again(part) for part in plain] if isinstance(plain, (list, tuple)) else again(plain)
        if name == "to" and isinstance(args[0], There) and kwargs.get("dtype", args[1] if len(args) > 1 else None) == args[0].dtype:
            return args[0]
        # the rest is computed on the CPU, and allocated anew
        is_empty = name.startswith(("empty", "new_empty"))
        shape_of = lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)  # noqa: E731
        given, named = (moved(of, shape_of if is_empty else There.host) for of in (args, kwargs))
        if "device" in named:
            named["device"] = torch.device("cpu")
        result = func(*given, **named)
        if is_empty:
            # what nobody wrote is not zeros
            result.view(torch.uint8).fill_(0xA5)
        made = There(result)
        self.made.append((name, made))
        return made


MODE = None


def on_the_stream(function):
    """A function that puts a kernel on a stream, which has to be torch's current one."""

    def checked(device, stream, *rest):
        assert stream == MODE.stream
        return function(device, stream, *rest)

    return checked


@pytest.fixture
def device(stream, monkeypatch):  # noqa: F811
    global MODE
    MODE = Runtime(stream)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda which: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: types.SimpleNamespace(cuda_stream=MODE.stream))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: MODE.capturing)
    monkeypatch.setattr(on_cuda, "_ZEROS", {})
    for name in ("quantize", "multiply"):
        monkeypatch.setattr(cuda, name, on_the_stream(getattr(cuda, name)))
    with MODE:
        yield MODE
    MODE = None
    KEPT.clear()


def layer_there(layer):
    """`layer.to("cuda")`: its buffers on the device."""
    for name, buffer in layer._buffers.items():
        if buffer is not None:
            layer._buffers[name] = There(buffer)
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_linear_has_the_bits_of_the_cpu(device, dtype):
    torch.manual_seed(1)
    plain = torch.nn.Linear(128, 48).to(dtype)
    for format, scales in ((Format.per_group(64, "f16"), "token"), (Format.two_level(64), "fine"), (Format.per_channel(), "token")):
        layer = W4A8Linear.from_linear(plain, format, scales)
        for shape in ((2, 3), (1,), (20,), (0,)):
            x = torch.randn(*shape, 128).to(dtype)
            expected = layer(x)
            there = W4A8Linear.from_linear(plain, format, scales)
            assert torch.equal(layer_there(there)(There(x)).host(), expected)
    order = torch.randperm(128, dtype=torch.int32)
    arguments = (layer.codes, layer.channel, layer.group, layer.offset, order, layer.bias, 48, 128, layer._numbers, "token")
    there = [There(a) if isinstance(a, torch.Tensor) else a for a in arguments]
    expected = torch.ops.moray.w4a8_linear(x := torch.randn(3, 128).to(dtype), *arguments)
    assert torch.equal(torch.ops.moray.w4a8_linear(There(x), *there).host(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("quantized", [False, True])
def test_by_input_has_the_bits_of_the_cpu(device, dtype, quantized):
    torch.manual_seed(2)
    w, bias = torch.randn(44, 96).to(dtype), torch.randn(44)
    weight = moray.Quantized.quantize(w, Format.per_group(32, "f16")) if quantized else w
    layer = InputSparseLinear(weight, 0.5, bias)
    held = layer_there(InputSparseLinear(weight, 0.5, bias))
    for shape in ((1,), (2, 5), (0,)):
        x = torch.randn(*shape, 96).to(dtype)
        assert torch.equal(held(There(x)).host(), layer(x))
    held.threshold = 0.0
    layer.threshold = 0.0
    assert torch.equal(held(There(x := torch.randn(9, 96).to(dtype))).host(), layer(x))


@pytest.mark.parametrize("selection", [None, TopK(9, "gate"), TopK(9, "hidden"), Threshold(0.3, "input"), Indices([0, 7, 90])], ids=str)
def test_mlps_are_the_cpus_but_for_the_order_of_sums(device, selection):
    torch.manual_seed(3)
    weights = [torch.randn(s).mul(0.25).half() for s in ((96, 64), (96, 64), (64, 96))]
    scaled = selection
    if isinstance(selection, TopK) and selection.score == "gate":
        scaled = TopK(9, "gate", torch.linspace(0.5, 2, 96))
    module, held = SparseMlp(*weights, scaled), layer_there(SparseMlp(*weights, scaled))
    for tokens in (1, 3, 20):
        x = torch.randn(tokens, 64).mul(0.5).half()
        expected, got = module(x).float(), held(There(x)).host().float()
        # sums in 16 bits on the matrix units, and results of 16 bits
        assert (got - expected).abs().max() <= 2.0**-6 * expected.abs().max() + 2.0**-20
    many = torch.randn(cuda.MAX_TOKENS + 3, 64).half()
    whole = held(There(many)).host()
    assert torch.equal(held(There(many[-3:])).host(), whole[-3:]) and whole.dtype == torch.float16
    assert held(There(many[:0])).shape == (0, 64)


def test_refusals_name_the_argument_and_leave_the_device_usable(device):
    layer = layer_there(W4A8Linear.from_linear(torch.nn.Linear(64, 32), Format.per_channel()))
    x = torch.randn(2, 64)
    with pytest.raises(moray.LengthError, match="x: expected 64 features"):
        layer(There(torch.randn(2, 63)))
    with pytest.raises(moray.DtypeError, match="x: expected elements of f32"):
        layer(There(torch.zeros(2, 64, dtype=torch.int32)))
    codes, layer._buffers["codes"] = layer._buffers["codes"], torch.zeros(32 * 32, dtype=torch.uint8)
    with pytest.raises(moray.DeviceError, match="codes: expected memory of cuda:0, got cpu"):
        layer(There(x))
    layer._buffers["codes"] = codes
    assert layer(There(x)).shape == (2, 32)
    mlp = SparseMlp(torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96))
    with pytest.raises(moray.UnsupportedError):  # weights in f32
        mlp(There(x))
    halves = [w.half() for w in (torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96))]
    fresh = SparseMlp(*halves)
    device.capturing = True
    with pytest.raises(moray.UnsupportedError, match="weights: expected a call on cuda:0 before a graph is captured"):
        fresh(There(x))
    device.capturing = False
    fresh(There(x))
    device.capturing = True
    assert fresh(There(x)).shape == (2, 64)
    with pytest.raises(moray.DtypeError, match="indices: expected a tensor of torch.int32"):
        torch.ops.moray.sparse_mlp(There(x), fresh.number, "indices", 0.0, "hidden", None, None)


def test_a_call_keeps_its_zeros_and_its_copies(device):
    weight = torch.randn(48, 128)
    layer = layer_there(W4A8Linear.from_linear(torch.nn.Linear(4096, 64), Format.per_group(64)))
    mlp = SparseMlp(*(torch.randn(s).half() for s in ((96, 64), (96, 64), (64, 96))))
    held, x, y = InputSparseLinear(moray.Quantized.quantize(weight, Format.per_channel()), 0.1), torch.randn(3, 128), torch.randn(3, 64)
    long = torch.randn(40, 4096)
    for _ in range(2):
        # the second needs more zeros than the first
        held(There(x)), layer(There(long)), mlp(There(y))
        begun = len(device.made)
    layer(There(long)), held(There(x)), mlp(There(y))
    assert not [name for name, _ in device.made[begun:] if name.startswith("zeros")]
    assert len(on_cuda._ZEROS) == 1 and not next(iter(on_cuda._ZEROS.values())).host().any()
    number = len(on_cuda._COPIES)
    del mlp, held
    assert len(on_cuda._COPIES) == number - 2


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """The kernel for the Hugging Face library around the package's."""
    from test_hub_kernel import build, module

    folder = build.build(Path(moray.library_path()), tmp_path_factory.mktemp("kernel"), "12.6")
    name = json.loads((folder / "metadata.json").read_text())["id"]
    sys.modules[name] = package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    return module(name, folder / "__init__.py")


def test_operators_are_captured_on_torchs_stream(device, kernel):
    torch.manual_seed(5)
    layer = layer_there(W4A8Linear.from_linear(torch.nn.Linear(4096, 64), Format.per_group(64)))
    mlp = SparseMlp(*(torch.randn(s).half() for s in ((96, 64), (96, 64), (64, 96))), TopK(9, "gate"))
    held = InputSparseLinear(moray.Quantized.quantize(torch.randn(48, 128), Format.per_channel()), 0.1)
    packed = kernel.quantize(torch.randn(48, 4096)).pack()
    packed = packed._replace(codes=There(packed.codes), group=There(packed.group))
    x, y, z = There(torch.randn(40, 4096)), There(torch.randn(3, 128)), There(torch.randn(3, 64))
    for call in (lambda: layer(x), lambda: held(y), lambda: mlp(z), lambda: kernel.w4a8_linear(x, packed)):
        expected, results = call().host(), []
        device.capturing = True
        graph = captured(device.handle, lambda: results.append(call()))
        device.capturing = False
        # what went to another stream would have run
        assert (results[0].host().view(torch.uint8) == 0xA5).all()
        driver("cuGraphLaunch", graph, device.handle)
        assert torch.equal(results[0].host(), expected)


def test_the_hub_kernel_has_the_bits_of_the_cpu(device, kernel):
    torch.manual_seed(4)
    for parts in ((4, 64, "f16", "f16"), (8, 0, "none", "none")):
        packed, bias = kernel.quantize(torch.randn(48, 4096), *parts).pack(), torch.randn(48)
        there = packed._replace(**{part: There(getattr(packed, part)) for part in packed._fields[:4] if getattr(packed, part) is not None})
        for x in (torch.randn(2, 3, 4096), torch.randn(40, 4096).half(), torch.randn(0, 4096)):
            for scales in ("token", "fine"):
                expected = kernel.w4a8_linear(x, packed, bias, scales)
                assert torch.equal(kernel.w4a8_linear(There(x), there, There(bias), scales).host(), expected)
    with pytest.raises(kernel.MorayError, match="codes: expected memory of cuda:0, got cpu"):
        kernel.w4a8_linear(There(torch.randn(1, 4096)), packed)
    with pytest.raises(kernel.MorayError, match="x: expected 4096 features"):
        kernel.w4a8_linear(There(torch.randn(1, 64)), there)
