"""Which neurons a call on a device computes, and the kernels that choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import _memory
from .._library import check, constant, ffi, lib
from .._memory import LONG_WORDS, WORDS
from .._numbers import whole
from ..errors import ShapeError
from ..selection import SCORES, Threshold, TopK
from ._arrays import Lender
from ._device import current, handle_of


@dataclass(frozen=True)
class Indices:
    """One list for every token: u32 [d_ff], strictly increasing as far as `count`, u32 [1], goes. Both are read when the kernels run."""

    list: Any
    count: Any


@dataclass(frozen=True)
class Masks:
    """A mask for each token: u64 [tokens, ⌈d_ff / 64⌉], neuron j bit j % 64 of word j / 64."""

    masks: Any


@dataclass(frozen=True)
class Union:
    """A list that every token shares, and a mask for each: a token computes what is in both."""

    list: Any
    count: Any
    masks: Any


#: A selection of a call on a device; `channel_scale` of the last two is in memory of the device.
Selection = Indices | Masks | Union | Threshold | TopK

_ALL = (lib.MORAY_SELECT_ALL, 0, _memory.NONE, _memory.NONE, _memory.NONE, _memory.NONE, 0.0, 0)


def fields(selection: Selection | None, tokens: int, d_model: int, d_ff: int, lender: Lender | None) -> tuple:
    """The `MorayCudaSelection` of C; without a lender, addresses are left out."""
    if selection is None:
        return _ALL
    listed, count, masks, scale = None, None, None, None
    score, threshold, k = "hidden", 0.0, 0
    match selection:
        case Indices(listed, count):
            kind = lib.MORAY_SELECT_LIST
        case Masks(masks):
            kind = lib.MORAY_SELECT_MASKS
        case Union(listed, count, masks):
            kind = lib.MORAY_SELECT_UNION
        case Threshold(threshold, score, scale):
            kind = lib.MORAY_SELECT_THRESHOLD
        case TopK(k, score, scale):
            kind = lib.MORAY_SELECT_TOP_K
        case _:
            raise TypeError(f"selection: expected one of moray.cuda's, Threshold or TopK, got {type(selection).__name__}")
    number = constant("score", SCORES, score)
    if lender is None:
        return kind, number, _memory.NONE, _memory.NONE, _memory.NONE, _memory.NONE, threshold, whole("k", k)
    scored = d_model if score == "input" else d_ff
    return (
        kind, number, lender.memory("list", listed, WORDS, (d_ff,)), lender.memory("count", count, WORDS, (1,)),
        lender.memory("masks", masks, LONG_WORDS, (tokens, -(-d_ff // 64))), lender.memory("channel_scale", scale, ("f32",), (scored,)),
        threshold, whole("k", k),
    )  # fmt: skip


def select(values: Any, keep: Threshold | TopK, *, masks: Any, stream: int = 0) -> Any:
    """Writes which values each token keeps, such as a predictor's scores of neurons, and returns `masks`.

    Args:
        values: f32 [tokens, n]; their size is the score, and what is NaN is not kept.
        keep: what is kept; its ``score`` is not looked at.
        masks: u64 [tokens, ⌈n / 64⌉], written.
        stream: as :func:`moray.cuda.linear`.

    Raises:
        LengthError, ShapeError, DtypeError, DeviceError: for arrays of other sizes, types and places.
        InvalidValueError: for a threshold that is not finite or below 0.
    """
    lender = Lender(stream)
    found = lender.view("values", values, ("f32",), (None, None))
    tokens, n = found.shape
    if isinstance(keep, Threshold):
        kind, threshold, k = lib.MORAY_SELECT_THRESHOLD, keep.threshold, 0
    elif isinstance(keep, TopK):
        kind, threshold, k = lib.MORAY_SELECT_TOP_K, 0.0, whole("k", keep.k)
    else:
        raise TypeError(f"keep: expected Threshold or TopK, got {type(keep).__name__}")
    scale = lender.memory("channel_scale", keep.channel_scale, ("f32",), (n,))
    written = lender.memory("masks", masks, LONG_WORDS, (tokens, -(-n // 64)))
    if tokens:
        name = "MorayCudaSelect"
        call = ffi.new(f"{name} *", (ffi.sizeof(name), kind, threshold, k, tokens, n, found.memory, n, scale, written))
        check(lib.moray_cuda_select(current(), handle_of(stream), call))
    return masks


def union(masks: Any, n: int, *, list: Any, count: Any, stream: int = 0) -> tuple[Any, Any]:
    """Lists what any token keeps, and returns `list` and `count`.

    Args:
        masks: u64 [tokens, ⌈n / 64⌉]; bits past `n` are 0.
        n: how many values a mask is of.
        list: u32 [n], written: strictly increasing as far as the count goes.
        count: u32 [1], written.
        stream: as :func:`moray.cuda.linear`.

    Raises:
        LengthError, ShapeError, DtypeError, DeviceError: for arrays of other sizes, types and places.
    """
    lender, n = Lender(stream), whole("n", n)
    found = lender.view("masks", masks, LONG_WORDS, (None, -(-n // 64)))
    if not found.shape[0]:
        raise ShapeError("masks: expected a token or more, got none")
    name = "MorayCudaUnion"
    call = ffi.new(f"{name} *", (
        ffi.sizeof(name), found.shape[0], n, found.memory, lender.memory("list", list, WORDS, (n,)), lender.memory("count", count, WORDS, (1,)),
    ))  # fmt: skip
    check(lib.moray_cuda_union(current(), handle_of(stream), call))
    return list, count
