#!/usr/bin/env python3
"""Measures llama.cpp on a GGUF file, as the peer of `moray bench`: prefill and decode tokens a second, as JSON.

Needs `pip install llama-cpp-python`. Usage: llama_cpp_speed.py MODEL TEXT PROMPT_TOKENS DECODE_TOKENS REPEATS THREADS
"""

import json
import statistics
import sys
import time

from llama_cpp import Llama


def main() -> None:
    model, text = sys.argv[1:3]
    prompt_tokens, decode_tokens, repeats, threads = map(int, sys.argv[3:7])
    llama = Llama(
        model_path=model,
        n_ctx=prompt_tokens + decode_tokens + 16,
        n_batch=prompt_tokens,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    with open(text, encoding="utf-8") as file:
        tokens = llama.tokenize(file.read().encode(), add_bos=False)
    prompt, rest = tokens[:prompt_tokens], tokens[prompt_tokens : prompt_tokens + decode_tokens]
    prefill, decode = [], []
    for _ in range(repeats + 1):
        llama.reset()
        start = time.perf_counter()
        llama.eval(prompt)
        prefill.append(len(prompt) / (time.perf_counter() - start))
        llama.reset()
        llama.eval(prompt[:8])
        start = time.perf_counter()
        for token in rest:
            llama.eval([token])
        decode.append(len(rest) / (time.perf_counter() - start))
    # the first round warms up
    print(json.dumps({"prefill": statistics.median(prefill[1:]), "decode": statistics.median(decode[1:])}))


if __name__ == "__main__":
    main()
