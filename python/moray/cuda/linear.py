"""W4A8 products on a device."""

from __future__ import annotations

import functools
from typing import Any, Mapping, NamedTuple, Sequence

from .. import _memory
from .._library import check, constant, ffi, lib
from .._numbers import whole
from ..activations import SCALES
from ..errors import LengthError
from ..format import PARTS, Format
from ..quantized import DTYPES
from ._device import UNORDERED, current, handle_of

# An array's memory, a `MorayBytes`.
_Memory = tuple[Any, int]


class Scratch(NamedTuple):
    """Bytes of device memory that a product needs besides its operands."""

    #: For the quantized tokens; whatever was in it is overwritten.
    tokens: int
    #: Zeros before the first product with it, and left so by each; 0 if there need be none.
    workspace: int


class Weight:
    """A packed weight w[N, K] in device memory: :attr:`moray.Weight.sections`, copied there as they are.

    Args:
        sections: u8 tensors of a CUDA device, which are kept: ``codes``, ``channel``, ``group`` and ``offset``, those that the format has.
        n: output features.
        k: input features.
        format: how codes become numbers.

    Raises:
        DeviceError: for memory of another device or kind of device.
    """

    def __init__(self, sections: Mapping[str, Any], n: int, k: int, format: Format) -> None:
        self.n, self.k, self.format = n, k, format
        # whoever copied them there has ordered that with the streams of later calls
        views = [None if part is None else _memory.view_on_device(name, part, ("u8",), UNORDERED) for name, part in _parts(sections)]
        self._owners = views
        form = format.handle()
        self._numbers = (form.bits, form.group_size, form.group_scale, form.offset)
        self._weight = weight_of(n, k, self._numbers, [_memory.memory(part) for part in views])

    def scratch(self, m: int, act_scales: str = "token", dtype: str = "f32") -> Scratch:
        """Loads the kernels of a product of `m` tokens, which a capture could not, and says how many bytes it needs.

        Args:
            dtype: of y: ``"f32"``, ``"f16"`` or ``"bf16"``.
        """
        scales, kind = constant("act_scales", SCALES, act_scales), constant("dtype", DTYPES, dtype)
        return scratch(current(), self.n, self.k, self._numbers, whole("m", m), scales, kind)


def _parts(sections: Mapping[str, Any]) -> Sequence[tuple[str, Any]]:
    return [(name, sections.get(name)) for name in PARTS]


def weight_of(n: int, k: int, format: tuple, sections: Sequence[_Memory]) -> tuple:
    """The `MorayCudaWeight` of C."""
    return n, k, format, lib.MORAY_LAYOUT_VERSION, tuple(sections)


def linear(
    weight: Weight,
    x: Any,
    *,
    out: Any,
    tokens: Any,
    workspace: Any = None,
    bias: Any = None,
    residual: Any = None,
    act_scales: str = "token",
    stream: int = 0,
) -> Any:
    """Puts y[m, n] = act_scale · (codes · wᵀ) + bias[n] + residual[m, n] on a stream, as :func:`moray.linear`, and returns `out`.

    Args:
        weight: w[N, K].
        x: f32, f16 or bf16 [.., K].
        out: where y goes, [.., N] in f32, f16 or bf16.
        tokens: u8, :attr:`Scratch.tokens` bytes or more.
        workspace: u8, :attr:`Scratch.workspace` bytes or more; calls that may run at once have one each.
        bias: f32 [N].
        residual: [.., N], of y's type and apart from it.
        act_scales: ``"token"`` or ``"fine"``, see :class:`moray.Activations`.
        stream: the driver's handle, as torch's ``stream.cuda_stream``; 0 for the default stream.

    Raises:
        LengthError, ShapeError: for arrays of other sizes.
        DtypeError: for other element types.
        DeviceError: for memory of another device or kind of device, and without a current context.
        OverlapError: if what is written overlaps what is read.
    """

    def view(what: str, array: Any, dtypes: Sequence[str], shape: Sequence[int | None] = ()) -> _memory.View:
        return _memory.view_on_device(what, array, dtypes, stream, shape)

    found = view("x", x, tuple(DTYPES))
    if not found.shape or found.shape[-1] != weight.k:
        raise LengthError(f"x: expected {weight.k} features in its last dimension, got shape {list(found.shape)}")
    lead = found.shape[:-1]
    y = view("out", out, tuple(DTYPES), (*lead, weight.n))
    if not found.bytes:
        return out
    biases = None if bias is None else view("bias", bias, ("f32",), (weight.n,))
    added = None if residual is None else view("residual", residual, (y.dtype,), y.shape)
    room = view("tokens", tokens, ("u8",))
    zeros = None if workspace is None else view("workspace", workspace, ("u8",))
    scales, m = constant("act_scales", SCALES, act_scales), found.bytes // (_memory.SIZES[found.dtype] * weight.k)
    held = (m, weight.k, scales, room.memory)
    device = current()
    quantize(device, stream, found.memory, DTYPES[found.dtype], held)
    multiply(
        device, stream, weight._weight, held, DTYPES[y.dtype], y.memory, _memory.memory(zeros), _memory.memory(biases), _memory.memory(added)
    )
    return out


@functools.lru_cache(4096)
def scratch(device: Any, n: int, k: int, format: tuple, m: int, scales: int, dtype: int) -> Scratch:
    """:meth:`Weight.scratch` by numbers."""
    held, size = (m, k, scales, _memory.NONE), ffi.new("size_t *")
    check(lib.moray_cuda_quantize_prepare(device, _quantize(_memory.NONE, dtype, held), size))
    tokens = size[0]
    weight = weight_of(n, k, format, [_memory.NONE] * len(PARTS))
    call = _linear(weight, held, dtype, _memory.NONE, _memory.NONE, _memory.NONE, _memory.NONE)
    check(lib.moray_cuda_linear_prepare(device, call, size))
    return Scratch(tokens, size[0])


def quantize(device: Any, stream: int, x: _Memory, dtype: int, tokens: tuple) -> None:
    """Puts a quantization on a stream."""
    check(lib.moray_cuda_quantize(device, handle_of(stream), _quantize(x, dtype, tokens)))


def multiply(
    device: Any, stream: int, weight: tuple, tokens: tuple, dtype: int, y: _Memory, workspace: _Memory, bias: _Memory, residual: _Memory
) -> None:
    """Puts a multiplication on a stream."""
    call = _linear(weight, tokens, dtype, y, workspace, bias, residual)
    check(lib.moray_cuda_linear(device, handle_of(stream), call))


def _quantize(x: _Memory, dtype: int, tokens: tuple) -> Any:
    kind = "MorayCudaQuantize"
    return ffi.new(f"{kind} *", (ffi.sizeof(kind), lib.MORAY_SOURCE_PLAIN, dtype, 0, 0.0, x, _memory.NONE, tokens))


def _linear(weight: tuple, tokens: tuple, dtype: int, y: _Memory, workspace: _Memory, bias: _Memory, residual: _Memory) -> Any:
    kind = "MorayCudaLinear"
    return ffi.new(f"{kind} *", (ffi.sizeof(kind), dtype, weight, tokens, bias, residual, y, workspace))
