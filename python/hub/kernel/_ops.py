"""The operators of this build's own namespace, with fake kernels, so that `torch.compile` takes them whole."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from . import _abi, _cuda
from ._build import NAMESPACE
from ._library import DTYPES, NONE, Handle, MorayError, Workspaces, check, cpu, lib, memory
from ._weights import PARTS, InputSparse, SparseMlp, constant, live

ACT_SCALES = {"token": _abi.MORAY_ACT_SCALES_TOKEN, "fine": _abi.MORAY_ACT_SCALES_FINE}
SCORES = {"input": _abi.MORAY_SCORE_INPUT, "gate": _abi.MORAY_SCORE_GATE, "hidden": _abi.MORAY_SCORE_HIDDEN}
KINDS = {
    "all": _abi.MORAY_SELECT_ALL, "indices": _abi.MORAY_SELECT_LIST, "threshold": _abi.MORAY_SELECT_THRESHOLD, "top_k": _abi.MORAY_SELECT_TOP_K,
}  # fmt: skip

ops = getattr(torch.ops, NAMESPACE)


def add_op_namespace_prefix(name: str) -> str:
    """An operator's whole name."""
    return f"{NAMESPACE}::{name}"


def _activations(max_m: int, max_k: int, out: Any, scales: int) -> int:
    return lib.moray_activations_create(max_m, max_k, scales, out)


# Activations of calls, by how finely they are scaled.
_SCRATCH = {
    name: Workspaces(lib.moray_activations_destroy, lambda m, k, out, scales=scales: _activations(m, k, out, scales))
    for name, scales in ACT_SCALES.items()
}
# Weights over sections that live, by the identity of their codes: what a borrowed weight is, and over which memory.
_BORROWED: Dict[int, Tuple[weakref.ref, List[int], Handle]] = {}


def _borrow(parts: Tuple[Optional[Tensor], ...], n: int, k: int, format: List[int]) -> Any:
    """The weight over these sections; made again where any of them is elsewhere."""
    codes = parts[0]
    key = [n, k, *format]
    for part in parts:
        if part is not None:
            key += (part.data_ptr(), part.nbytes)
    found = _BORROWED.get(id(codes))
    if found and found[0]() is codes and found[1] == key:
        return found[2].address
    sections = _abi.MoraySections(*(memory(what, part, (torch.uint8,)) for what, part in zip(PARTS, parts)))
    form = ctypes.byref(_abi.MorayFormat(*format))
    weight = Handle(lib.moray_weight_destroy, lib.moray_weight_borrow, ctypes.byref(sections), n, k, form)
    identity = id(codes)
    _BORROWED[identity] = weakref.ref(codes, lambda end: _forget(identity, end)), key, weight
    return weight.address


def _forget(identity: int, end: weakref.ref) -> None:
    """Drops a weight whose codes have ended, unless another tensor has their place already."""
    found = _BORROWED.get(identity)
    if found and found[0] is end:
        del _BORROWED[identity]


def _rows(x: Tensor, k: int) -> Tensor:
    if x.dtype not in DTYPES:
        raise MorayError(f"x: expected elements of f32, f16 or bf16, got {x.dtype}")
    if x.dim() == 0 or x.shape[-1] != k:
        raise MorayError(f"x: expected {k} features in its last dimension, got shape {list(x.shape)}")
    return x.contiguous()


def _f32(what: str, tensor: Optional[Tensor]) -> Any:
    return NONE if tensor is None else memory(what, tensor, (torch.float32,))


torch.library.define(
    add_op_namespace_prefix("w4a8_linear"),
    "(Tensor x, Tensor codes, Tensor? channel, Tensor? group, Tensor? offset, Tensor? bias, SymInt n, SymInt k, int[] format, "
    "str act_scales) -> Tensor",
)


@torch.library.impl(add_op_namespace_prefix("w4a8_linear"), "CPU")
def _w4a8_linear(x, codes, channel, group, offset, bias, n, k, format, act_scales):
    x = _rows(x, k)
    y = x.new_empty((*x.shape[:-1], n))
    if x.numel() == 0:
        return y
    constant("act_scales", ACT_SCALES, act_scales)
    dtype, m, device = DTYPES[x.dtype], x.numel() // k, cpu()
    weight = _borrow((codes, channel, group, offset), n, k, format)
    scratch = _SCRATCH[act_scales]
    activations = scratch.take(m, k)
    try:
        held = activations[1].address
        check(lib.moray_activations_quantize(device, held, _abi.MorayBytes(x.data_ptr(), x.nbytes), dtype, m, k, NONE))
        out = _abi.MorayBytesMut(y.data_ptr(), y.nbytes)
        call = _abi.MorayLinear(_LINEAR_BYTES, dtype, weight, held, _f32("bias", bias), NONE, out, 0, n)
        check(lib.moray_linear(device, ctypes.byref(call)))
    finally:
        scratch.give(activations)
    return y


