#!/usr/bin/env python3
"""Measures llama.cpp on a GGUF file once, as a peer of `moray bench`: prefill, and decoding from each position, a line of JSON each.

Needs `pip install llama-cpp-python`, or `pip install ik-llama-cpp-python` to measure ik_llama.cpp, whichever this Python has.
Usage: llama_cpp_speed.py MODEL PROMPT_TOKENS DECODED_TOKENS THREADS POSITION[,POSITION ...]
"""

import importlib.util
import json
import random
import sys
import time


class LlamaCpp:
    """llama.cpp: tokens follow those before."""

    def __init__(self, model: str, context: int, threads: int) -> None:
        from llama_cpp import Llama

        self.llama = Llama(
            model_path=model, n_ctx=context, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        self.n_vocab = self.llama.n_vocab()
        self.reset = self.llama.reset
        self.eval = self.llama.eval


class IkLlamaCpp:
    """The same of ik_llama.cpp."""

    def __init__(self, model: str, context: int, threads: int) -> None:
        from ik_llama_cpp import _ctypes_api, _internals

        self.free, self.batch = _ctypes_api.llama_batch_free, _internals.make_batch_range
        self.model = _internals.IkModel(model)
        self.context = _internals.IkContext(self.model, n_ctx=context, n_threads=threads)
        self.n_vocab = self.model.n_vocab
        self.position = 0

    def reset(self) -> None:
        self.context.kv_cache_clear()
        self.position = 0

    def eval(self, tokens: list[int]) -> None:
        batch = self.batch(tokens, pos_start=self.position)
        status = self.context.decode(batch)
        self.free(batch)
        if status != 0:
            sys.exit(f"llama_decode returned {status}")
        self.position += len(tokens)


def main() -> None:
    model = sys.argv[1]
    prompt_tokens, decoded_tokens, threads = map(int, sys.argv[2:5])
    positions = [int(position) for position in sys.argv[5].split(",")]
    longest = max(prompt_tokens, *positions)
    engine = LlamaCpp if importlib.util.find_spec("llama_cpp") else IkLlamaCpp
    llama = engine(model, longest + decoded_tokens, threads)
    drawn = random.Random(1)
    tokens = [drawn.randrange(llama.n_vocab) for _ in range(longest + decoded_tokens)]
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
