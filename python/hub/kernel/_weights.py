"""Weights: rounded, packed, by neuron and by input."""

from __future__ import annotations

import ctypes
import itertools
import weakref
from typing import Any, List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor

from . import _abi
from ._library import DTYPES, Handle, MorayError, Workspaces, check, lib, memory

PARTS = ("codes", "channel", "group", "offset")
GROUP_SCALES = {
    "none": 0, "f16": _abi.MORAY_GROUP_SCALE_F16, "integer": _abi.MORAY_GROUP_SCALE_INTEGER, "qqq": _abi.MORAY_GROUP_SCALE_QQQ,
}  # fmt: skip
OFFSETS = {"none": _abi.MORAY_OFFSET_NONE, "f16": _abi.MORAY_OFFSET_F16, "zero_point": _abi.MORAY_OFFSET_ZERO_POINT}
ACTIVATIONS = {"silu": _abi.MORAY_ACTIVATION_SILU, "relu": _abi.MORAY_ACTIVATION_RELU}


def constant(what: str, names: Any, got: Any) -> int:
    """The number of a name."""
    if got not in names:
        raise MorayError(f"{what}: expected one of {', '.join(map(repr, names))}, got {got!r}")
    return names[got]


class PackedWeight(NamedTuple):
    """A weight w[N, K] as `w4a8_linear` reads it: u8 sections, None for those that its format has not."""

    codes: Tensor
    channel: Optional[Tensor]
    group: Optional[Tensor]
    offset: Optional[Tensor]
    n: int
    k: int
    #: bits, group_size, group_scale and offset as the C ABI has them.
    format: List[int]


class Quantized:
    """A weight w[N, K] as codes and scales in the order of rows, in memory of the library's; made by :func:`quantize`."""

    def __init__(self, handle: Handle, n: int, k: int, format: List[int]) -> None:
        self.handle, self.n, self.k, self.format = handle, n, k, format

    def pack(self) -> PackedWeight:
        """Packs into new tensors."""
        form, sizes = _abi.MorayFormat(*self.format), _abi.MoraySectionBytes()
        check(lib.moray_section_bytes(ctypes.byref(form), self.n, self.k, ctypes.byref(sizes)))
        tensors = [torch.empty(size, dtype=torch.uint8) if size else None for size in (getattr(sizes, part) for part in PARTS)]
        memories = [memory(part, tensor, (torch.uint8,), _abi.MorayBytesMut) for part, tensor in zip(PARTS, tensors)]
        check(lib.moray_pack(self.handle.address, ctypes.byref(_abi.MoraySectionsMut(*memories))))
        return PackedWeight(tensors[0], tensors[1], tensors[2], tensors[3], self.n, self.k, self.format)

    def dequantize(self) -> Tensor:
        """The numbers that the weight stands for, f32 [N, K]."""
        w = torch.empty(self.n, self.k)
        check(lib.moray_quantized_dequantize(self.handle.address, memory("w", w, (torch.float32,), _abi.MorayBytesMut)))
        return w


def quantize(weight: Tensor, bits: int = 4, group_size: int = 64, group_scale: str = "f16", offset: str = "none") -> Quantized:
    """Rounds a weight, f32, f16 or bf16 [N, K], to nearest.

    Args:
        bits: 4 or 8.
        group_size: K values that share a scale: 32, 64 or 128; 0 for one f32 scale for each output feature, with `group_scale` ``"none"``.
        group_scale: ``"f16"``, ``"integer"`` (over the channel's scale), ``"qqq"`` or ``"none"``.
        offset: ``"none"`` or ``"f16"``.

    Raises:
        MorayError: unless K is a multiple of 32 and of the group size, for parts that do not go together and for weights that are not finite.
    """
    weight = _matrix("weight", weight)
    form = [bits, group_size, constant("group_scale", GROUP_SCALES, group_scale), constant("offset", OFFSETS, offset)]
    n, k = weight.shape
    handle = Handle(
        lib.moray_quantized_destroy, lib.moray_quantize, memory("weight", weight, tuple(DTYPES)), DTYPES[weight.dtype], n, k,
        ctypes.byref(_abi.MorayFormat(*form)),
    )  # fmt: skip
    return Quantized(handle, n, k, form)


