"""A linear layer with packed weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..format import PARTS, Format
from ..quantized import Quantized
from . import ops  # noqa: F401 - defines the operator

_OPERATOR = torch.ops.moray.w4a8_linear.default


class W4A8Linear(nn.Module):
    """y = x · wᵀ + bias with w [N, K] packed and x [.., K] rounded to int8 token by token; y has x's type, f32, f16 or bf16.

    Packed sections are buffers of bytes, so that they are in the state dictionary and `.to(dtype)` leaves them as they are.

    Args:
        quantized: the weight.
        bias: [N] or None.
        act_scales: ``"token"`` for one scale for each token, ``"fine"`` for one for each token and 128 of K.
    """

    codes: Tensor

    def __init__(self, quantized: Quantized, bias: Tensor | None = None, act_scales: str = "token") -> None:
        super().__init__()
        self.in_features, self.out_features = quantized.k, quantized.n
        self.format, self.act_scales = quantized.format, act_scales
        form = quantized.format.handle()
        self._numbers = [form.bits, form.group_size, form.group_scale, form.offset]
        sections = {
            part: torch.empty(size, dtype=torch.uint8) for part, size in self.format.section_bytes(quantized.n, quantized.k).items() if size
        }
        quantized.pack(sections)
        for part in PARTS:
            self.register_buffer(part, sections.get(part))
        order = quantized.order
        self.register_buffer("order", None if order is None else torch.from_numpy(order.astype(np.int32)))
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.float32).clone())

    @classmethod
    def from_linear(cls, linear: nn.Linear, format: Format, act_scales: str = "token") -> W4A8Linear:
        """Rounds a layer's weights to nearest."""
        return cls(Quantized.quantize(linear.weight.detach().contiguous(), format), linear.bias, act_scales)

    def forward(self, x: Tensor) -> Tensor:
        # the dictionary itself, as a module looks for its attributes in several places
        held = self._buffers
        bias = held["bias"]
        if bias is not None and bias.dtype != torch.float32:
            bias = bias.to(torch.float32)
        return _OPERATOR(
            x, held["codes"], held["channel"], held["group"], held["offset"], held["order"], bias, self.out_features, self.in_features,
            self._numbers, self.act_scales,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, {self.format}"
