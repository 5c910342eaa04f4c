"""vLLM's configuration of the method."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization import get_quantization_config
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig, QuantizeMethodBase
from vllm.model_executor.layers.quantization.compressed_tensors.utils import should_ignore_layer

from ..errors import UnsupportedError
from .checkpoint import Checkpoint
from .method import MorayLinearMethod

# The last part of a layer's name as vLLM fuses them.
GATE_UP = ("gate_up_proj", "gate_proj", "up_proj")
LAYERS = {"all": None, "mlp": (*GATE_UP, "down_proj"), "gate_up": GATE_UP}


class MorayConfig(QuantizationConfig):
    """A checkpoint's weights, and which layers multiply them with int8 activations.

    `quantization_config` of the model may have ``"moray": {"layers": "all" | "mlp" | "gate_up", "act_scales": "token" | "fine"}``
    (`--hf-overrides`); other layers run as vLLM runs the checkpoint.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        own = {"layers": "all", "act_scales": "token", **config.get("moray", {})}
        for key, known in (("layers", tuple(LAYERS)), ("act_scales", ("token", "fine"))):
            if own[key] not in known:
                raise UnsupportedError(f"moray.{key}: expected one of {', '.join(known)}, got {own[key]!r}")
        if len(own) > 2:
            raise UnsupportedError(f"moray: expected layers and act_scales, got {', '.join(own)}")
        self.checkpoint, self.act_scales, self._meant = Checkpoint.read(config), own["act_scales"], LAYERS[own["layers"]]
        self._config = {key: value for key, value in config.items() if key != "moray"}
        self._vllms: QuantizationConfig | None = None

    @classmethod
    def get_name(cls) -> str:
        return "moray"

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        return [torch.float32, torch.float16, torch.bfloat16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return ["quantize_config.json", "quant_config.json"]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MorayConfig:
        return cls(config)

    @classmethod
    def override_quantization_method(cls, hf_quant_cfg: dict, user_quant: str | None, hf_config: Any = None) -> str | None:
        return "moray" if user_quant == "moray" else None

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> QuantizeMethodBase | None:
        if not isinstance(layer, LinearBase):
            return None
        if should_ignore_layer(prefix, self.checkpoint.ignored, self.packed_modules_mapping):
            return UnquantizedLinearMethod()
        if self._meant is None or prefix.rpartition(".")[2] in self._meant:
            return MorayLinearMethod(self.checkpoint, self.act_scales, prefix)
        if self._vllms is None:
            method = get_quantization_config(self._config["quant_method"])
            self._vllms = method.from_config(self._config)
            self._vllms.packed_modules_mapping = self.packed_modules_mapping
        return self._vllms.get_quant_method(layer, prefix)
