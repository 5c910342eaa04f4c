"""A linear layer that reads the weights of its large inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import input_sparse as library
from ..quantized import Quantized
from .ops import number_of


class InputSparseLinear(nn.Module):
    """y = x · wᵀ + bias over the inputs with |x| > threshold; y has x's type, and is computed in f32.

    The weights are copied, input by input, into memory that is not part of the state dictionary, and to a CUDA device by the first call with tensors
    of it, which cannot be captured.

    Args:
        weight: [N, K], a tensor or :class:`moray.Quantized`.
        threshold: finite, at least 0; an attribute that may be set at any time.
        bias: [N] or None.

    Raises:
        MorayError: as :class:`moray.InputSparse`.
    """

    def __init__(self, weight: Any, threshold: float, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = library.InputSparse(weight if isinstance(weight, Quantized) else weight.detach().contiguous())
        #: By which the operator names the weights.
        self.number = number_of(self.weight)
        self.threshold = float(threshold)
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.float32), persistent=False)

    @classmethod
    def from_linear(cls, linear: nn.Linear, threshold: float) -> InputSparseLinear:
        """Takes the place of a linear layer."""
        return cls(linear.weight, threshold, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.moray.by_input.default(x, self.number, self.weight.n, self.threshold, self.bias)

    def __deepcopy__(self, memo: dict) -> InputSparseLinear:
        # weights never change, so that copies share them; a threshold does
        copy = object.__new__(type(self))
        copy.__dict__ = {**self.__dict__, "_buffers": {**self._buffers}}
        return copy

    def extra_repr(self) -> str:
        return f"in_features={self.weight.k}, out_features={self.weight.n}, threshold={self.threshold}"
