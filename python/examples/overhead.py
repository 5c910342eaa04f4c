"""Prints what a call of the smallest shape costs by each door of Python's, in ns: next to nothing of it is the work.

`MORAY_HUB_KERNEL` names the folder that `cargo xtask hub-kernel` has written, which is measured too where there is torch.
"""

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import moray

CALLS, ROUNDS = 2000, 7


def measure(operation, name, call):
    """The fastest of some rounds."""
    call()
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        for _ in range(CALLS):
            call()
        rounds.append((time.perf_counter_ns() - start) / CALLS)
    print(f"{operation} | {name} | {min(rounds):.0f} ns")


def library(weight, x, y, cpu):
    from moray._library import ffi, lib

    activations = moray.Activations(1, 32).quantize(x, cpu=cpu)
    format, out = weight.format.handle(), ffi.new("MoraySectionBytes *")
    measure("query", "Python: cffi, `moray_section_bytes`", lambda: lib.moray_section_bytes(format, 16, 32, out))
    measure("quantize", "Python: `Activations.quantize`", lambda: activations.quantize(x, cpu=cpu))
    measure("linear", "Python: `moray.linear` of Activations", lambda: moray.linear(weight, activations, out=y, cpu=cpu))
    measure("linear_of_floats", "Python: `moray.linear` of an array", lambda: moray.linear(weight, x, out=y, cpu=cpu))
    held, ones = moray.InputSparse(np.ones((16, 32), np.float32)), np.ones((16, 32), np.float32)
    measure("by_input", "Python: `moray.InputSparse`", lambda: held(x, 0.5, out=y, cpu=cpu))
    mlp, hidden = moray.SparseMlp(ones, ones, np.ones((32, 16), np.float32)), np.empty_like(x)
    measure("sparse_mlp", "Python: `moray.SparseMlp`", lambda: mlp(x, out=hidden, cpu=cpu))


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
    measure("linear_of_floats", "TVM FFI: `moray_linear` of tensors made before", lambda: linear(*arguments))


def torch(quantized, x):
    try:
        import torch
    except ImportError:
        return print("skipped: no torch")
    from moray.torch import InputSparseLinear, SparseMlp, W4A8Linear

    torch.set_num_threads(1)
    layer, plain, x = W4A8Linear(quantized), torch.nn.Linear(32, 16, bias=False), torch.from_numpy(x)
    held, ones = layer._buffers, torch.ones(16, 32)
    arguments = (x, held["codes"], None, held["group"], None, None, None, 16, 32, layer._numbers, "token")
    sparse, mlp = InputSparseLinear(ones, 0.5), SparseMlp(ones, ones, torch.ones(32, 16))
    with torch.inference_mode():
        measure("linear_of_floats", "torch: its own `nn.Linear` in f32", lambda: plain(x))
        measure("linear_of_floats", "torch: the operator `moray::w4a8_linear`", lambda: torch.ops.moray.w4a8_linear.default(*arguments))
        measure("linear_of_floats", "torch: the module `W4A8Linear`", lambda: layer(x))
        measure("by_input", "torch: the module `InputSparseLinear`", lambda: sparse(x))
        measure("sparse_mlp", "torch: the module `SparseMlp`", lambda: mlp(x))
        hub_kernel(torch, x, ones)


def hub_kernel(torch, x, ones):
    variants = sorted(Path(os.environ.get("MORAY_HUB_KERNEL", "")).glob("build/*/metadata.json"))
    if not variants:
        return print("skipped: no kernel (cargo xtask hub-kernel)")
    name = json.loads(variants[0].read_text())["id"]
    spec = importlib.util.spec_from_file_location(name, variants[0].parent / "__init__.py")
    kernel = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernel)
    packed, held = kernel.quantize(ones, 4, 32).pack(), kernel.InputSparse(ones)
    mlp = kernel.SparseMlp(ones, ones, torch.ones(32, 16))
    measure("linear_of_floats", "Hugging Face kernel: `w4a8_linear`", lambda: kernel.w4a8_linear(x, packed))
    measure("by_input", "Hugging Face kernel: `by_input`", lambda: kernel.by_input(x, held, 0.5))
    measure("sparse_mlp", "Hugging Face kernel: `sparse_mlp`", lambda: kernel.sparse_mlp(x, mlp))


def main():
    x, y = np.ones((1, 32), np.float32), np.empty((1, 16), np.float32)
    quantized = moray.Quantized.quantize(np.ones((16, 32), np.float32), moray.Format.per_group(32))
    library(moray.Weight(quantized), x, y, moray.Cpu(1))
    tvm_ffi(quantized, x, y)
    torch(quantized, x)


if __name__ == "__main__":
    main()
