"""The shared library beside this file, its handles, and how its refusals become exceptions."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from . import _abi
from ._openmp import parallel

DTYPES = {torch.float32: _abi.MORAY_F32, torch.float16: _abi.MORAY_F16, torch.bfloat16: _abi.MORAY_BF16}
NONE = _abi.MorayBytes(None, 0)


class MorayError(ValueError):
    """A refusal or a failure. Its text names the argument, what was expected and what was found."""


def _load() -> Any:
    return _abi.declare(ctypes.CDLL(str(next(Path(__file__).parent.glob("libmoray_c.*")))))


lib = _load()


def check(status: int) -> None:
    """Raises what a status stands for."""
    if status:
        raise MorayError(lib.moray_last_error().decode())


class Handle:
    """Owns an object of the library, which ends with it."""

    def __init__(self, end: Any, make: Any, *arguments: Any) -> None:
        #: Where the object is.
        self.address = ctypes.c_void_p()
        check(make(*arguments, ctypes.byref(self.address)))
        self._end = weakref.finalize(self, end, self.address)
        self._end.atexit = False

    def abandon(self) -> None:
        """Leaves the object as it is for ever."""
        self._end.detach()


def memory(what: str, tensor: Optional[Tensor], dtypes: Sequence[torch.dtype], kind: Any = _abi.MorayBytes) -> Any:
    """A tensor of the CPU as memory of the C ABI, and none for None; it has to live until the call returns."""
    if tensor is None:
        return kind(None, 0)
    if tensor.dtype not in dtypes:
        raise MorayError(f"{what}: expected elements of {' or '.join(map(str, dtypes))}, got {tensor.dtype}")
    if tensor.device.type != "cpu":
        raise MorayError(f"{what}: expected memory of the CPU, got {tensor.device}")
    if not tensor.is_contiguous():
        raise MorayError(f"{what}: expected contiguous elements, got shape {list(tensor.shape)} with strides {tensor.stride()}")
    return kind(tensor.data_ptr(), tensor.nbytes)


_CPUS: Dict[int, Handle] = {}
_MAKING = threading.Lock()
# Whether the process has been forked off one whose OpenMP runtime had threads, which are not here.
_FORKED: List[bool] = []


def _make(threads: int) -> Handle:
    """A device on the threads of torch's own OpenMP runtime where it can be found, so that no others wait for its cores; else on the library's."""
    place = None if threads == 1 or _FORKED else parallel()
    if place is None:
        return Handle(lib.moray_cpu_destroy, lib.moray_cpu_create, threads, _abi.MORAY_ARCH_NATIVE)
    return Handle(lib.moray_cpu_destroy, lib.moray_cpu_create_openmp, threads, place, _abi.MORAY_ARCH_NATIVE)


def cpu() -> Any:
    """The device of as many threads as torch has, made when it is first asked for."""
    threads = torch.get_num_threads()
    found = _CPUS.get(threads)
    if found is None:
        with _MAKING:
            found = _CPUS.get(threads)
            if found is None:
                found = _CPUS[threads] = _make(threads)
    return found.address


def _after_fork() -> None:
    """Forgets the devices of the parent process, whose threads are not in this one."""
    global _MAKING
    _MAKING = threading.Lock()
    _FORKED.append(True)
    for device in _CPUS.values():
        device.abandon()
    _CPUS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Workspaces:
    """What calls work in: as many as threads have ever been in a call at once, each for the most that it has seen."""

    def __init__(self, end: Any, make: Any, *first: Any) -> None:
        self._free: List[Tuple[Tuple[int, ...], Handle]] = []
        self._end, self._make, self._first = end, make, first

    def take(self, *sizes: int) -> Tuple[Tuple[int, ...], Handle]:
        """One of at least these sizes, that no other call has meanwhile; to be given back."""
        try:
            found = self._free.pop()
        except IndexError:
            return sizes, Handle(self._end, self._make, *self._first, *sizes)
        if all(size <= room for size, room in zip(sizes, found[0])):
            return found
        most = tuple(map(max, sizes, found[0]))
        return most, Handle(self._end, self._make, *self._first, *most)

    def give(self, workspace: Tuple[Tuple[int, ...], Handle]) -> None:
        """Takes it back."""
        self._free.append(workspace)


lib_version = lib.moray_version().decode()
check(lib.moray_init(_abi.MORAY_ABI_VERSION))
