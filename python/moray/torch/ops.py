"""The operators `moray::w4a8_linear`, `moray::sparse_mlp` and `moray::by_input`."""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Sequence

import torch
from torch import Tensor

from .._library import check, constant, create, ffi, lib
from .._memory import NONE
from ..activations import SCALES, SCRATCH

from ..format import PARTS
from ..errors import DeviceError, DtypeError, LayoutError, LengthError, NullError, UnsupportedError
from ..input_sparse import InputSparse
from ..selection import Indices, Threshold, TopK
from ..sparse_mlp import SparseMlp
from .threads import cpu as cpu_of_torch

_LINEAR, _LINEAR_BYTES = ffi.typeof("MorayLinear *"), ffi.sizeof("MorayLinear")
KINDS = {torch.float32: lib.MORAY_F32, torch.float16: lib.MORAY_F16, torch.bfloat16: lib.MORAY_BF16}


_POINTER = ffi.typeof("void *")
_CPU = torch.device("cpu")


def pointer(address: int) -> Any:
    return ffi.cast(_POINTER, address)


def memory_of(what: str, tensor: Tensor | None, dtype: torch.dtype, device: torch.device = _CPU) -> tuple[Any, int]:
    """A tensor as a `MorayBytes`; it has to live until the call returns, or the stream has passed it."""
    if tensor is None:
        return NONE
    if tensor.dtype != dtype:
        raise DtypeError(f"{what}: expected elements of {dtype}, got {tensor.dtype}")
    if tensor.device != device:
        raise DeviceError(f"{what}: expected memory of {device}, got {tensor.device}")
    if not tensor.is_contiguous():
        raise LayoutError(f"{what}: expected contiguous elements, got shape {list(tensor.shape)} with strides {tensor.stride()}")
    return pointer(tensor.data_ptr()), tensor.nbytes


# Weights over sections that live, by the identity of their codes: what a borrowed weight is, and over which memory.
_BORROWED: dict[int, tuple[weakref.ref, list, Any]] = {}


def _borrow(
    codes: Tensor, channel: Tensor | None, group: Tensor | None, offset: Tensor | None, n: int, k: int, format: Sequence[int],
) -> Any:  # fmt: skip
    """The weight over these sections; made again where any of them is elsewhere."""
    key = [n, k, *format, codes.data_ptr(), codes.nbytes]
    for part in (channel, group, offset):
        if part is not None:
            key += (part.data_ptr(), part.nbytes)
    found = _BORROWED.get(id(codes))
    if found and found[0]() is codes and found[1] == key:
        return found[2]
    parts = (codes, channel, group, offset)
    memory = [memory_of(what, part, torch.uint8) for what, part in zip(PARTS, parts)]
    sections, form = ffi.new("MoraySections *", memory), ffi.new("MorayFormat *", tuple(format))
    weight = create(lib.moray_weight_destroy, "MorayWeight", lib.moray_weight_borrow, sections, n, k, form)
    identity = id(codes)
    _BORROWED[identity] = weakref.ref(codes, lambda end: _forget(identity, end)), key, weight
    return weight


def _forget(identity: int, end: weakref.ref) -> None:
    """Drops a weight whose codes have ended, unless another tensor has their place already."""
    found = _BORROWED.get(identity)
    if found and found[0] is end:
        del _BORROWED[identity]


def rows_of(x: Tensor, k: int) -> Tensor:
    if x.dtype not in KINDS:
        raise DtypeError(f"x: expected elements of f32, f16 or bf16, got {x.dtype}")
    if x.dim() == 0 or x.shape[-1] != k:
        raise LengthError(f"x: expected {k} features in its last dimension, got shape {list(x.shape)}")
    return x.contiguous()


torch.library.define(
    "moray::w4a8_linear",
    "(Tensor x, Tensor codes, Tensor? channel, Tensor? group, Tensor? offset, Tensor? order, Tensor? bias, SymInt n, SymInt k, "
    "int[] format, str act_scales) -> Tensor",
)


