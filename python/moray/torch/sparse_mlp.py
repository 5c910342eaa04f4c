"""A gated MLP of which each token computes some neurons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import sparse_mlp as library
from .._numbers import whole
from ..errors import UnsupportedError
from ..quantized import Quantized
from ..selection import Indices, Selection, Threshold, TopK, indices as to_indices
from .ops import number_of


class SparseMlp(nn.Module):
    """y = down(act(gate · x) ∘ (up · x)) over the neurons that `selection` keeps of each token; y has x's type, and is computed in f32.

    The weights are copied, neuron by neuron, into memory that is not part of the state dictionary, and to a CUDA device by the first call with tensors
    of it, which cannot be captured; weights in f32 stay on the CPU.

    Args:
        gate, up: [d_ff, d_model], tensors or :class:`moray.Quantized`.
        down: [d_model, d_ff].
        selection: :class:`moray.Indices`, :class:`moray.Threshold`, :class:`moray.TopK` or None for all neurons.
        activation: ``"silu"`` or ``"relu"``.
        biases: f32 by the names ``gate_bias``, ``up_bias``, ``down_bias``.

    Raises:
        UnsupportedError: for selections by masks, which are of one call's tokens.
    """

    def __init__(self, gate: Any, up: Any, down: Any, selection: Selection | None = None, activation: str = "silu", **biases: Any) -> None:
        super().__init__()
        weights = [w if isinstance(w, Quantized) else w.detach().contiguous() for w in (gate, up, down)]
        added = {name: None if bias is None else bias.detach().to(torch.float32) for name, bias in biases.items()}
        self.mlp = library.SparseMlp(*weights, activation=activation, **added)
        #: By which the operator names the weights.
        self.number = number_of(self.mlp)
        self.selection = selection
        scale, listed = None, None
        match selection:
            case None:
                self._kind, self._value, self._score = "all", 0.0, "hidden"
            case Indices(values):
                self._kind, self._value, self._score = "indices", 0.0, "hidden"
                to_indices("list", values)
                listed = torch.as_tensor(list(values), dtype=torch.int32)
            case Threshold(threshold, score, scale):
                self._kind, self._value, self._score = "threshold", float(threshold), score
            case TopK(k, score, scale):
                self._kind, self._value, self._score = "top_k", float(whole("k", k)), score
            case _:
                raise UnsupportedError(f"selection: expected Indices, Threshold, TopK or None, got {type(selection).__name__}")
        self.register_buffer("indices", listed, persistent=False)
        self.register_buffer("channel_scale", None if scale is None else torch.as_tensor(scale, dtype=torch.float32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.channel_scale if self.channel_scale is None else self.channel_scale.to(torch.float32)
        return torch.ops.moray.sparse_mlp.default(x, self.number, self._kind, self._value, self._score, scale, self.indices)

    def __deepcopy__(self, memo: dict) -> SparseMlp:
        # weights never change, so that copies share them
        return self

    def extra_repr(self) -> str:
        return f"d_model={self.mlp.d_model}, d_ff={self.mlp.d_ff}, {self.selection}"
