"""The threads that operators work on: those of torch's own OpenMP runtime, where it can be found, so that no others wait for its cores."""

from __future__ import annotations

import ctypes
import functools
import os
import re
from pathlib import Path

import torch

from ..cpu import Cpu, shared

_RUNTIME = re.compile(r"/lib(?:gomp|iomp5|omp)\b[^/]*\.so[^/]*$")


@functools.cache
def _parallel() -> int | None:
    """The address of `GOMP_parallel` in the runtime that torch works with; None where there is none, or more than one may be it."""
    maps = Path("/proc/self/maps")
    if not maps.exists() or "OpenMP" not in torch.__config__.parallel_info().partition("ATen parallel backend:")[2]:
        return None
    lines = (line.rstrip() for line in maps.read_text(encoding="utf-8", errors="replace").splitlines())
    loaded = {line[line.index("/") :] for line in lines if "/" in line and _RUNTIME.search(line)}
    # a wheel of torch brings its own, beside which other packages may have theirs
    home = str(Path(torch.__file__).resolve().parent)
    own = {path for path in loaded if path.startswith(home)} or loaded
    if len(own) != 1:
        return None
    try:
        return ctypes.cast(ctypes.CDLL(own.pop()).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


_MADE: dict[int, Cpu] = {}
# Whether the process has been forked off one whose runtime had threads, which are not here.
_FORKED: list[bool] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _FORKED.append(True))


def cpu() -> Cpu:
    """The device of as many threads as torch has, whose results have the same bits on any threads."""
    threads = torch.get_num_threads()
    found = _MADE.get(threads)
    if found is None:
        parallel = None if _FORKED else _parallel()
        found = _MADE.setdefault(threads, shared(threads) if parallel is None or threads == 1 else Cpu(threads, openmp=parallel))
    return found
