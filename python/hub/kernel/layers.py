"""Layers for `kernelize`: a `forward` for modules that `pack_linear`, `hold_by_input` or `hold_mlp` have prepared, which leaves others as they are."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ._ops import ops

__all__ = ["InputSparseLinear", "SparseMlp", "W4A8Linear"]


class W4A8Linear(nn.Module):
    """`torch.nn.Linear` in W4A8, where `pack_linear` has been called on it."""

    has_backward: bool = False
    can_torch_compile: bool = True

    def forward(self, input: Tensor) -> Tensor:
        call = getattr(self, "moray_call", None)
        if call is None:
            return F.linear(input, self.weight, self.bias)
        return ops.w4a8_linear.default(
            input, self.moray_codes, self.moray_channel, self.moray_group, self.moray_offset, self.moray_bias, *call,
        )  # fmt: skip


class InputSparseLinear(nn.Module):
    """`torch.nn.Linear` that reads the weights of its large inputs, where `hold_by_input` has been called on it."""

    has_backward: bool = False
    can_torch_compile: bool = True

    def forward(self, input: Tensor) -> Tensor:
        call = getattr(self, "moray_call", None)
        if call is None:
            return F.linear(input, self.weight, self.bias)
        return ops.by_input.default(input, *call, self.moray_bias)


class SparseMlp(nn.Module):
    """A gated MLP (with `gate_proj`, `up_proj`, `down_proj` and `act_fn`, as Hugging Face's LLaMA has it) of which each token computes some
    neurons, where `hold_mlp` has been called on it."""

    has_backward: bool = False
    can_torch_compile: bool = True

    def forward(self, x: Tensor) -> Tensor:
        call = getattr(self, "moray_call", None)
        if call is None:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return ops.sparse_mlp.default(x, *call, self.moray_channel_scale, self.moray_indices)
