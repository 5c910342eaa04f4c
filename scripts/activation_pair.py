"""Trains two small LLaMAs alike but for the activation of their MLPs, SiLU and ReLU, and writes them as Hugging Face directories.

usage: activation_pair.py TEXT OUT [--steps N] [--threads N] [--every N]

TEXT is any UTF-8 text; the pair in crates/moray-lab/tests/pair was trained on the works of Shakespeare as char-rnn has them
(github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt, public domain). Tokens are bytes. The last twentieth of TEXT is not trained on and
goes to OUT/held_out.txt. Both models begin with the same weights and read the same batches in turn. They are written to OUT/silu and
OUT/relu every --every steps and at the end, so that what is there is a pair of equal training at any time.

Needs torch, transformers and safetensors.
"""

import argparse
import json
import math
import pathlib
import time

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

SEED, BATCH, CONTEXT = 17, 16, 128
WARM_UP, LEARNING_RATE = 50, 2e-3


def config(activation):
    return LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, max_position_embeddings=512, rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act=activation,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=None)


def rate(step, steps):
    """Rises over the first steps, then falls as a cosine to a tenth."""
    fallen = 0.55 + 0.45 * math.cos(math.pi * step / steps)
    return LEARNING_RATE * fallen * min(1.0, (step + 1) / WARM_UP)


def batch(data, generator):
    starts = torch.randint(len(data) - CONTEXT, (BATCH,), generator=generator)
    return torch.stack([data[start:start + CONTEXT] for start in starts.tolist()])


@torch.no_grad()
def held_out_loss(model, data):
    windows = data[:len(data) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    losses = [model(input_ids=part, labels=part).loss.item() for part in windows.split(64)]
    return sum(losses) / len(losses)


def tokenizer():
    """A tokenizer.json whose token of a byte has the byte's number."""
    plain = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]
    shifted = (byte for byte in range(256) if byte not in plain)
    names = {byte: chr(byte) for byte in plain} | {byte: chr(0x100 + place) for place, byte in enumerate(shifted)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "vocab": {names[byte]: byte for byte in range(256)}, "merges": []}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": level,
            "post_processor": None, "decoder": level, "model": model}


def write(model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    stated = ["model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
              "head_dim", "max_position_embeddings", "rms_norm_eps", "hidden_act", "vocab_size", "tie_word_embeddings"]
    known = {**model.config.to_dict(), "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps({key: known[key] for key in [*stated, "rope_theta"]}, indent=1) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(), ensure_ascii=False) + "\n")
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    text = options.text.read_bytes()
    cut = text.rindex(b"\n", 0, len(text) * 19 // 20) + 1
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "held_out.txt").write_bytes(text[cut:])
    data, held_out = (torch.tensor(list(part), dtype=torch.long) for part in (text[:cut], text[cut:]))
    pair = {}
    for activation in ("silu", "relu"):
        torch.manual_seed(SEED)
        model = LlamaForCausalLM(config(activation))
        pair[activation] = model, torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    batches = torch.Generator().manual_seed(SEED)
    start = time.monotonic()
    for step in range(options.steps):
        tokens = batch(data, batches)
        for model, optimizer in pair.values():
            for group in optimizer.param_groups:
                group["lr"] = rate(step, options.steps)
            loss = model(input_ids=tokens, labels=tokens).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if (step + 1) % options.every == 0 or step + 1 == options.steps:
            for activation, (model, _) in pair.items():
                write(model, options.out / activation)
            losses = {activation: round(held_out_loss(model, held_out), 4) for activation, (model, _) in pair.items()}
            print(f"step {step + 1}: held-out nats a byte {losses}, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
