#!/usr/bin/env python3
"""Writes the golden quantized matrices of crates/moray-lab/tests/golden/quantized, each layout from its description.

    pip install numpy
    python3 scripts/golden_quantized.py

Every file holds the arrays of one projection under the prefix "p" and `expected`, what they stand for, f32 [N, K]:

qqq_channel.safetensors  QQQ, a scale for each channel          gptq.safetensors        GPTQ, groups of 64, zero points
qqq_group.safetensors    QQQ, groups of 128                      awq.safetensors         AWQ, groups of 64, zero points
compressed.safetensors   compressed-tensors, groups of 64        compressed_zero.safetensors   with zero points

Written element by element in the direction matrix -> file, so that nothing is shared with the reader that is tested.
"""

import json
import struct
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parent.parent / "crates/moray-lab/tests/golden/quantized"
TYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "int64": "I64"}


def save(name, arrays):
    """The safetensors format: header length, JSON header, data."""
    header, data = {}, b""
    for key, array in arrays.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[key] = {
            "dtype": TYPES[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (GOLDEN / name).write_bytes(struct.pack("<Q", len(text)) + text + data)


def signed(words):
    return np.asarray(words, dtype=np.uint32).view(np.int32)


def pack_qqq(code_at, n, k, grouped):
    """B [K/16, 2N]: in each 16 x 64 block, lane L holds words 4L..4L+3."""
    words = np.zeros((k // 16, 2 * n), dtype=np.uint32)
    for kb in range(k // 16):
        for nb in range(n // 64):
            for lane in range(32):
                for j in range(4):
                    word = 0
                    for i in range(8):
                        if grouped:
                            b, dk = (i >> 1) & 1, 4 * (lane % 4) + 2 * (i & 1) + (i >> 2)
                        else:
                            b, dk = 1 - (i & 1), 4 * (lane % 4) + i // 2
                        dn = 16 * j + 8 * b + lane // 4
                        word |= (code_at(64 * nb + dn, 16 * kb + dk) & 15) << (4 * i)
                    words[kb, 128 * nb + 4 * lane + j] = word
    return signed(words)


def qqq_channel_order(values):
    """Per 32 channels, position 8i+t holds channel 2i + {0,1,8,9,16,17,24,25}[t]."""
    offsets = [0, 1, 8, 9, 16, 17, 24, 25]
    out = np.zeros_like(values)
    for block in range(len(values) // 32):
        for i in range(4):
            for t in range(8):
                out[32 * block + 8 * i + t] = values[32 * block + 2 * i + offsets[t]]
    return out


def qqq_group_order(values):
    """Per 64 channels, position 8i+j holds channel i+8j; values [groups, N]."""
    out = np.zeros_like(values)
    for block in range(values.shape[1] // 64):
        for i in range(8):
            for j in range(8):
                out[:, 64 * block + 8 * i + j] = values[:, 64 * block + i + 8 * j]
    return out


def qqq(rng):
    n = k = 128
    q = rng.integers(-8, 8, (n, k))
    scale = rng.uniform(0.001, 0.02, n).astype(np.float32)
    save(
        "qqq_channel.safetensors",
        {
            "p.B": pack_qqq(lambda a, b: int(q[a, b]), n, k, False),
            "p.s_channel": qqq_channel_order(scale / np.float32(16))[None],
            "expected": q.astype(np.float32) * scale[:, None],
        },
    )
    n = k = 256
    code = rng.integers(0, 16, (n, k))
    channel = rng.uniform(0.0005, 0.002, n).astype(np.float32)
    group = rng.uniform(2.0, 15.0, (n, k // 128)).astype(np.float16)
    # int8 weight: the exact product (c - 8) * group scale, rounded once to nearest even
    product = (code - 8) * np.repeat(group.astype(np.float64), 128, axis=1)
    integer = np.rint(product).astype(np.float32)
    save(
        "qqq_group.safetensors",
        {
            "p.B": pack_qqq(lambda a, b: int(code[a, b]), n, k, True),
            "p.s_channel": qqq_channel_order(channel)[None],
            "p.s_group": qqq_group_order(np.ascontiguousarray(group.T)),
            "expected": integer * channel[:, None],
        },
    )


def grouped(rng):
    n = k = 128
    size = 64
    code = rng.integers(0, 16, (n, k))
    zero = rng.integers(1, 16, (n, k // size))
    scale = rng.uniform(0.001, 0.02, (n, k // size)).astype(np.float16)
    wide = np.repeat(scale.astype(np.float32), size, axis=1)
    expected = wide * (code - np.repeat(zero, size, axis=1)).astype(np.float32)

    def along(values, order=range(8)):
        """Eight neighbours of the last axis in a word, nibble i holding neighbour order[i]."""
        words = np.zeros((*values.shape[:-1], values.shape[-1] // 8), dtype=np.uint32)
        for i, neighbour in enumerate(order):
            words |= (values[..., neighbour::8].astype(np.uint32) & 15) << (4 * i)
        return signed(words)

    save(
        "gptq.safetensors",
        {
            "p.qweight": np.ascontiguousarray(along(code).T),
            "p.qzeros": along(zero.T - 1),
            "p.scales": np.ascontiguousarray(scale.T),
            "p.g_idx": (np.arange(k) // size).astype(np.int32),
            "expected": expected,
        },
    )
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    save(
        "awq.safetensors",
        {
            "p.qweight": along(code.T, order),
            "p.qzeros": along(zero.T, order),
            "p.scales": np.ascontiguousarray(scale.T),
            "expected": expected,
        },
    )
    # signed codes and zero points, stored + 8
    save(
        "compressed_zero.safetensors",
        {
            "p.weight_packed": along(code),
            "p.weight_scale": scale,
            "p.weight_zero_point": np.ascontiguousarray(along(zero.T).T),
            "p.weight_shape": np.array([n, k], dtype=np.int64),
            "expected": expected,
        },
    )
    save(
        "compressed.safetensors",
        {
            "p.weight_packed": along(code),
            "p.weight_scale": scale,
            "p.weight_shape": np.array([n, k], dtype=np.int64),
            "expected": wide * (code - 8).astype(np.float32),
        },
    )


GOLDEN.mkdir(parents=True, exist_ok=True)
generator = np.random.default_rng(2026)
qqq(generator)
grouped(generator)
