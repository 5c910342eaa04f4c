"""What a checkpoint's configuration says of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedError


@dataclass(frozen=True)
class Checkpoint:
    """The arrays of every linear layer that is not left out."""

    #: ``"gptq"``, ``"awq"``, ``"pack-quantized"`` or ``"int-quantized"``.
    layout: str
    bits: int
    #: K values that share a scale; -1 for all.
    group_size: int
    symmetric: bool
    #: Names of layers that are not quantized, as the checkpoint spells them.
    ignored: tuple[str, ...] = ()

    @classmethod
    def read(cls, config: dict[str, Any]) -> Checkpoint:
        """Reads `quantization_config`; what could change the numbers and is not known is refused by name."""
        method = str(config.get("quant_method", "")).lower()
        readers = {"gptq": cls._gptq, "awq": cls._awq, "compressed-tensors": cls._compressed_tensors}
        if method not in readers:
            raise UnsupportedError(f"quant_method: expected one of {', '.join(readers)}, got {method!r}")
        found = readers[method](config)
        if found.bits not in (4, 8):
            raise UnsupportedError(f"bits: expected 4 or 8, got {found.bits}")
        if found.group_size != -1 and (found.group_size < 1 or found.group_size % 32):
            raise UnsupportedError(f"group_size: expected -1 or a multiple of 32, got {found.group_size}")
        return found

    @classmethod
    def _gptq(cls, config: dict[str, Any]) -> Checkpoint:
        # asymmetric ones are stored in three ways, which their writers do not always tell apart
        _expect(config, "sym", (True,))
        _expect(config, "desc_act", (False, None))
        for key in ("dynamic", "modules_in_block_to_quantize", "lm_head", "rotation"):
            if config.get(key):
                raise UnsupportedError(f"{key}: expected none, got {config[key]!r}")
        return cls("gptq", config["bits"], config["group_size"], True, ("lm_head",))

    @classmethod
    def _awq(cls, config: dict[str, Any]) -> Checkpoint:
        _expect(config, "version", ("gemm", "GEMM", None))
        bits, size = config.get("w_bit", config.get("bits")), config.get("q_group_size", config.get("group_size"))
        symmetric = not config.get("zero_point", True)
        if bits != 4 or symmetric:
            raise UnsupportedError(f"awq: expected 4 bits with zero points, got {bits} bits, zero_point {not symmetric}")
        return cls("awq", 4, size, False, ("lm_head", *(config.get("modules_to_not_convert") or ())))

    @classmethod
    def _compressed_tensors(cls, config: dict[str, Any]) -> Checkpoint:
        groups = list(config.get("config_groups", {}).values())
        if len(groups) != 1 or groups[0].get("targets") != ["Linear"]:
            raise UnsupportedError(f"config_groups: expected one, of all Linear layers, got {groups}")
        weights, inputs = groups[0]["weights"], groups[0].get("input_activations")
        layout = groups[0].get("format") or config.get("format")
        if layout not in ("pack-quantized", "int-quantized"):
            raise UnsupportedError(f"format: expected pack-quantized or int-quantized, got {layout!r}")
        _expect(weights, "type", ("int",))
        _expect(weights, "strategy", ("group", "channel"))
        _expect(weights, "actorder", (None, False, "static", "weight"))
        if inputs is not None:
            for key, known in (("num_bits", (8,)), ("type", ("int",)), ("strategy", ("token",)), ("symmetric", (True,)), ("dynamic", (True,))):
                _expect(inputs, key, known)
        if config.get("transform_config"):
            raise UnsupportedError(f"transform_config: expected none, got {config['transform_config']!r}")
        size = weights["group_size"] if weights["strategy"] == "group" else -1
        symmetric = weights.get("symmetric", True)
        if layout == "int-quantized" and (weights["num_bits"] != 4 or not symmetric):
            raise UnsupportedError("int-quantized: expected symmetric weights of 4 bits, got others")
        return cls(layout, weights["num_bits"], size, symmetric, tuple(config.get("ignore") or ()))


def _expect(config: dict[str, Any], key: str, known: tuple) -> None:
    if config.get(key) not in known:
        raise UnsupportedError(f"{key}: expected {' or '.join(map(repr, known))}, got {config.get(key)!r}")
