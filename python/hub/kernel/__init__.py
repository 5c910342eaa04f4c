"""W4A8 products with packed weights, products by input and sparse MLP, for torch.

    packed = quantize(weight, group_size=64).pack()
    y = w4a8_linear(x, packed)

Tensors are the CPU's, or for `w4a8_linear` in a build for CUDA a CUDA device's, in f32, f16 or bf16; forwards only. `layers` has what `kernelize` puts in the place of a model's own `forward`.
"""

from __future__ import annotations

from typing import Optional

from torch import Tensor

from . import layers
from ._library import MorayError, lib_version
from ._ops import ops
from ._prepare import hold_by_input, hold_mlp, pack_linear
from ._weights import InputSparse, PackedWeight, Quantized, SparseMlp, quantize

#: The version of moray that this was built of.
__version__ = lib_version


def w4a8_linear(x: Tensor, weight: PackedWeight, bias: Optional[Tensor] = None, act_scales: str = "token") -> Tensor:
    """Computes y = x · wᵀ + bias with x [.., K] rounded to int8: y [.., N] has x's type.

    Products and sums are exact integers inside a group; groups are added in f32 in a fixed order, so that the bits depend neither on
    threads nor on how many tokens a call has.

    Args:
        x: f32, f16 or bf16 [.., K].
        bias: f32 [N] or None.
        act_scales: ``"token"`` for one scale of x for each token, ``"fine"`` for one for each token and 128 of K.

    Raises:
        MorayError: for tensors of other types, sizes or devices.
    """
    return ops.w4a8_linear.default(x, *weight[:4], bias, weight.n, weight.k, weight.format, act_scales)


def sparse_mlp(
    x: Tensor, mlp: SparseMlp, kind: str = "all", value: float = 0.0, score: str = "hidden", channel_scale: Optional[Tensor] = None,
    indices: Optional[Tensor] = None,
) -> Tensor:  # fmt: skip
    """Computes y = down(act(gate · x) ∘ (up · x)) over the neurons that each token keeps: y has x's shape and type.

    Args:
        x: f32, f16 or bf16 [.., d_model]; it is computed with in f32.
        kind: ``"all"``, ``"indices"``, ``"threshold"`` or ``"top_k"``.
        value: the threshold, or how many are kept.
        score: of thresholds and top-k, the size of ``"input"`` x, ``"gate"`` act(gate · x) or ``"hidden"`` act(gate · x) · (up · x).
        channel_scale: f32 [d_ff] ([d_model] for inputs) that multiplies scores, or None.
        indices: i32, strictly increasing.

    Raises:
        MorayError: for tensors of other types, sizes or devices.
    """
    return ops.sparse_mlp.default(x, mlp.number, kind, float(value), score, channel_scale, indices)


def by_input(x: Tensor, weight: InputSparse, threshold: float, bias: Optional[Tensor] = None) -> Tensor:
    """Computes y = x · wᵀ + bias over the inputs with \\|x\\| > threshold: y [.., N] has x's type.

    Args:
        x: f32, f16 or bf16 [.., K]; it is computed with in f32.
        threshold: finite, at least 0.
        bias: f32 [N] or None.

    Raises:
        MorayError: for tensors of other types, sizes or devices.
    """
    return ops.by_input.default(x, weight.number, weight.n, float(threshold), bias)


__all__ = [
    "InputSparse", "MorayError", "PackedWeight", "Quantized", "SparseMlp", "by_input", "hold_by_input", "hold_mlp", "layers", "pack_linear",
    "quantize", "sparse_mlp", "w4a8_linear",
]  # fmt: skip
