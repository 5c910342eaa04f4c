"""The operators on CUDA tensors: in torch's memory and on its current stream, also while a graph is captured."""

from __future__ import annotations

import weakref
from typing import Any, Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import cuda
from .._library import constant
from .._memory import NONE
from ..activations import SCALES
from ..cpu import shared
from ..errors import DtypeError, UnsupportedError
from ..format import PARTS
from ..input_sparse import InputSparse
from ..selection import Threshold, TopK
from ..sparse_mlp import SparseMlp
from .ops import KINDS, live, memory_of, pointer, rows_of

_NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}

# Zeros that calls leave as zeros, by device and stream: calls on one stream do not run at once.
_ZEROS: dict[tuple[int, int], Tensor] = {}


def _zeros(device: torch.device, stream: int, size: int) -> Tensor:
    """Bytes of zeros, whole words of them, for a call on a stream. What a graph captures is the graph's own memory, and so are its zeros."""
    size = -(-size // 16) * 16
    if torch.cuda.is_current_stream_capturing():
        return torch.zeros(size, dtype=torch.uint8, device=device)
    found = _ZEROS.get((device.index, stream))
    if found is None or found.nbytes < size:
        found = _ZEROS[device.index, stream] = torch.zeros(size, dtype=torch.uint8, device=device)
    return found


# Weights of the library's, by the device that they have been copied to, for as long as they live.
_COPIES: weakref.WeakKeyDictionary[SparseMlp | InputSparse, dict[int, Any]] = weakref.WeakKeyDictionary()


def _copy(weights: Any, device: torch.device, make: Callable[[Any, torch.device], Any]) -> Any:
    copies = _COPIES.setdefault(weights, {})
    found = copies.get(device.index)
    if found is None:
        if torch.cuda.is_current_stream_capturing():
            raise UnsupportedError(f"weights: expected a call on {device} before a graph is captured, which copies them there, got none")
        found = copies[device.index] = make(weights, device)
    return found


def _there(sections: dict[str, Any], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.from_numpy(part).to(device) for name, part in sections.items()}


def _mlp(mlp: SparseMlp, device: torch.device) -> cuda.SparseMlp:
    return cuda.SparseMlp(_there(cuda.SparseMlp.sections(mlp), device), mlp)


def _by_input(weight: InputSparse, device: torch.device) -> cuda.InputSparse:
    if weight.dtype is None:
        return cuda.InputSparse(_there(cuda.InputSparse.sections(weight), device), weight)
    kinds = {name: kind for kind, name in _NAMES.items()}
    columns = torch.from_numpy(weight.columns(shared(torch.get_num_threads()))).to(kinds[weight.dtype])
    # rows of whole 16 bytes
    return cuda.InputSparse.of_columns(pad(columns, (0, -weight.n % 8)).to(device), weight.n)


@torch.library.impl("moray::w4a8_linear", "CUDA")
def w4a8_linear(x, codes, channel, group, offset, order, bias, n, k, format, act_scales):
    x = rows_of(x if order is None else x.index_select(-1, order), k)
    y = x.new_empty((*x.shape[:-1], n))
    if x.numel() == 0:
        return y
    dtype, m, scales = KINDS[x.dtype], x.numel() // k, constant("act_scales", SCALES, act_scales)
    parts = [memory_of(what, part, torch.uint8, x.device) for what, part in zip(PARTS, (codes, channel, group, offset))]
    weight = cuda.weight_of(n, k, tuple(format), parts)
    biases = memory_of("bias", bias, torch.float32, x.device)
    with torch.cuda.device(x.device):
        device, stream = cuda.current(), torch.cuda.current_stream().cuda_stream
        sizes = cuda.scratch(device, n, k, tuple(format), m, scales, dtype)
        tokens = torch.empty(sizes.tokens, dtype=torch.uint8, device=x.device)
        held = (m, k, scales, (pointer(tokens.data_ptr()), tokens.nbytes))
        cuda.quantize(device, stream, (pointer(x.data_ptr()), x.nbytes), dtype, held)
        zeros = _zeros(x.device, stream, sizes.workspace)
        workspace = (pointer(zeros.data_ptr()), zeros.nbytes) if sizes.workspace else NONE
        cuda.multiply(device, stream, weight, held, dtype, (pointer(y.data_ptr()), y.nbytes), workspace, biases, NONE)
    return y


def _selection(mlp: cuda.SparseMlp, kind: str, value: float, score: str, scale: Tensor | None, indices: Tensor | None) -> Any:
    if kind == "all":
        return None
    if kind == "indices":
        if indices is None or indices.dtype != torch.int32:
            raise DtypeError(f"indices: expected a tensor of torch.int32, got {None if indices is None else indices.dtype}")
        count = torch.full((1,), len(indices), dtype=torch.int32, device=indices.device)
        return cuda.Indices(pad(indices, (0, mlp.d_ff - len(indices))), count)
    return {"threshold": lambda: Threshold(value, score, scale), "top_k": lambda: TopK(int(value), score, scale)}[kind]()


@torch.library.impl("moray::sparse_mlp", "CUDA")
def sparse_mlp(x, mlp, kind, value, score, channel_scale, indices):
    host = live("mlp", SparseMlp, mlp)
    x = rows_of(x, host.d_model).detach()
    y = torch.empty_like(x)
    if x.numel() == 0:
        return y
    with torch.cuda.device(x.device):
        there, stream = _copy(host, x.device, _mlp), torch.cuda.current_stream().cuda_stream
        selection = _selection(there, kind, value, score, channel_scale, indices)
        kept, count = (torch.empty(size, dtype=torch.int32, device=x.device) for size in (host.d_ff, 1))
        # by as many tokens as calls may have, whatever this one has: results depend on it
        parts = zip(x.view(-1, host.d_model).split(cuda.MAX_TOKENS), y.view(-1, host.d_model).split(cuda.MAX_TOKENS))
        for part, out in parts:
            size = there.scratch(len(part), selection, dtype=_NAMES[x.dtype], out_dtype=_NAMES[x.dtype])
            workspace = torch.empty(size, dtype=torch.uint8, device=x.device)
            cuda.sparse_mlp(there, part, selection, out=out, workspace=workspace, kept=kept, kept_count=count, stream=stream)
    return y


@torch.library.impl("moray::by_input", "CUDA")
def by_input(x, weight, n, threshold, bias):
    host = live("weight", InputSparse, weight)
    plain = rows_of(x, host.k).detach().to(torch.float32)
    y = plain.new_empty((*x.shape[:-1], host.n))
    if x.numel():
        with torch.cuda.device(x.device):
            there, stream = _copy(host, x.device, _by_input), torch.cuda.current_stream().cuda_stream
            sizes = there.scratch(x.numel() // host.k)
            room = {
                "workspace": torch.empty(max(sizes.workspace, 16), dtype=torch.uint8, device=x.device),
                "counters": _zeros(x.device, stream, 4 * max(sizes.counters, 1)).view(torch.int32),
            }
            added = None if bias is None else bias.detach().to(torch.float32)
            cuda.by_input(there, plain, threshold, out=y, bias=added, stream=stream, **room)
    return y.to(x.dtype)
