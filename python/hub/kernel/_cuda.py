"""W4A8 products of CUDA tensors: in torch's memory and on its current stream, also while a graph is captured."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor

from . import _abi
from ._library import DTYPES, NONE, MorayError, check, lib

_BYTES = {name: ctypes.sizeof(getattr(_abi, name)) for name in ("MorayCudaQuantize", "MorayCudaLinear")}

# Handles by the numbers that the driver has of contexts, which no other context of the process ever has.
_DEVICES: Dict[int, ctypes.c_void_p] = {}
# Zeros that products leave as zeros, by device and stream: calls on one stream do not run at once.
_ZEROS: Dict[Tuple[int, int], Tensor] = {}


def _device() -> Any:
    """The handle of the context that is current to this thread, whose kernels stay loaded with the process."""
    driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    context, number = ctypes.c_void_p(), ctypes.c_uint64()
    if driver.cuCtxGetCurrent(ctypes.byref(context)) or not context.value:
        raise MorayError("context: expected a CUDA context that is current to the thread, got none")
    driver.cuCtxGetId(context, ctypes.byref(number))
    found = _DEVICES.get(number.value)
    if found is None:
        found = ctypes.c_void_p()
        check(lib.moray_cuda_create(context, ctypes.byref(found)))
        found = _DEVICES.setdefault(number.value, found)
    return found


def _memory(what: str, tensor: Optional[Tensor], dtype: torch.dtype, device: torch.device) -> Any:
    if tensor is None:
        return NONE
    if tensor.dtype != dtype:
        raise MorayError(f"{what}: expected elements of {dtype}, got {tensor.dtype}")
    if tensor.device != device:
        raise MorayError(f"{what}: expected memory of {device}, got {tensor.device}")
    if not tensor.is_contiguous():
        raise MorayError(f"{what}: expected contiguous elements, got shape {list(tensor.shape)} with strides {tensor.stride()}")
    return _abi.MorayBytes(tensor.data_ptr(), tensor.nbytes)


def _zeros(device: torch.device, stream: int, size: int) -> Tensor:
    """Bytes of zeros for a product on a stream. What a graph captures is the graph's own memory, and so are its zeros."""
    if torch.cuda.is_current_stream_capturing():
        return torch.zeros(size, dtype=torch.uint8, device=device)
    found = _ZEROS.get((device.index, stream))
    if found is None or found.nbytes < size:
        found = _ZEROS[device.index, stream] = torch.zeros(size, dtype=torch.uint8, device=device)
    return found


def w4a8_linear(
    x: Tensor, y: Tensor, parts: Sequence[Tuple[str, Optional[Tensor]]], bias: Optional[Tensor], n: int, k: int, format: Sequence[int],
    scales: int,
) -> None:  # fmt: skip
    """Puts y = x · wᵀ + bias on torch's current stream; x and y are contiguous, of one type and device, and not empty."""
    dtype, m, device = DTYPES[x.dtype], x.numel() // k, x.device
    sections = _abi.MoraySections(*(_memory(what, part, torch.uint8, device) for what, part in parts))
    biases = _memory("bias", bias, torch.float32, device)
    with torch.cuda.device(device):
        handle, stream = _device(), torch.cuda.current_stream().cuda_stream
        size, none = ctypes.c_size_t(), _abi.MorayBytesMut(None, 0)
        held = _abi.MorayCudaActivations(m, k, scales, none)
        quantize = _abi.MorayCudaQuantize(
            _BYTES["MorayCudaQuantize"], _abi.MORAY_SOURCE_PLAIN, dtype, 0, 0.0, _abi.MorayBytes(x.data_ptr(), x.nbytes), NONE, held,
        )  # fmt: skip
        check(lib.moray_cuda_quantize_prepare(handle, ctypes.byref(quantize), ctypes.byref(size)))
        tokens = torch.empty(size.value, dtype=torch.uint8, device=device)
        held.memory = quantize.out.memory = _abi.MorayBytesMut(tokens.data_ptr(), tokens.nbytes)
        weight = _abi.MorayCudaWeight(n, k, _abi.MorayFormat(*format), _abi.MORAY_LAYOUT_VERSION, sections)
        product = _abi.MorayCudaLinear(
            _BYTES["MorayCudaLinear"], dtype, weight, held, biases, NONE, _abi.MorayBytesMut(y.data_ptr(), y.nbytes), none,
        )  # fmt: skip
        check(lib.moray_cuda_linear_prepare(handle, ctypes.byref(product), ctypes.byref(size)))
        if size.value:
            zeros = _zeros(device, stream, size.value)
            product.workspace = _abi.MorayBytesMut(zeros.data_ptr(), zeros.nbytes)
        check(lib.moray_cuda_quantize(handle, stream, ctypes.byref(quantize)))
        check(lib.moray_cuda_linear(handle, stream, ctypes.byref(product)))