@torch.library.impl("moray::w4a8_linear", "CPU")
def _w4a8_linear(x, codes, channel, group, offset, order, bias, n, k, format, act_scales):
    x = rows_of(x, k)
    y = x.new_empty((*x.shape[:-1], n))
    if x.numel() == 0:
        return y
    dtype, m = KINDS[x.dtype], x.numel() // k
    weight = _borrow(codes, channel, group, offset, n, k, format)
    cpu = cpu_of_torch().handle
    scratch = SCRATCH.get(act_scales) or SCRATCH[constant("act_scales", SCALES, act_scales)]
    activations = scratch.take(m, k)
    try:
        places = NONE if order is None else memory_of("order", order, torch.int32)
        bytes = (pointer(x.data_ptr()), x.nbytes)
        check(lib.moray_activations_quantize(cpu, activations.handle, bytes, dtype, m, k, places))
        call = ffi.new(_LINEAR, (
            _LINEAR_BYTES, dtype, weight, activations.handle, NONE if bias is None else memory_of("bias", bias, torch.float32), NONE,
            (pointer(y.data_ptr()), y.nbytes), 0, n,
        ))  # fmt: skip
        check(lib.moray_linear(cpu, call))
    finally:
        scratch.give(activations)
    return y


@torch.library.register_fake("moray::w4a8_linear")
def _(x, codes, channel, group, offset, order, bias, n, k, format, act_scales):
    torch._check(x.shape[-1] == k, lambda: f"x: expected {k} features in its last dimension, got shape {list(x.shape)}")
    return x.new_empty((*x.shape[:-1], n))


def w4a8_linear(
    x: Tensor, codes: Tensor, channel: Tensor | None, group: Tensor | None, offset: Tensor | None, order: Tensor | None,
    bias: Tensor | None, n: int, k: int, format: Sequence[int], act_scales: str,
) -> Tensor:  # fmt: skip
    """Computes y = x · wᵀ + bias with x [.., K] rounded to int8, as :func:`moray.linear`: y [.., N] has x's type.

    Args:
        x: f32, f16 or bf16 [.., K]; copied if its elements do not follow one another.
        codes, channel, group, offset: u8, the sections of the packed w[N, K], None for those that its format has not; on x's device, a CPU or
            a CUDA device.
        order: i32 [K] or None, the input of each column.
        bias: f32 [N] or None.
        format: bits, group_size, group_scale and offset as the C ABI has them.
        act_scales: ``"token"`` or ``"fine"``.

    Raises:
        MorayError: for tensors of other types, sizes or devices.
    """
    return torch.ops.moray.w4a8_linear.default(x, codes, channel, group, offset, order, bias, n, k, format, act_scales)


# What operators can name by number: weights by neuron or by input are the library's memory, which no tensor stands for.
_LIVE: weakref.WeakValueDictionary[int, SparseMlp | InputSparse] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count(1)


def number_of(weights: SparseMlp | InputSparse) -> int:
    """Makes weights known to the operators, for as long as they live."""
    number = next(_NUMBERS)
    _LIVE[number] = weights
    return number


def live(what: str, kind: type, number: int) -> Any:
    found = _LIVE.get(number)
    if not isinstance(found, kind):
        raise NullError(f"{what}: expected the number of weights that live, got {number}")
    return found


torch.library.define(
    "moray::sparse_mlp", "(Tensor x, int mlp, str kind, float value, str score, Tensor? channel_scale, Tensor? indices) -> Tensor"
)


@torch.library.impl("moray::sparse_mlp", "CPU")
def _sparse_mlp(x, mlp, kind, value, score, channel_scale, indices):
    found = live("mlp", SparseMlp, mlp)
    plain = rows_of(x, found.d_model).detach().to(torch.float32)
    y = torch.empty_like(plain)
    if x.numel():
        lists = None if indices is None else indices.numpy().view("u4")
        scale = None if channel_scale is None else channel_scale.numpy()
        selection: Any = {
            "all": lambda: None,
            "indices": lambda: Indices(lists),
            "threshold": lambda: Threshold(value, score, scale),
            "top_k": lambda: TopK(int(value), score, scale),
        }[kind]()
        found(plain.numpy(), selection, out=y.numpy(), cpu=cpu_of_torch())
    return y.to(x.dtype)


