#!/usr/bin/env python3
"""Measures llama.cpp on a GGUF file once, as a peer of `moray bench`: prefill, and decoding from each position, a line of JSON each.

Needs `pip install llama-cpp-python`. Usage: llama_cpp_speed.py MODEL PROMPT_TOKENS DECODED_TOKENS THREADS POSITION[,POSITION ...]
"""

import json
import random
import sys
import time

from llama_cpp import Llama


def main() -> None:
    model = sys.argv[1]
    prompt_tokens, decoded_tokens, threads = map(int, sys.argv[2:5])
    positions = [int(position) for position in sys.argv[5].split(",")]
    longest = max(prompt_tokens, *positions)
    llama = Llama(
        model_path=model,
        n_ctx=longest + decoded_tokens,
        n_batch=512,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    drawn = random.Random(1)
    tokens = [drawn.randrange(llama.n_vocab()) for _ in range(longest + decoded_tokens)]
    # the first call warms up
    llama.eval(tokens[:8])

    def report(n_prompt: int, n_gen: int, n_depth: int, seconds: float) -> None:
        speed = (n_prompt + n_gen) / seconds
        print(json.dumps({"n_prompt": n_prompt, "n_gen": n_gen, "n_depth": n_depth, "tokens_per_second": speed}))

    if prompt_tokens > 0:
        llama.reset()
        start = time.perf_counter()
        llama.eval(tokens[:prompt_tokens])
        report(prompt_tokens, 0, 0, time.perf_counter() - start)
    for position in positions:
        llama.reset()
        llama.eval(tokens[:position])
        start = time.perf_counter()
        for token in tokens[position : position + decoded_tokens]:
            llama.eval([token])
        report(0, decoded_tokens, position, time.perf_counter() - start)


if __name__ == "__main__":
    main()
