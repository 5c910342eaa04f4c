"""Prints what a call of one token through 16 × 32 weights costs by each door, in ns: next to nothing of it is the product."""

import time

import numpy as np

import moray

CALLS, ROUNDS = 2000, 7


def measure(name, call):
    """The fastest of some rounds."""
    call()
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        rounds.append((time.perf_counter_ns() - start) / CALLS)
    print(f"{name:58} {min(rounds):7.0f} ns")


def library(weight, x, y, cpu):
    activations = moray.Activations(1, 32).quantize(x, cpu=cpu)
    format = weight.format.handle()
    from moray._library import ffi, lib

    out = ffi.new("MoraySectionBytes *")
    measure("cffi: a query of the C ABI, moray_section_bytes", lambda: lib.moray_section_bytes(format, 16, 32, out))
    measure("moray.linear of Activations", lambda: moray.linear(weight, activations, out=y, cpu=cpu))
    measure("moray.linear of an array, which is quantized first", lambda: moray.linear(weight, x, out=y, cpu=cpu))


def tvm_ffi(quantized, x, y):
    try:
        import tvm_ffi as tvm
    except ImportError:
        return print("skipped: no tvm_ffi")
    linear = tvm.load_module(moray.library_path())["moray_linear"]
    x, y = tvm.from_dlpack(x), tvm.from_dlpack(y)
    sections = quantized.pack()
    parts = [tvm.from_dlpack(sections[part]) if part in sections else None for part in ("codes", "channel", "group", "offset")]
    arguments = (y, x, *parts, None, None, None, 4, 32, "f16", "none", "token", 1)
    measure("TVM FFI: moray_linear of tensors made before", lambda: linear(*arguments))


def torch(quantized, x):
    try:
        import torch
    except ImportError:
        return print("skipped: no torch")
    from moray.torch import W4A8Linear

    torch.set_num_threads(1)
    layer, plain, x = W4A8Linear(quantized), torch.nn.Linear(32, 16, bias=False), torch.from_numpy(x)
    held = layer._buffers
    arguments = (x, held["codes"], None, held["group"], None, None, None, 16, 32, layer._numbers, "token")
    with torch.inference_mode():
        measure("torch: the operator moray::w4a8_linear", lambda: torch.ops.moray.w4a8_linear.default(*arguments))
        measure("torch: the module W4A8Linear", lambda: layer(x))
        measure("torch: its own nn.Linear", lambda: plain(x))


def main():
    x, y = np.ones((1, 32), np.float32), np.empty((1, 16), np.float32)
    quantized = moray.Quantized.quantize(np.ones((16, 32), np.float32), moray.Format.per_group(32))
    library(moray.Weight(quantized), x, y, moray.Cpu(1))
    tvm_ffi(quantized, x, y)
    torch(quantized, x)


if __name__ == "__main__":
    main()