_LINEAR_BYTES = ctypes.sizeof(_abi.MorayLinear)


@torch.library.impl(add_op_namespace_prefix("w4a8_linear"), "CUDA")
def _w4a8_linear_on_cuda(x, codes, channel, group, offset, bias, n, k, format, act_scales):
    x = _rows(x, k)
    y = x.new_empty((*x.shape[:-1], n))
    if x.numel():
        scales = constant("act_scales", ACT_SCALES, act_scales)
        _cuda.w4a8_linear(x, y, list(zip(PARTS, (codes, channel, group, offset))), bias, n, k, format, scales)
    return y


@torch.library.register_fake(add_op_namespace_prefix("w4a8_linear"))
def _(x, codes, channel, group, offset, bias, n, k, format, act_scales):
    torch._check(x.shape[-1] == k, lambda: f"x: expected {k} features in its last dimension, got shape {list(x.shape)}")
    return x.new_empty((*x.shape[:-1], n))


torch.library.define(
    add_op_namespace_prefix("sparse_mlp"),
    "(Tensor x, int mlp, str kind, float value, str score, Tensor? channel_scale, Tensor? indices) -> Tensor",
)


@torch.library.impl(add_op_namespace_prefix("sparse_mlp"), "CPU")
def _sparse_mlp(x, mlp, kind, value, score, channel_scale, indices):
    found = live("mlp", SparseMlp, mlp)
    plain = _rows(x, found.d_model).detach().to(torch.float32)
    y = torch.empty_like(plain)
    if x.numel() == 0:
        return y.to(x.dtype)
    kind, score = constant("kind", KINDS, kind), constant("score", SCORES, score)
    top = int(value) if kind == _abi.MORAY_SELECT_TOP_K else 0
    listed = NONE if indices is None else memory("indices", indices, (torch.int32,))
    selection = _abi.MoraySelection(
        ctypes.sizeof(_abi.MoraySelection), kind, listed, NONE, score, value, top, _f32("channel_scale", channel_scale),
    )  # fmt: skip
    workspace = found.workspaces.take(plain.numel() // found.d_model)
    try:
        call = _abi.MorayMlpForward(
            ctypes.sizeof(_abi.MorayMlpForward), found.handle.address, workspace[1].address, ctypes.pointer(selection),
            _f32("x", plain), NONE, memory("y", y, (torch.float32,), _abi.MorayBytesMut),
        )  # fmt: skip
        check(lib.moray_mlp_forward(cpu(), ctypes.byref(call)))
    finally:
        found.workspaces.give(workspace)
    return y.to(x.dtype)


@torch.library.register_fake(add_op_namespace_prefix("sparse_mlp"))
def _(x, mlp, kind, value, score, channel_scale, indices):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


torch.library.define(
    add_op_namespace_prefix("by_input"), "(Tensor x, int weight, SymInt n, float threshold, Tensor? bias) -> Tensor",
)  # fmt: skip


@torch.library.impl(add_op_namespace_prefix("by_input"), "CPU")
def _by_input(x, weight, n, threshold, bias):
    found = live("weight", InputSparse, weight)
    plain = _rows(x, found.k).detach().to(torch.float32)
    y = plain.new_empty((*x.shape[:-1], found.n))
    if x.numel() == 0:
        return y.to(x.dtype)
    workspace = found.workspaces.take(plain.numel() // found.k)
    try:
        call = _abi.MorayByInput(
            ctypes.sizeof(_abi.MorayByInput), threshold, found.handle.address, workspace[1].address, _f32("x", plain), _f32("bias", bias),
            NONE, memory("y", y, (torch.float32,), _abi.MorayBytesMut),
        )  # fmt: skip
        check(lib.moray_by_input(cpu(), ctypes.byref(call)))
    finally:
        found.workspaces.give(workspace)
    return y.to(x.dtype)


@torch.library.register_fake(add_op_namespace_prefix("by_input"))
def _(x, weight, n, threshold, bias):
    return x.new_empty((*x.shape[:-1], n))
