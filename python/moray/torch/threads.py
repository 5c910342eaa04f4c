"""The threads that operators work on: those of torch's own OpenMP runtime, where it can be found, so that no others wait for its cores."""

from __future__ import annotations

import os

import torch

from ..cpu import Cpu, shared
from .openmp import parallel

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
        place = None if _FORKED else parallel()
        found = _MADE.setdefault(threads, shared(threads) if place is None or threads == 1 else Cpu(threads, openmp=place))
    return found