@torch.library.register_fake("moray::sparse_mlp")
def _(x, mlp, kind, value, score, channel_scale, indices):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def sparse_mlp(
    x: Tensor, mlp: int, kind: str, value: float, score: str, channel_scale: Tensor | None, indices: Tensor | None,
) -> Tensor:  # fmt: skip
    """Computes y = down(act(gate · x) ∘ (up · x)) over the neurons that each token keeps, as :class:`moray.SparseMlp`: y has x's shape and type.

    Args:
        x: f32, f16 or bf16 [.., d_model]; it is computed with in f32.
        mlp: what :attr:`moray.torch.SparseMlp.number` says.
        kind: ``"all"``, ``"indices"``, ``"threshold"`` or ``"top_k"``.
        value: the threshold, or how many are kept.
        score, channel_scale: of thresholds and top-k, see :class:`moray.Threshold`.
        indices: i32, strictly increasing.

    Raises:
        MorayError: for tensors of other types, sizes or devices, and for an MLP that does not live any more.
    """
    return torch.ops.moray.sparse_mlp.default(x, mlp, kind, value, score, channel_scale, indices)


torch.library.define("moray::by_input", "(Tensor x, int weight, SymInt n, float threshold, Tensor? bias) -> Tensor")


@torch.library.impl("moray::by_input", "CPU")
def _by_input(x, weight, n, threshold, bias):
    found = live("weight", InputSparse, weight)
    plain = rows_of(x, found.k).detach().to(torch.float32)
    y = plain.new_empty((*x.shape[:-1], found.n))
    if x.numel():
        biases = None if bias is None else bias.detach().to(torch.float32).numpy()
        found(plain.numpy(), threshold, bias=biases, out=y.numpy(), cpu=cpu_of_torch())
    return y.to(x.dtype)


@torch.library.register_fake("moray::by_input")
def _(x, weight, n, threshold, bias):
    return x.new_empty((*x.shape[:-1], n))


def by_input(x: Tensor, weight: int, n: int, threshold: float, bias: Tensor | None) -> Tensor:
    """Computes y = x · wᵀ + bias over the inputs that are larger than a threshold, as :class:`moray.InputSparse`: y [.., N] has x's type.

    Args:
        x: f32, f16 or bf16 [.., K]; it is computed with in f32.
        weight: what :attr:`moray.torch.InputSparseLinear.number` says.
        n: the weight's output features.
        threshold: finite, at least 0.
        bias: [N] or None.

    Raises:
        MorayError: for tensors of other types, sizes or devices, and for a weight that does not live any more.
    """
    return torch.ops.moray.by_input.default(x, weight, n, threshold, bias)


# Stands for a gradient in a graph that torch traces, and refuses to be computed.
torch.library.define("moray::no_gradient", "(Tensor gradient, SymInt features, str name) -> Tensor")


@torch.library.impl("moray::no_gradient", "CompositeExplicitAutograd")
def _no_gradient(gradient, features, name):
    raise UnsupportedError(f"{name}: expected a forward pass alone, got a backward pass through it")


@torch.library.register_fake("moray::no_gradient")
def _(gradient, features, name):
    return gradient.new_empty((*gradient.shape[:-1], features))


def _refuse_backward(name: str) -> None:
    """Makes a backward pass an error; torch alone would warn, and leave gradients out."""

    def keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.features, ctx.others = inputs[0].shape[-1], len(inputs) - 1

    def backward(ctx: Any, gradient: Tensor) -> tuple:
        return torch.ops.moray.no_gradient.default(gradient, ctx.features, name), *(None for _ in range(ctx.others))

    torch.library.register_autograd(name, backward, setup_context=keep)


for _name in ("moray::w4a8_linear", "moray::sparse_mlp", "moray::by_input"):
    _refuse_backward(_name)
