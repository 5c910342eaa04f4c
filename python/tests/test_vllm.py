"""The plugin against vLLM's own interfaces and weight loaders: shards equal the whole, and layers the library's calls."""

import numpy as np
import pytest
from conftest import require

import moray

torch = require("torch")
require("vllm", "MORAY_REQUIRE_VLLM")
import vllm.model_executor.parameter as parameter  # noqa: E402
from vllm.model_executor.layers.quantization import get_quantization_config  # noqa: E402

from moray.vllm import register  # noqa: E402
from moray.vllm.checkpoint import Checkpoint  # noqa: E402

N, K, SIZE = 64, 512, 128
RNG = np.random.default_rng(4)
CODES, ZEROS = RNG.integers(0, 16, (N, K), np.uint8), RNG.integers(1, 16, (N, K // SIZE), np.uint8)
SCALES = (RNG.random((N, K // SIZE)) * 0.1 + 0.01).astype(np.float16)
GROUP = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": SIZE}


def words(codes):
    wide = codes.astype(np.uint32).reshape(*codes.shape[:-1], -1, 8)
    return torch.from_numpy(np.bitwise_or.reduce(wide << (np.arange(8, dtype=np.uint32) * 4), axis=-1).view(np.int32))


def tensors(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def awq(plain):
    return words(plain.reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]]).reshape(len(plain), -1)


def compressed(**weights):
    group = {"targets": ["Linear"], "weights": {**GROUP, **weights}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


def numbers(zeros):
    return np.repeat(SCALES.astype(np.float64), SIZE, 1) * (CODES.astype(np.float64) - zeros)


SYMMETRIC, ASYMMETRIC = numbers(8.0), numbers(np.repeat(ZEROS.astype(np.float64), SIZE, 1))
INT = {**compressed(symmetric=True), "format": "int-quantized"}
CASES = {
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": SIZE, "sym": True, "desc_act": False},
        {"qweight": words(CODES.T.reshape(K // 8, 8, N).transpose(0, 2, 1)).squeeze(-1),
         "scales": tensors(SCALES.T)},
        SYMMETRIC,
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": SIZE, "zero_point": True, "version": "gemm"},
        {"qweight": awq(CODES.T.copy()), "scales": tensors(SCALES.T), "qzeros": awq(ZEROS.T.copy())},
        ASYMMETRIC,
    ),
    "pack-quantized": (
        compressed(symmetric=False),
        {"weight_packed": words(CODES), "weight_scale": tensors(SCALES), "weight_zero_point": tensors(words(ZEROS.T.copy()).numpy().T)},
        ASYMMETRIC,
    ),
    "int-quantized": (INT, {"weight": tensors(CODES.astype(np.int8) - 8), "weight_scale": tensors(SCALES)}, SYMMETRIC),
}  # fmt: skip


def shard(monkeypatch, config, arrays, rank, ranks, along):
    """A rank's layer as vLLM makes and loads it, and its method; along "n" or "k"."""
    from moray.vllm.method import MorayLinearMethod

    monkeypatch.setattr(parameter, "get_tensor_model_parallel_rank", lambda: rank)
    monkeypatch.setattr(parameter, "get_tensor_model_parallel_world_size", lambda: ranks)
    method, layer = MorayLinearMethod(Checkpoint.read(config), "token", "model.layers.0.mlp.down_proj"), torch.nn.Module()
    n, k = (N // ranks, K) if along == "n" else (N, K // ranks)
    method.create_weights(layer, k, [n], K, N, torch.bfloat16, weight_loader=lambda parameter, weight: None)
    for name, array in arrays.items():
        target = getattr(layer, name)
        (target.load_column_parallel_weight if along == "n" else target.load_row_parallel_weight)(array)
    return method, layer


@pytest.mark.parametrize("case", CASES)
def test_shards_by_vllms_loaders_equal_the_whole(case, monkeypatch):
    config, arrays, expected = CASES[case]
    method, layer = shard(monkeypatch, config, arrays, 0, 1, "n")
    whole = method.quantized(layer).dequantize()
    assert np.allclose(whole, expected, rtol=2.0**-20)
    for along, axis in (("n", 0), ("k", 1)):
        shards = [shard(monkeypatch, config, arrays, rank, 2, along) for rank in range(2)]
        parts = [method.quantized(layer).dequantize() for method, layer in shards]
        assert np.array_equal(np.concatenate(parts, axis=axis), whole)


@pytest.mark.parametrize("case", CASES)
def test_a_layer_equals_the_librarys_call(case, monkeypatch):
    config, arrays, _ = CASES[case]
    method, layer = shard(monkeypatch, config, arrays, 0, 1, "n")
    weight = moray.Weight(method.quantized(layer))
    method.process_weights_after_loading(layer)
    assert not list(layer.parameters())
    x, bias, out = torch.randn(3, K, dtype=torch.bfloat16), torch.randn(N, dtype=torch.bfloat16), torch.empty(3, N, dtype=torch.bfloat16)
    moray.linear(weight, x, out=out)
    assert torch.equal(method.apply(layer, x), out) and torch.equal(method.apply(layer, x, bias), out + bias)


def test_a_shard_inside_a_group_is_refused_by_name(monkeypatch):
    config, arrays, _ = CASES["gptq"]
    with pytest.raises(moray.UnsupportedError, match="down_proj: expected a shard of whole groups of 128 along K, got 64 of 512"):
        shard(monkeypatch, config, arrays, 0, 8, "k")


def test_vllm_finds_the_method_and_what_it_does_not_know_is_refused():
    register()
    known = get_quantization_config("moray")
    assert known.override_quantization_method({}, "moray") == "moray" and known.override_quantization_method({}, None) is None
    config = known.from_config({**CASES["gptq"][0], "moray": {"layers": "mlp", "act_scales": "fine"}})
    assert config.get_name() == "moray" and config.get_quant_method(torch.nn.Embedding(1, 1), "embed") is None
    gptq = CASES["gptq"][0]
    for text, bad in [
        ("quant_method", {"quant_method": "fp8"}),
        ("desc_act", {**gptq, "desc_act": True}),
        ("sym", {**gptq, "sym": False}),
        ("dynamic", {**gptq, "dynamic": {"-:.*": {}}}),
        ("bits", {**gptq, "bits": 3}),
        ("group_size", {**gptq, "group_size": 48}),
        ("moray.layers", {**gptq, "moray": {"layers": "attention"}}),
        ("moray: expected", {**gptq, "moray": {"threads": 2}}),
        ("actorder", compressed(actorder="group")),
        ("strategy", compressed(strategy="tensor")),
        ("format", {**compressed(), "format": "marlin-24"}),
    ]:
        with pytest.raises(moray.UnsupportedError, match=text):
            known.from_config(bad)


def test_vllms_own_layer_runs_with_the_method(monkeypatch):
    from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.linear import ReplicatedLinear, UnquantizedLinearMethod

    monkeypatch.setattr(parameter, "get_tensor_model_parallel_rank", lambda: 0)
    monkeypatch.setattr(parameter, "get_tensor_model_parallel_world_size", lambda: 1)
    register()
    settings, arrays, _ = CASES["pack-quantized"]
    config = get_quantization_config("moray").from_config(settings)
    with set_current_vllm_config(VllmConfig(device_config=DeviceConfig("cpu"))):
        options = {"bias": False, "params_dtype": torch.float32, "quant_config": config, "disable_tp": True}
        layer = ReplicatedLinear(K, N, prefix="model.layers.0.mlp.down_proj", **options)
        left_out = ReplicatedLinear(K, N, prefix="lm_head", **options)
    assert type(layer.quant_method).__name__ == "MorayLinearMethod"
    assert isinstance(left_out.quant_method, UnquantizedLinearMethod)
    for name, array in arrays.items():
        target = getattr(layer, name)
        target.weight_loader(target, array)
    weight = moray.Weight(layer.quant_method.quantized(layer))
    layer.quant_method.process_weights_after_loading(layer)
    x = torch.randn(3, K)
    assert np.array_equal(layer(x)[0].numpy(), moray.linear(weight, x.numpy()))
