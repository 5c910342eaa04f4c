#!/usr/bin/env python3
"""Checks QQQ directories that `moray quantize --layout qqq` writes against two other readers, matrix by matrix.

    pip install gptqmodel tokenizers
    cargo build --release -p moray-lab
    python3 scripts/qqq_unpack.py target/release/moray

A small random model is rounded to nearest by the command, with a scale for each channel and with groups of 128. In every matrix
of both modes GPTQModel (its QQQTorchLinear, from loading the directory to dequantizing) and the unpacker below (the layout's closed
form, as crates/moray-lab/src/packed/qqq.rs has it) must come to the same int8 weights and scales, and each weight must lie within
half a step of the model's own: a weight or scale in a wrong place would not.

Every file must also say that it holds PyTorch's tensors, without which older versions of transformers load none.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

HIDDEN, D_FF, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 256, 768, 2, 4, 2, 64, 64
MATRICES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate_proj": (D_FF, HIDDEN),
    "mlp.up_proj": (D_FF, HIDDEN),
    "mlp.down_proj": (HIDDEN, D_FF),
}


def write_model(directory):
    """A random LLaMA model in f32, with a tokenizer of single characters. Returns its matrices."""
    random = np.random.default_rng(13)
    draw = lambda *shape: random.standard_normal(shape).astype(np.float32) * np.float32(0.05)  # noqa: E731
    matrices = {f"model.layers.{i}.{name}": draw(*shape) for i in range(LAYERS) for name, shape in MATRICES.items()}
    tensors = {f"{name}.weight": matrix for name, matrix in matrices.items()}
    tensors |= {"model.embed_tokens.weight": draw(VOCAB, HIDDEN), "model.norm.weight": np.ones(HIDDEN, np.float32)}
    for i in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{i}.{norm}.weight"] = np.ones(HIDDEN, np.float32)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": D_FF,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
        "vocab_size": VOCAB, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
    }  # fmt: skip
    (directory / "config.json").write_text(json.dumps(config))
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<unk>", "<s>", "</s>"] + [chr(i) for i in range(33, 33 + VOCAB - 4)] + ["Ġ"]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(words[:3])
    tokenizer.save(str(directory / "tokenizer.json"))
    return matrices


def unpack(arrays, prefix):
    """int8 weights [N, K], f32 scales [N] and the int8 steps between neighbouring codes [N, K] of a stored matrix."""
    words = arrays[f"{prefix}.B"].view(np.uint32)
    k, n = 16 * words.shape[0], words.shape[1] // 2
    grouped = f"{prefix}.s_group" in arrays
    code = np.zeros((n, k), np.int64)
    for lane in range(32):
        for j in range(4):
            word = words[:, 4 * lane + j :: 128]  # [K/16, N/64]
            for i in range(8):
                if grouped:
                    b, dk = (i >> 1) & 1, 4 * (lane % 4) + 2 * (i & 1) + (i >> 2)
                else:
                    b, dk = 1 - (i & 1), 4 * (lane % 4) + i // 2
                code[16 * j + 8 * b + lane // 4 :: 64, dk::16] = ((word >> np.uint32(4 * i)) & 15).T
    channel = np.zeros(n, np.float32)
    for at, value in enumerate(arrays[f"{prefix}.s_channel"].reshape(-1)):
        channel[at // 32 * 32 + 2 * (at % 32 // 8) + [0, 1, 8, 9, 16, 17, 24, 25][at % 8]] = value
    if not grouped:
        return 16 * np.where(code >= 8, code - 16, code), channel, np.full((n, k), 16.0)
    stored = arrays[f"{prefix}.s_group"]
    group = np.zeros(stored.shape, np.float64)
    for at in range(n):
        group[:, at // 64 * 64 + at % 64 // 8 + 8 * (at % 8)] = stored[:, at]
    steps = np.repeat(group.T, 128, axis=1)
    # the product of 4 and 11 bits is exact in f64 and rounded once
    return np.rint((code - 8) * steps).astype(np.int64), channel, steps


def read_arrays(directory):
    arrays = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            assert file.metadata()["format"] == "pt", path
            arrays |= {name: file.get_tensor(name) for name in file.keys()}
    return arrays


def gptqmodel_weights(directory):
    """Every quantized matrix as GPTQModel holds it: int8 weights [N, K] and scales [N]."""
    import torch
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.nn_modules.qlinear.qqq import QQQTorchLinear

    # what it takes from config.json on a GPU; its own choice on a CPU, bfloat16, would round the groups' scales
    model = GPTQModel.load(str(directory), device="cpu", backend=BACKEND.QQQ_TORCH, dtype=torch.float16)
    found = {}
    for name, module in model.model.named_modules():
        if isinstance(module, QQQTorchLinear):
            weight, channel = module._dequantize_weight_for_torch()
            found[name] = (weight.T.to(int).numpy(), channel.reshape(-1).numpy())
    return found


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    moray = Path(sys.argv[1]).resolve()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)  # GPTQModel leaves its logs where it runs
        source = Path(work, "model")
        source.mkdir()
        matrices = write_model(source)
        for weights in ("per-channel", "qqq"):
            out = Path(work, weights)
            command = [moray, "quantize", "--method", "rtn", "--layout", "qqq", "--weights", weights]
            subprocess.run([*command, "--model", source, "--out", out], check=True)
            arrays, loaded = read_arrays(out), gptqmodel_weights(out)
            assert loaded.keys() == matrices.keys(), loaded.keys() ^ matrices.keys()
            for name, matrix in matrices.items():
                integers, channel, steps = unpack(arrays, name)
                # GPTQModel brings every float to the model's type when it loads
                held = channel.astype(np.float16).astype(np.float32)
                wrong = [int((a != b).sum()) for a, b in zip(loaded[name], (integers, held))]
                assert wrong == [0, 0], f"{weights} {name}: GPTQModel has {wrong[0]} other weights, {wrong[1]} other scales"
                # half a step; in groups also half an int8, and a step's rounding to f16 up to 8 steps away; and f32's error
                reach = np.abs(steps) * 0.5
                if weights == "qqq":
                    reach += 0.5 + 8 * np.abs(steps) * 2.0**-11
                far = np.abs(integers - matrix / channel[:, None].astype(np.float64)) > reach * (1 + 1e-5)
                assert not far.any(), f"{weights} {name}: {far.sum()} weights are farther than half a step from the model's"
            count = sum(matrix.size for matrix in matrices.values())
            print(f"{weights}: {count} weights of {len(matrices)} matrices: the same integers and scales")
    from importlib.metadata import version

    print(", ".join(f"{name} {version(name)}" for name in ("gptqmodel", "transformers", "torch", "numpy")))


if __name__ == "__main__":
    main()
