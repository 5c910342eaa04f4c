#!/usr/bin/env python3
"""Quantizes a GGUF model with GPTQModel's QQQ, per channel, on the CPU: a peer of `cargo xtask quality`, which scores it.

The 16-bit weights are transformers' reading of the file; the text is tokenized by the file's own tokenizer and its first
TOKENS tokens calibrate in windows of CONTEXT. GPTQModel packs for the tile sizes of its GPU kernel alone, which small models
are not multiples of; the stored form needs K a multiple of 16 and N one of 64 only, so the script widens the list.

Needs `pip install gptqmodel gguf`. Usage: gptqmodel_qqq.py MODEL.gguf TEXT TOKENS CONTEXT OUT
"""

import os
import sys
import tempfile

# GPTQModel's own default asks one thread pool for more workers than the other has where there are two cores
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, os.cpu_count() or 1)))

import torch  # noqa: E402
from gptqmodel import GPTQModel, QuantizeConfig  # noqa: E402
from gptqmodel.nn_modules.qlinear import qqq  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

STORED_MULTIPLES = [(16, 64)]


def export(model: str, out: str) -> None:
    """Writes the model in 16 bits, as a directory that GPTQModel reads."""
    directory, file = os.path.split(model)
    read = AutoModelForCausalLM.from_pretrained(directory, gguf_file=file, dtype=torch.float16)
    fields = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    plain = type(read)(type(read.config).from_dict(fields)).half()
    plain.load_state_dict(read.state_dict())
    plain.tie_weights()
    plain.save_pretrained(out)
    AutoTokenizer.from_pretrained(directory, gguf_file=file).save_pretrained(out)


def main() -> None:
    if len(sys.argv) != 6:
        sys.exit(__doc__)
    model, text, out = (os.path.abspath(sys.argv[i]) for i in (1, 2, 5))
    tokens, context = int(sys.argv[3]), int(sys.argv[4])
    for linear in (qqq.QQQLinear, qqq.QQQTorchLinear):
        linear.IN_OUTPUT_FEATURES_DIVISIBLE_BY = STORED_MULTIPLES
    with tempfile.TemporaryDirectory() as plain:
        os.chdir(plain)  # GPTQModel leaves its logs where it runs
        export(model, plain)
        tokenizer = AutoTokenizer.from_pretrained(plain)
        with open(text, encoding="utf-8") as file:
            ids = tokenizer(file.read(), add_special_tokens=False)["input_ids"][:tokens]
        windows = [ids[start : start + context] for start in range(0, len(ids), context)]
        rows = [{"input_ids": window, "attention_mask": [1] * len(window)} for window in windows]
        config = QuantizeConfig(quant_method="qqq", format="qqq", bits=4, group_size=-1, desc_act=False)
        quantized = GPTQModel.load(plain, config, device="cpu")
        quantized.quantize(rows, batch_size=4)
        quantized.save(out)


if __name__ == "__main__":
    main()
