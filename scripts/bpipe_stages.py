#!/usr/bin/env python3
"""Measure one pipeline stage in PyTorch and write the profile `moray bpipe estimate --profile` reads.

A stage is a run of transformer layers, forward and backward, without embedding, head and optimizer step. Under t-way
tensor parallelism one rank's share is measured: heads and feed-forward divided by t, no communication. Times are
medians over repeats, in CUDA events on a GPU and wall-clock on a CPU. stage_mfu = F/p * b / (P * T) with the matmul
FLOPs of the measured layers (2 per weight and token, 4 s^2 h per layer for attention, backward twice that; neither
halved for causality nor counting recomputation), over the measured rank's share and its peak.

Examples (a GPU, and a functional check on a CPU):
  python scripts/bpipe_stages.py --model llama-65b --tensor-parallel 4 --layers 10 --attention flash \
      --micro-batches 1,2,4 --peak-tflops 989 --out llama-65b-flash.json
  python scripts/bpipe_stages.py --model tiny-llama --device cpu --micro-batches 1,2 --peak-tflops 1 --out tiny.json
"""

import argparse
import json
import platform
import statistics
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class Shape:
    hidden: int
    heads: int
    ffn: int
    layers: int  # of a stage at p = 8
    seq_len: int
    llama: bool


# llama-65b: published configuration; gpt3-96b: recalled, unverified.
SHAPES = {
    "llama-7b": Shape(4096, 32, 11008, 4, 2048, True),
    "llama-65b": Shape(8192, 64, 22016, 10, 2048, True),
    "gpt3-96b": Shape(9984, 104, 4 * 9984, 10, 2048, False),
    "tiny-llama": Shape(64, 4, 176, 2, 32, True),
    "tiny-gpt": Shape(64, 4, 256, 2, 32, False),
}


def rotate(x, cos, sin):
    """Rotate pairs (i, i + d/2) of the last axis of [b, heads, s, d]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Layer(nn.Module):
    """One layer's share on one tensor-parallel rank."""

    def __init__(self, shape, tensor_parallel, attention, recompute, dropout):
        super().__init__()
        h, self.shape = shape.hidden, shape
        self.heads = shape.heads // tensor_parallel
        self.head_dim = h // shape.heads
        ffn = shape.ffn // tensor_parallel
        bias = not shape.llama
        norm = nn.RMSNorm if shape.llama else nn.LayerNorm
        self.norm1, self.norm2 = norm(h), norm(h)
        self.qkv = nn.Linear(h, 3 * self.heads * self.head_dim, bias=bias)
        self.proj = nn.Linear(self.heads * self.head_dim, h, bias=bias)
        self.up = nn.Linear(h, 2 * ffn if shape.llama else ffn, bias=bias)
        self.down = nn.Linear(ffn, h, bias=bias)
        self.attention, self.recompute = attention, recompute
        self.dropout = 0.0 if shape.llama else dropout

    def naive(self, q, k, v):
        s = q.shape[2]
        scores = q @ k.transpose(-1, -2) / self.head_dim**0.5
        future = torch.ones(s, s, dtype=torch.bool, device=q.device).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(dim=-1)
        return F.dropout(weights, self.dropout) @ v

    def core(self, q, k, v):
        if self.attention == "flash":
            return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout, is_causal=True)
        if self.recompute == "selective":
            return checkpoint(self.naive, q, k, v, use_reentrant=False)
        return self.naive(q, k, v)

    def forward(self, x, cos, sin):
        b, s, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(b, s, 3, self.heads, self.head_dim)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(dim=2))
        if self.shape.llama:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = self.core(q, k, v).transpose(1, 2).reshape(b, s, -1)
        x = x + F.dropout(self.proj(mixed), self.dropout)
        up = self.up(self.norm2(x))
        if self.shape.llama:
            gate, up = up.chunk(2, dim=-1)
            act = F.silu(gate) * up
        else:
            act = F.gelu(up, approximate="tanh")
        return x + F.dropout(self.down(act), self.dropout)


class Stage(nn.Module):
    def __init__(self, shape, args, dtype, device):
        super().__init__()
        self.recompute = args.recompute
        make = lambda: Layer(shape, args.tensor_parallel, args.attention, args.recompute, args.dropout)
        self.layers = nn.ModuleList(make() for _ in range(args.layers or shape.layers))
        self.to(device=device, dtype=dtype)
        d = shape.hidden // shape.heads
        angles = torch.outer(torch.arange(args.seq_len or shape.seq_len), 10000.0 ** (-torch.arange(0, d, 2) / d))
        self.cos, self.sin = (f(angles).to(device=device, dtype=dtype) for f in (torch.cos, torch.sin))

    def forward(self, x):
        for layer in self.layers:
            if self.recompute == "full":
                x = checkpoint(layer, x, self.cos, self.sin, use_reentrant=False)
            else:
                x = layer(x, self.cos, self.sin)
        return x


def flops_per_sample(shape, args):
    """Model FLOPs of the measured share of the stage for one sample, forward and backward."""
    s, h, t = args.seq_len or shape.seq_len, shape.hidden, args.tensor_parallel
    matmul = 4 * h * h + (3 if shape.llama else 2) * h * shape.ffn
    return 3 * (args.layers or shape.layers) * (2 * s * matmul + 4 * s * s * h) / t


