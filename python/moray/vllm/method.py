"""A linear layer of vLLM's with packed weights."""

from __future__ import annotations

import torch
from torch import nn
from vllm.model_executor.layers.linear import LinearMethodBase, register_weight_loader_v2_supported_method
from vllm.model_executor.parameter import (
    BasevLLMParameter,
    ChannelQuantScaleParameter,
    GroupQuantScaleParameter,
    ModelWeightParameter,
    PackedColumnParameter,
    PackedvLLMParameter,
)

from ..errors import UnsupportedError
from ..format import Format
from ..quantized import Quantized
from ..torch import W4A8Linear
from .checkpoint import Checkpoint

# Names of codes, scales and zero points, the dimension of N in all of them, and along which one codes are packed.
LAYOUTS = {
    "gptq": ("qweight", "scales", "qzeros", 1, 0),
    "awq": ("qweight", "scales", "qzeros", 1, 1),
    "pack-quantized": ("weight_packed", "weight_scale", "weight_zero_point", 0, 1),
    "int-quantized": ("weight", "weight_scale", None, 0, None),
}


@register_weight_loader_v2_supported_method
class MorayLinearMethod(LinearMethodBase):
    """Loads a rank's shard of a checkpoint's arrays, packs it, and multiplies it with int8 activations.

    Shards are packed by themselves: along N anywhere that codes allow, along K where groups end.
    """

    def __init__(self, checkpoint: Checkpoint, act_scales: str, prefix: str) -> None:
        self.checkpoint, self.act_scales, self.prefix = checkpoint, act_scales, prefix

    def create_weights(
        self, layer: nn.Module, input_size_per_partition: int, output_partition_sizes: list[int], input_size: int, output_size: int,
        params_dtype: torch.dtype, **extra_weight_attrs,
    ) -> None:  # fmt: skip
        loader, found = extra_weight_attrs["weight_loader"], self.checkpoint
        k, n = input_size_per_partition, sum(output_partition_sizes)
        codes, scales, zeros, of_n, packed = LAYOUTS[found.layout]
        of_k, per_word = 1 - of_n, 32 // found.bits
        whole = found.group_size == -1
        if k % (32 if whole else found.group_size):
            expected = "a multiple of 32" if whole else f"a shard of whole groups of {found.group_size}"
            raise UnsupportedError(f"{self.prefix}: expected {expected} along K, got {k} of {input_size}")
        groups = 1 if whole else k // found.group_size

        def sized(size_n: int, size_k: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros((size_n, size_k) if of_n == 0 else (size_k, size_n), dtype=dtype)

        def words(size_n: int, size_k: int, along: int) -> PackedvLLMParameter:
            sizes = [-(-size // per_word) if along == of else size for size, of in ((size_n, of_n), (size_k, of_k))]
            dims = {"input_dim": of_k, "output_dim": of_n, "packed_dim": along, "packed_factor": per_word}
            return PackedvLLMParameter(data=sized(*sizes, torch.int32), weight_loader=loader, **dims)

        if packed is None:
            weight = ModelWeightParameter(data=sized(n, k, torch.int8), input_dim=of_k, output_dim=of_n, weight_loader=loader)
        else:
            weight = words(n, k, packed)
        layer.register_parameter(codes, weight)
        # f32 holds every checkpoint's scales as they are
        data = {"data": sized(n, groups, torch.float32), "output_dim": of_n, "weight_loader": loader}
        # one scale for all of K is every rank's
        scale = ChannelQuantScaleParameter(**data) if whole else GroupQuantScaleParameter(input_dim=of_k, **data)
        layer.register_parameter(scales, scale)
        if zeros and (found.layout != "pack-quantized" or not found.symmetric):
            layer.register_parameter(zeros, self._zeros(words, n, groups, of_n, whole))
        if found.layout == "pack-quantized":
            shape = BasevLLMParameter(data=torch.zeros(2, dtype=torch.int64), weight_loader=loader)
            layer.register_parameter("weight_shape", shape)

    def _zeros(self, words, n: int, groups: int, of_n: int, whole: bool) -> nn.Parameter:
        zeros = words(n, groups, of_n)
        if not whole:
            return zeros
        return PackedColumnParameter(
            data=zeros.data, output_dim=of_n, packed_dim=of_n, packed_factor=zeros.packed_factor, weight_loader=zeros.weight_loader,
        )  # fmt: skip

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        device = getattr(layer, LAYOUTS[self.checkpoint.layout][0]).device
        layer.moray = W4A8Linear(self.quantized(layer), None, self.act_scales).to(device)
        for name in (*LAYOUTS[self.checkpoint.layout][:3], "weight_shape"):
            if name and name in layer._parameters:
                delattr(layer, name)

    def quantized(self, layer: nn.Module) -> Quantized:
        """The shard that has been loaded, with the codes and scales that it has."""
        found = self.checkpoint
        held = [getattr(layer, name, None) if name else None for name in LAYOUTS[found.layout][:3]]
        codes, scales, zeros = (None if part is None else part.data.contiguous().cpu() for part in held)
        match found.layout:
            case "gptq":
                # symmetric: every zero point is the middle of the codes
                return Quantized.from_gptq(codes, scales, bits=found.bits)
            case "awq":
                return Quantized.from_awq(codes, scales, zeros)
            case "pack-quantized":
                return Quantized.from_compressed_tensors(codes, scales, zeros, bits=found.bits)
        if found.group_size == -1:
            return Quantized.from_parts(Format.per_channel(), codes + 8, channel=scales.reshape(-1))
        groups = scales.repeat_interleave(max(found.group_size // 128, 1), 1).to(torch.float16)
        return Quantized.from_parts(Format.per_group(min(found.group_size, 128)), codes + 8, group=groups)

    def apply(self, layer: nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        y = layer.moray(x)
        return y if bias is None else y + bias
