#!/usr/bin/env python3
"""Writes crates/moray-lab/tests/golden/rope.json: rotary frequencies of configurations, as transformers computes them.

    pip install torch transformers
    python3 scripts/golden_rope.py

Each entry has the keys that its config.json adds to a small llama, the frequency of each pair and what rotated queries and keys are
multiplied by.
"""

import json
from pathlib import Path

from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUT = Path(__file__).resolve().parent.parent / "crates/moray-lab/tests/golden/rope.json"
HEAD_DIM, HEADS = 32, 2
SHORT = [1.0 + i / 16 for i in range(HEAD_DIM // 2)]
LONG = [2.0 + i for i in range(HEAD_DIM // 2)]

CASES = [
    {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_theta": 1000000.0, "max_position_embeddings": 32768},
    {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "truncate": False, "original_max_position_embeddings": 512}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.5}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0}},
    {"rope_scaling": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 512}},
    # a ramp that begins and ends at one pair
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4}},
    {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 500000.0}},
    # the older key counts where both are there
    {
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rope_theta": 10000.0,
    },
    {
        "rope_scaling": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50000.0},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        }
    },
    {
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": SHORT,
            "long_factor": LONG,
            "original_max_position_embeddings": 512,
        }
    },
    {
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": SHORT,
            "long_factor": LONG,
            "factor": 16.0,
            "original_max_position_embeddings": 512,
        }
    },
]


def main():
    out = []
    for case in CASES:
        shape = {"hidden_size": HEAD_DIM * HEADS, "num_attention_heads": HEADS, "max_position_embeddings": 2048}
        config = LlamaConfig(**{**shape, **json.loads(json.dumps(case))})
        kind = config.rope_parameters["rope_type"]
        if kind == "default":
            raise SystemExit(f"not scaled: {case}")
        frequencies, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        out.append({"config": case, "frequencies": [float(f) for f in frequencies], "attention_factor": float(factor)})
    OUT.write_text(json.dumps(out, indent=0).replace("\n", "").replace('{"config"', '\n{"config"') + "\n")


main()
