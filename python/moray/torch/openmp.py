"""Where torch's own OpenMP runtime is. The kernel for the Hugging Face Hub has this file too, so that it imports torch and the standard library alone."""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path
from typing import Optional

import torch

_RUNTIME = re.compile(r"/lib(?:gomp|iomp5|omp)\b[^/]*\.so[^/]*$")


@functools.cache
def parallel() -> Optional[int]:
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
