"""What the layers read: prepared once, on a model's own modules."""

from __future__ import annotations

from typing import Optional, Sequence

import torch
from torch import Tensor, nn

from ._ops import ACT_SCALES, KINDS, SCORES
from ._weights import PARTS, InputSparse, Quantized, SparseMlp, constant, quantize


def _set(module: nn.Module, **buffers: Optional[Tensor]) -> None:
    for name, tensor in buffers.items():
        module.register_buffer(f"moray_{name}", tensor, persistent=False)


def _bias(linear: nn.Module) -> Optional[Tensor]:
    return None if linear.bias is None else linear.bias.detach().to(torch.float32).contiguous()


def pack_linear(linear: nn.Module, quantized: Optional[Quantized] = None, act_scales: str = "token", **format: object) -> nn.Module:
    """Prepares a `torch.nn.Linear` for `layers.W4A8Linear`, with a copy of its weight, and returns it.

    Args:
        quantized: the weight; without it the layer's own is rounded to `format`, as :func:`quantize` takes it.
        act_scales: ``"token"`` for one scale of x for each token, ``"fine"`` for one for each token and 128 of K.

    Raises:
        MorayError: as :func:`quantize`.
    """
    constant("act_scales", ACT_SCALES, act_scales)
    packed = (quantized or quantize(linear.weight, **format)).pack()  # type: ignore[arg-type]
    _set(linear, bias=_bias(linear), **{part: getattr(packed, part) for part in PARTS})
    linear.moray_call = (packed.n, packed.k, packed.format, act_scales)
    return linear


def hold_by_input(linear: nn.Module, threshold: float, weight: Optional[InputSparse] = None) -> nn.Module:
    """Prepares a `torch.nn.Linear` for `layers.InputSparseLinear`, with a copy of its weight, and returns it.

    Args:
        threshold: finite, at least 0: inputs that are not larger count as zero.
        weight: the weight; without it the layer's own.

    Raises:
        MorayError: as :class:`InputSparse`.
    """
    held = weight or InputSparse(linear.weight)
    _set(linear, bias=_bias(linear))
    linear.moray_weight = held
    linear.moray_call = (held.number, held.n, float(threshold))
    return linear


def hold_mlp(
    mlp: nn.Module, kind: str = "all", value: float = 0.0, score: str = "hidden", channel_scale: Optional[Tensor] = None,
    indices: Optional[Sequence[int]] = None, activation: str = "silu", weights: Optional[SparseMlp] = None,
) -> nn.Module:  # fmt: skip
    """Prepares a gated MLP for `layers.SparseMlp`, with a copy of its weights, and returns it.

    Args:
        kind: ``"all"``, ``"indices"``, ``"threshold"`` or ``"top_k"``.
        value: the threshold, or how many neurons each token keeps.
        score: of thresholds and top-k: ``"input"`` \\|x\\|, ``"gate"`` \\|act(gate · x)\\| or ``"hidden"`` \\|act(gate · x) · (up · x)\\|.
        channel_scale: f32 that multiplies scores, or None.
        indices: strictly increasing.
        weights: the weights; without them those of `gate_proj`, `up_proj` and `down_proj`.

    Raises:
        MorayError: as :class:`SparseMlp`.
    """
    constant("kind", KINDS, kind), constant("score", SCORES, score)
    if weights is None:
        parts = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        weights = SparseMlp(*(part.weight for part in parts), activation, *(part.bias for part in parts))
    scale = None if channel_scale is None else channel_scale.detach().to(torch.float32).contiguous()
    _set(mlp, channel_scale=scale, indices=None if indices is None else torch.tensor(list(indices), dtype=torch.int32))
    mlp.moray_weights = weights
    mlp.moray_call = (weights.number, kind, float(value), score)
    return mlp
