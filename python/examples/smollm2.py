"""Runs a GGUF file of a LLaMA in transformers, plain and with moray's linear layers, and prints both texts and speeds.

    python smollm2.py models/SmolLM2-135M-Instruct.Q4_1.gguf --prompt "The capital of France is" --moray target/release/moray

The layers keep the blocks that the file has, so that the arithmetic is that of `moray generate --weights as-file`, whose text is compared
where `--moray` names the command. `--write` puts the speeds into a table, results/transformers.md.
"""

import argparse
import copy
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import moray
from moray.torch import convert

# Names of layers in transformers and in the file.
LAYERS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def name_in_file(name, tensors):
    """`model.layers.3.mlp.up_proj` is `blk.3.ffn_up.weight`; an output layer that shares its matrix is the embedding."""
    if name == "lm_head":
        return "output.weight" if "output.weight" in tensors else "token_embd.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYERS[rest]}.weight"


def blocks_of(path, config):
    """A function from the names of transformers' layers to weights in the file's own blocks."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}

    def weight(name):
        tensor = tensors[name_in_file(name, tensors)]
        kind, (k, n) = gguf.GGMLQuantizationType(tensor.tensor_type).name.lower(), tensor.shape.tolist()
        rows = np.asarray(tensor.data).reshape(n, -1)
        turned = next((count for end, count in heads.items() if name.endswith(end)), None)
        if turned:
            # the file has the two halves of a head's rows in turns, transformers one after the other
            rows = rows.reshape(turned, n // turned // 2, 2, -1).swapaxes(1, 2).reshape(n, -1)
        return moray.Quantized.from_blocks(kind, np.ascontiguousarray(rows), n, k)

    return weight


def generate(model, ids, tokens):
    """The tokens that follow, the most likely each, and how many a second after the first."""
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with torch.inference_mode():
        start = time.perf_counter()
        model.generate(ids, max_new_tokens=1, **options)
        first = time.perf_counter() - start
        out = model.generate(ids, max_new_tokens=tokens, **options)
        rest = time.perf_counter() - start - 2 * first
    return out[0, ids.shape[1] :], (tokens - 1) / rest


def prefill(model, ids):
    """Tokens of a prompt a second."""
    with torch.inference_mode():
        start = time.perf_counter()
        model(ids, use_cache=False, logits_to_keep=1)
        return ids.shape[1] / (time.perf_counter() - start)


def processor():
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def table(title, speeds):
    """Rows of a table: each model's median and what moray's is of it, the median of the rounds' ratios and their least and greatest."""
    lines = [f"| {title} | tokens a second | with moray |", "|---|---:|---:|"]
    for name, of in speeds.items():
        ratios = np.divide(speeds["with moray"], of)
        as_fast = "" if name == "with moray" else f"{np.median(ratios):.2f} × ({min(ratios):.2f}–{max(ratios):.2f})"
        lines.append(f"| {name} | {np.median(of):.1f} | {as_fast} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt", default="1, 2, 3, 4, 5, 6,")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prefill", type=int, default=256, help="tokens of the prompt whose reading is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--moray", type=Path, help="the command, whose text is compared")
    parser.add_argument("--write", type=Path, help="a file for the table of speeds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder, file = str(options.model.parent), options.model.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    plain = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()
    blocks = blocks_of(options.model, plain.config)
    converted = convert(copy.deepcopy(plain), output_layer=True, weights=blocks)
    models = {"transformers, f32": plain, "transformers, bf16": copy.deepcopy(plain).bfloat16(), "with moray": converted}
    ids = tokenizer(options.prompt, return_tensors="pt").input_ids
    long = ids.repeat(1, -(-options.prefill // ids.shape[1]))[:, : options.prefill]
    texts, speeds, read = {}, {name: [] for name in models}, {name: [] for name in models}
    for _ in range(options.rounds):
        for name, model in models.items():
            tokens, speed = generate(model, ids, options.tokens)
            texts[name] = tokenizer.decode(tokens)
            speeds[name].append(speed)
            read[name].append(prefill(model, long))
    print(f"{torch.get_num_threads()} threads, median of {options.rounds} rounds, {options.tokens} tokens after {ids.shape[1]}")
    for name in models:
        ratios = np.divide(speeds["with moray"], speeds[name])
        print(f"{name:20} {np.median(speeds[name]):6.1f} tok/s; with moray {np.median(ratios):.2f} × as fast: {texts[name]!r}")
    for name in models:
        ratio = np.median(np.divide(read["with moray"], read[name]))
        print(f"{name:20} reads {np.median(read[name]):6.0f} tokens of a prompt a second; with moray {ratio:.2f} × as fast")
    if options.write:
        options.write.write_text(
            f"""# moray in transformers

Written by `python python/examples/smollm2.py {file} --tokens {options.tokens} --prefill {options.prefill} --rounds {options.rounds} --write`:
the blocks of the file with int8 activations in moray's layers, and the same weights in floating point in transformers' own.
{torch.get_num_threads()} threads of {processor()}, torch {torch.__version__}, medians of {options.rounds} rounds in which the models
take turns; in brackets the least and the greatest ratio of a round.

{table(f"{options.tokens} tokens after {ids.shape[1]}", speeds)}

{table(f"a prompt of {options.prefill}", read)}
""",
            encoding="utf-8",
        )
    if options.moray:
        command = [options.moray, "generate", "--model", options.model, "--weights", "as-file", "--prompt", options.prompt]
        command += ["-n", str(options.tokens), "--kv-type", "f32", "--ignore-eos", "--json"]
        said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["text"]
        same = said == texts["with moray"]
        print(f"moray generate: {'the same text' if same else repr(said)}")
        return 0 if same else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
