#!/usr/bin/env python3
"""Writes the golden values of the dense forward pass, computed by Hugging Face transformers in f32.

    python scripts/golden_logits.py MODEL.gguf TEXT OUT.json

transformers reads the same GGUF file that moray reads and dequantizes it to f32. Written are

- tokens: the first 512 tokens of TEXT by the model's own tokenizer, without BOS: one window;
- log_sum_exp and argmax at each of its positions;
- logits f32 at POSITIONS positions for IDS token ids (evenly spread, the argmax of the position among them);
- greedy: for two prompts their tokens and the 64 tokens of largest logit that follow.

Needs torch, transformers, accelerate and gguf. Deterministic: run twice, it writes the same file up to the last bits of f32 sums,
which depend on the machine's BLAS.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

WINDOW = 512
POSITIONS = 24
IDS = 64
GENERATED = 64
PROMPTS = ["The sea off the coast of Norway", "Once upon a time there was a small village where"]


def spread(count, limit):
    """`count` indices from 0 to limit - 1, both included, evenly spread."""
    return [i * (limit - 1) // (count - 1) for i in range(count)]


def greedy(model, tokens):
    """The tokens of largest logit after `tokens`, one after another, end-of-text tokens not minded."""
    generated, cache, inputs = [], None, torch.tensor([tokens])
    while len(generated) < GENERATED:
        output = model(inputs, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        generated.append(int(output.logits[0, -1].argmax()))
        inputs = torch.tensor([generated[-1:]])
    return generated


@torch.no_grad()
def main(model_path, text_path, out_path):
    """Computes and writes everything."""
    model_path = Path(model_path)
    source = {"pretrained_model_name_or_path": str(model_path.parent), "gguf_file": model_path.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    text = Path(text_path).read_text(encoding="utf-8")
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = encode(text[: WINDOW * 16])[:WINDOW]
    assert len(tokens) == WINDOW
    logits = model(torch.tensor([tokens])).logits[0]
    largest = logits.argmax(-1).tolist()
    positions = spread(POSITIONS, WINDOW)
    ids = [sorted(set(spread(IDS - 1, logits.shape[1]) + [largest[position]])) for position in positions]
    values = [[round(float(logits[position, i]), 6) for i in row] for position, row in zip(positions, ids)]
    golden = {
        "script": "scripts/golden_logits.py",
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "model": model_path.name,
        "text": Path(text_path).name,
        "tokens": tokens,
        "log_sum_exp": [round(float(v), 6) for v in logits.double().logsumexp(-1)],
        "argmax": largest,
        "positions": positions,
        "ids": ids,
        "logits": values,
        "greedy": [
            {"prompt": prompt, "tokens": encode(prompt), "generated": greedy(model, encode(prompt))} for prompt in PROMPTS
        ],
    }
    with open(out_path, "w", encoding="utf-8") as out:
        json.dump(golden, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
