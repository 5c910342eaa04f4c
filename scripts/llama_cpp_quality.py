#!/usr/bin/env python3
"""Scores llama.cpp's own quantizations of a GGUF model on a text, as the peers of `cargo xtask quality`, as JSON.

Each type is made of the file's weights by llama.cpp, with embedding and output layer kept in 16 bits, as moray keeps them.
Windows of CONTEXT tokens that do not overlap, every position but a window's first is scored: `moray eval`'s definition.

Needs `pip install llama-cpp-python`. Usage: llama_cpp_quality.py MODEL TEXT TOKENS CONTEXT THREADS TYPE...
with TYPE one of F16, Q4_0, Q4_1, Q4_K_S, Q4_K_M, Q5_0, Q8_0
"""

import ctypes
import json
import math
import os
import sys
import tempfile

import llama_cpp
import numpy
from llama_cpp import Llama

TYPES = {"F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q4_K_S": 14, "Q4_K_M": 15}
GGML_F16 = 1


def quantize(model: str, name: str, out: str, threads: int) -> None:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread = threads
    parameters.ftype = TYPES[name]
    parameters.allow_requantize = True
    parameters.output_tensor_type = GGML_F16
    parameters.token_embedding_type = GGML_F16
    if llama_cpp.llama_model_quantize(model.encode(), out.encode(), ctypes.byref(parameters)) != 0:
        sys.exit(f"llama.cpp could not quantize {model} to {name}")


def score(model: str, text: str, tokens: int, context: int, threads: int) -> dict:
    llama = Llama(
        model_path=model, n_ctx=context, n_batch=context, n_threads=threads, n_threads_batch=threads, logits_all=True, verbose=False
    )
    with open(text, encoding="utf-8") as file:
        ids = llama.tokenize(file.read().encode(), add_bos=False)[:tokens]
    total, count = 0.0, 0
    for start in range(0, len(ids), context):
        window = ids[start : start + context]
        if len(window) < 2:
            continue
        llama.reset()
        llama.eval(window)
        logits = numpy.asarray(llama.scores[: len(window) - 1], dtype=numpy.float64)
        top = logits.max(axis=1)
        logs = top + numpy.log(numpy.exp(logits - top[:, None]).sum(axis=1))
        total += float((logs - logits[numpy.arange(len(window) - 1), window[1:]]).sum())
        count += len(window) - 1
    # embedding (tied to the output layer) in 16 bits and norms in 32 are no part of "bits a weight"
    raw = llama.model
    vocabulary, width, layers = llama.n_vocab(), llama.n_embd(), llama_cpp.llama_model_n_layer(raw)
    norms = (2 * layers + 1) * width
    matrices = llama_cpp.llama_model_n_params(raw) - vocabulary * width - norms
    bits = 8 * (llama_cpp.llama_model_size(raw) - 2 * vocabulary * width - 4 * norms) / matrices
    return {"perplexity": math.exp(total / count), "scored_tokens": count, "bits_per_weight": bits}


def main() -> None:
    model, text = sys.argv[1:3]
    tokens, context, threads = map(int, sys.argv[3:6])
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[6:]:
            path = os.path.join(folder, name + ".gguf")
            quantize(model, name, path, threads)
            result[name] = score(path, text, tokens, context, threads)
            os.remove(path)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
