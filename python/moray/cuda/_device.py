"""The context that calls go to, and what names a stream."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from .._library import check, ffi, lib
from ..errors import DeviceError

# In DLPack: the consumer asks for no order.
UNORDERED = -1

_STREAM = ffi.typeof("CUstream_st *")


def handle_of(stream: int) -> Any:
    """A stream as C has it, by the driver's handle."""
    return ffi.cast(_STREAM, stream)


# Handles by the numbers that the driver has of contexts, which no other context of the process ever has.
_DEVICES: dict[int, Any] = {}


def current() -> Any:
    """The `MorayCuda` of the context that is current to this thread.

    Raises:
        KernelsNotBuiltError: if the library was built without CUDA.
        DriverAbsentError: without a driver.
        DeviceError: if no context is current.
    """
    context, number = ctypes.c_void_p(), ctypes.c_uint64()
    driver = _driver()
    if driver.cuCtxGetCurrent(ctypes.byref(context)) or not context.value:
        raise DeviceError("context: expected a CUDA context that is current to the thread, got none")
    driver.cuCtxGetId(context, ctypes.byref(number))
    found = _DEVICES.get(number.value)
    if found is None:
        found = _DEVICES.setdefault(number.value, _open(context.value))
    return found


def number() -> int | None:
    """Which device the context is of that is current to this thread; None without one."""
    found = ctypes.c_int()
    return None if _driver().cuCtxGetDevice(ctypes.byref(found)) else found.value


def _open(context: int) -> Any:
    # kernels are unloaded with the process: a context may have gone before
    out = ffi.new("MorayCuda **")
    check(lib.moray_cuda_create(ffi.cast("CUctx_st *", context), out))
    return out[0]


_LOADED: list[Any] = []


def _driver() -> Any:
    if not _LOADED:
        try:
            _LOADED.append(ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"))
        except OSError:
            # the library says what is missing, of the two that may be
            _open(0)
            raise
    return _LOADED[0]
