"""moray in vLLM: `--quantization moray` runs GPTQ, AWQ and compressed-tensors checkpoints with int8 activations, on vLLM's CPU platform.

vLLM finds :func:`register` by the entry point `vllm.general_plugins`.
"""


def register() -> None:
    """Makes the method known to vLLM."""
    from vllm.model_executor.layers.quantization import register_quantization_config

    from .config import MorayConfig

    register_quantization_config("moray")(MorayConfig)
