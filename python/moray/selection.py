"""Which neurons a call of the sparse MLP computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _memory
from ._library import constant, constants, ffi, lib
from ._numbers import u32_list, whole
from .errors import NotIncreasingError

SCORES = constants("MORAY_SCORE_")


@dataclass(frozen=True)
class Indices:
    """One list for every token: u32 [count], strictly increasing, below d_ff. A Python list is copied."""

    list: Any


@dataclass(frozen=True)
class Masks:
    """A mask for each token: bool [tokens, d_ff], or its bits u64 [tokens, ⌈d_ff / 64⌉], neuron j bit j % 64 of word j / 64."""

    masks: Any


@dataclass(frozen=True)
class Union:
    """A list that every token shares, and a mask for each: a token computes what is in both."""

    list: Any
    masks: Any


@dataclass(frozen=True)
class Threshold:
    """Each token keeps what scores above a threshold, which is finite and at least 0.

    `score` is of what the size counts: ``"input"`` |x[i]| (an input that is not kept counts as zero), ``"gate"`` |act(gate[j] · x)| or
    ``"hidden"`` |act(gate[j] · x) · (up[j] · x)|. `channel_scale`, f32 [d_ff] ([d_model] for inputs) or None, multiplies it.
    """

    threshold: float
    score: str = "hidden"
    channel_scale: Any = None


@dataclass(frozen=True)
class TopK:
    """Each token keeps the `k` highest scores, see :class:`Threshold`; the lower index first where scores are equal."""

    k: int
    score: str = "hidden"
    channel_scale: Any = None


Selection = Indices | Masks | Union | Threshold | TopK


def indices(what: str, values: Any) -> _memory.View:
    """u32 of an array, or of a Python list."""
    if isinstance(values, (list, tuple, range)):
        values = u32_list(what, values, NotIncreasingError)
    return _memory.view(what, values, ("u32",), (None,))


def _words(masks: Any, n: int) -> _memory.View:
    found = _memory.view("masks", masks, ("u64", "bool"), (None, None))
    if found.dtype == "u64":
        return found
    _memory.check_shape("masks", found.shape, (None, n))
    tokens, d_ff = found.shape
    plain = np.frombuffer(ffi.buffer(found.address, found.bytes), np.uint8).reshape(tokens, d_ff)
    padded = np.zeros((tokens, -(-d_ff // 64) * 8), np.uint8)
    bits = np.packbits(plain, axis=1, bitorder="little")
    padded[:, : bits.shape[1]] = bits
    return _memory.view("masks", padded.view("<u8"), ("u64",))


def handle(selection: Selection | None, n: int) -> tuple[Any, Any]:
    """The `MoraySelection` of C of `n` neurons, null for all of them, and what has to live during the call."""
    if selection is None:
        return ffi.NULL, None
    listed, masks, scale = None, None, None
    score, threshold, k = 0, 0.0, 0
    match selection:
        case Indices(values):
            kind, listed = lib.MORAY_SELECT_LIST, indices("list", values)
        case Masks(values):
            kind, masks = lib.MORAY_SELECT_MASKS, _words(values, n)
        case Union(values, masks):
            kind, listed, masks = lib.MORAY_SELECT_UNION, indices("list", values), _words(masks, n)
        case Threshold(threshold, score, scale):
            kind = lib.MORAY_SELECT_THRESHOLD
        case TopK(k, score, scale):
            kind = lib.MORAY_SELECT_TOP_K
        case _:
            raise TypeError(f"selection: expected one of moray's, got {type(selection).__name__}")
    score = constant("score", SCORES, score) if isinstance(score, str) else 0
    scale = _memory.optional("channel_scale", scale, ("f32",), (None,))
    parts = (
        ffi.sizeof("MoraySelection"), kind, _memory.memory(listed), _memory.memory(masks), score, threshold, whole("k", k),
        _memory.memory(scale),
    )  # fmt: skip
    return ffi.new("MoraySelection *", parts), (listed, masks, scale)