def measure(stage, b, seq_len, hidden, args, dtype, device):
    """Median forward and backward time in us, and the bytes the forward keeps (None on a CPU)."""
    cuda = device.type == "cuda"
    forward_us, backward_us, kept = [], [], None
    for repeat in range(args.warmup + args.repeats):
        x = torch.randn(b, seq_len, hidden, device=device, dtype=dtype, requires_grad=True)
        grad = torch.randn_like(x)
        stage.zero_grad(set_to_none=False)  # gradients stay allocated: they are static memory
        before = torch.cuda.memory_allocated(device) if cuda else 0
        if cuda:
            marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
            marks[0].record()
            y = stage(x)
            marks[1].record()
            after = torch.cuda.memory_allocated(device)
            y.backward(grad)
            marks[2].record()
            torch.cuda.synchronize(device)
            times = [1e3 * marks[i].elapsed_time(marks[i + 1]) for i in range(2)]
        else:
            begin = time.perf_counter()
            y = stage(x)
            middle = time.perf_counter()
            y.backward(grad)
            times = [1e6 * (middle - begin), 1e6 * (time.perf_counter() - middle)]
        if repeat >= args.warmup:
            forward_us.append(times[0])
            backward_us.append(times[1])
            # The first layer's input is the stage's own activation; the last one's output belongs to the next stage.
            kept = after - before if cuda else None
    return statistics.median(forward_us), statistics.median(backward_us), kept


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, required=True)
    parser.add_argument("--out", required=True, help="profile to write")
    parser.add_argument("--micro-batches", default="1,2,4", help="sizes to measure, after commas")
    parser.add_argument("--attention", choices=["naive", "flash"], default="naive")
    parser.add_argument("--recompute", choices=["none", "selective", "full"], default="none")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="measure one of t ranks' share")
    parser.add_argument("--layers", type=int, help="layers of the stage [default: the model's at p = 8]")
    parser.add_argument("--seq-len", type=int, help="tokens per sample [default: the model's]")
    parser.add_argument("--dropout", type=float, default=0.1, help="GPT's dropout")
    parser.add_argument("--bytes-per-parameter", type=float, default=18.0, help="weights, gradients, optimizer state")
    parser.add_argument("--peak-tflops", type=float, required=True, help="the device's peak for this dtype")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    args.micro_batches = sorted({int(b) for b in args.micro_batches.split(",")})
    shape = SHAPES[args.model]
    if args.micro_batches[0] < 1 or args.repeats < 1 or args.peak_tflops <= 0:
        parser.error("expected micro-batches, repeats and peak of at least 1, 1 and above 0")
    if args.tensor_parallel < 1 or shape.heads % args.tensor_parallel or shape.ffn % args.tensor_parallel:
        parser.error(f"expected a tensor parallelism that divides {shape.heads} heads and {shape.ffn} feed-forward units")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("expected a CUDA device, got none; --device cpu measures on the CPU")
    return args, shape


def main():
    args, shape = parse_args()
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(0)
    stage = Stage(shape, args, dtype, device)
    seq_len = args.seq_len or shape.seq_len
    # Gradients exist before anything is measured, as in the second and later micro-batches of an iteration.
    stage(torch.randn(1, seq_len, shape.hidden, device=device, dtype=dtype)).sum().backward()
    parameters = sum(p.numel() for p in stage.parameters())
    flops, peak = flops_per_sample(shape, args), args.peak_tflops * 1e12
    points = []
    for b in args.micro_batches:
        try:
            forward_us, backward_us, kept = measure(stage, b, seq_len, shape.hidden, args, dtype, device)
        except torch.cuda.OutOfMemoryError:
            print(f"micro-batch {b}: does not fit in the device's memory, left out", file=sys.stderr)
            torch.cuda.empty_cache()
            continue
        point = {"micro_batch": b, "forward_us": forward_us, "backward_us": backward_us}
        point["stage_mfu"] = flops * b / (peak * (forward_us + backward_us) * 1e-6)
        if kept is not None:
            point["activation_bytes"] = kept
            point["static_bytes"] = round(args.bytes_per_parameter * parameters)
        point["boundary_bytes"] = 2 * b * seq_len * shape.hidden
        points.append(point)
        print(f"micro-batch {b}: {forward_us:.0f} us + {backward_us:.0f} us, MFU {100 * point['stage_mfu']:.1f}%")
    if not points:
        sys.exit("no micro-batch size fits")
    profile = {
        "model": args.model,
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "measured_by": f"scripts/bpipe_stages.py, PyTorch {torch.__version__}, {dtype}",
        "attention": args.attention,
        "recompute": args.recompute,
        "seq_len": seq_len,
        "layers_per_stage": args.layers or shape.layers,
        "tensor_parallel": args.tensor_parallel,
        "stage_flops_per_sample": flops,
        "peak_flops": peak,
        "points": points,
    }
    if cuda:
        profile["memory_bytes"] = torch.cuda.get_device_properties(device).total_memory
    with open(args.out, "w") as file:
        json.dump(profile, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    main()