def _matrix(what: str, weight: Tensor) -> Tensor:
    if weight.dim() != 2 or weight.dtype not in DTYPES:
        raise MorayError(f"{what}: expected two dimensions of f32, f16 or bf16, got {weight.dtype} {list(weight.shape)}")
    return weight.detach().contiguous()


# What operators can name by number: weights by neuron or by input are the library's memory, which no tensor stands for.
_LIVE: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
_NUMBERS = itertools.count(1)


def live(what: str, kind: type, number: int) -> Any:
    """The weights of a number."""
    found = _LIVE.get(number)
    if not isinstance(found, kind):
        raise MorayError(f"{what}: expected the number of weights that live, got {number}")
    return found


class SparseMlp:
    """The weights of a gated MLP, neuron by neuron, copied into memory of the library's; `sparse_mlp` names them by :attr:`number`.

    Args:
        gate, up: [d_ff, d_model] in one of f32, f16 and bf16, or all three :class:`Quantized` of 4 bits with f16 group scales or
            scales of channels.
        down: [d_model, d_ff].
        activation: ``"silu"`` or ``"relu"``.
        gate_bias, up_bias: f32 [d_ff] or None.
        down_bias: f32 [d_model] or None.

    Raises:
        MorayError: for matrices of other sizes or types and weights that are not finite.
    """

    def __init__(
        self, gate: Union[Tensor, Quantized], up: Union[Tensor, Quantized], down: Union[Tensor, Quantized], activation: str = "silu",
        gate_bias: Optional[Tensor] = None, up_bias: Optional[Tensor] = None, down_bias: Optional[Tensor] = None,
    ) -> None:  # fmt: skip
        self.d_ff, self.d_model = (gate.n, gate.k) if isinstance(gate, Quantized) else tuple(_matrix("gate", gate).shape)
        shape = _abi.MorayMlpShape(self.d_model, self.d_ff, constant("activation", ACTIVATIONS, activation))
        added = [None if bias is None else bias.detach().to(torch.float32).contiguous() for bias in (gate_bias, up_bias, down_bias)]
        names = ("gate_bias", "up_bias", "down_bias")
        biases = _abi.MorayMlpBiases(*(memory(what, bias, (torch.float32,)) for what, bias in zip(names, added)))
        weights = (("gate", gate), ("up", up), ("down", down))
        if all(isinstance(w, Quantized) for _, w in weights):
            parts = [w.handle.address for _, w in weights]
            made = Handle(
                lib.moray_mlp_destroy, lib.moray_mlp_create_quantized, ctypes.byref(shape), *parts, ctypes.byref(biases),
            )  # fmt: skip
        else:
            tensors = [_matrix(what, w) for what, w in weights]
            dtype = tensors[0].dtype
            parts = [memory(what, w, (dtype,)) for (what, _), w in zip(weights, tensors)]
            made = Handle(
                lib.moray_mlp_destroy, lib.moray_mlp_create, ctypes.byref(shape), DTYPES[dtype], *parts, ctypes.byref(biases),
            )  # fmt: skip
        self.handle = made
        self.workspaces = Workspaces(lib.moray_mlp_workspace_destroy, lib.moray_mlp_workspace_create, made.address)
        #: By which the operator names the weights.
        self.number = next(_NUMBERS)
        _LIVE[self.number] = self


class InputSparse:
    """A matrix w[N, K] held by input, copied into memory of the library's; `by_input` names it by :attr:`number`.

    Args:
        weight: [N, K] in f32, f16 or bf16, or :class:`Quantized` of 4 bits with f16 group scales or scales of channels.

    Raises:
        MorayError: for other types and weights that are not finite.
    """

    def __init__(self, weight: Union[Tensor, Quantized]) -> None:
        if isinstance(weight, Quantized):
            self.n, self.k = weight.n, weight.k
            make: Tuple[Any, ...] = (lib.moray_input_weight_create_quantized, weight.handle.address)
        else:
            weight = _matrix("weight", weight)
            self.n, self.k = weight.shape
            make = (lib.moray_input_weight_create, memory("weight", weight, tuple(DTYPES)), DTYPES[weight.dtype], self.n, self.k)
        self.handle = Handle(lib.moray_input_weight_destroy, *make)
        self.workspaces = Workspaces(lib.moray_input_workspace_destroy, lib.moray_input_workspace_create, self.handle.address)
        #: By which the operator names the weights.
        self.number = next(_NUMBERS)
        _LIVE[self.number] = self
