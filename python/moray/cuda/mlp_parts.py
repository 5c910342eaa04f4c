"""The parts of the sparse MLP on a device."""

from __future__ import annotations

from typing import Any

from .. import _memory
from .._library import check, constant, ffi, lib
from .._memory import LONG_WORDS, WORDS
from .._numbers import whole
from ..errors import LengthError
from ..quantized import DTYPES
from ._arrays import Lender, tokens_of
from ._device import current, handle_of
from .selection import Indices, Masks, Union
from .sparse_mlp import MAX_TOKENS, SparseMlp

#: The neurons of a part; None for all.
Neurons = Indices | Masks | Union | None


def _neurons(neurons: Neurons, tokens: int, d_ff: int, lender: Lender) -> tuple[Any, Any, Any]:
    """List, count and masks."""
    match neurons:
        case None:
            listed, count, masks = None, None, None
        case Indices(listed, count):
            masks = None
        case Masks(masks):
            listed, count = None, None
        case Union(listed, count, masks):
            pass
        case _:
            raise TypeError(f"neurons: expected moray.cuda's Indices, Masks, Union or None, got {type(neurons).__name__}")
    return (
        lender.memory("list", listed, WORDS, (d_ff,)), lender.memory("count", count, WORDS, (1,)),
        lender.memory("masks", masks, LONG_WORDS, (tokens, -(-d_ff // 64))),
    )  # fmt: skip


def _gate_up(mlp: SparseMlp, kind: int, is_given: bool, neurons: tuple, tokens: int, max_tokens: int, memory: list) -> Any:
    name = "MorayCudaMlpGateUp"
    return ffi.new(f"{name} *", (ffi.sizeof(name), kind, int(is_given), mlp._weights, *neurons, tokens, max_tokens, *memory))


def _down(mlp: SparseMlp, kind: int, neurons: tuple, tokens: int, max_tokens: int, memory: list) -> Any:
    name = "MorayCudaMlpDown"
    return ffi.new(f"{name} *", (ffi.sizeof(name), kind, mlp._weights, *neurons[:2], tokens, max_tokens, *memory))


def parts_scratch(mlp: SparseMlp, tokens: int, *, max_tokens: int = MAX_TOKENS, dtype: str = "f32", out_dtype: str = "f32") -> int:
    """Loads the kernels of :func:`gate_up` and :func:`down` of so many tokens, which a capture could not, and says how many bytes their workspace
    needs.

    Args:
        dtype, out_dtype: of x and of y.
    """
    none, size = [_memory.NONE] * 4, ffi.new("size_t *")
    kinds = constant("dtype", DTYPES, dtype), constant("out_dtype", DTYPES, out_dtype)
    tokens, max_tokens = whole("tokens", tokens), whole("max_tokens", max_tokens)
    check(lib.moray_cuda_mlp_gate_up_prepare(current(), _gate_up(mlp, kinds[0], False, tuple(none[:3]), tokens, max_tokens, none), size))
    check(lib.moray_cuda_mlp_down_prepare(current(), _down(mlp, kinds[1], tuple(none[:3]), tokens, max_tokens, none), size))
    return size[0]


def gate_up(
    mlp: SparseMlp,
    x: Any,
    neurons: Neurons = None,
    *,
    gate: Any,
    hidden: Any = None,
    gate_is_given: bool = False,
    workspace: Any,
    max_tokens: int = MAX_TOKENS,
    stream: int = 0,
) -> None:
    """Puts act(gate · x) and its product with up · x for the neurons of a list, or all, on a stream: the first part of
    :func:`moray.cuda.sparse_mlp`, with its bits.

    A selection by scores is: the gate of all neurons, :func:`moray.cuda.select`, :func:`moray.cuda.union`, and ``hidden`` of a
    :class:`moray.cuda.Union` of the two with the gate given.

    Args:
        x: f32, f16 or bf16 [.., d_model], of 1 to `max_tokens` tokens.
        gate: f32 [tokens, :attr:`SparseMlp.stride`], written by position in the list, or read by neuron with `gate_is_given`.
        hidden: the same by position in the list, written; None for the gate alone.
        workspace: u8, :func:`parts_scratch` bytes or more; what :func:`down` reads besides `hidden` is left there.
        max_tokens, stream: as :func:`moray.cuda.sparse_mlp`.

    Raises:
        LengthError, ShapeError: for arrays of other sizes, and for more tokens.
        DtypeError, DeviceError: for arrays of other types and places.
        NullError: if there would be nothing to compute.
        OverlapError: if what is written overlaps what is read.
    """
    lender = Lender(stream)
    found = lender.rows("x", x, tuple(DTYPES), mlp.d_model)
    tokens = tokens_of(found)
    if not tokens:
        return
    shape = (tokens, mlp.stride)
    memory = [
        found.memory, lender.memory("gate", gate, ("f32",), shape), lender.memory("hidden", hidden, ("f32",), shape),
        lender.memory("workspace", workspace, ("u8",)),
    ]  # fmt: skip
    call = _gate_up(mlp, DTYPES[found.dtype], gate_is_given, _neurons(neurons, tokens, mlp.d_ff, lender), tokens, max_tokens, memory)
    check(lib.moray_cuda_mlp_gate_up(current(), handle_of(stream), call))


def down(
    mlp: SparseMlp,
    hidden: Any,
    neurons: Neurons = None,
    *,
    out: Any,
    workspace: Any,
    residual: Any = None,
    max_tokens: int = MAX_TOKENS,
    stream: int = 0,
) -> Any:
    """Puts y = down(hidden) + residual on a stream, and returns `out`: the last part of :func:`moray.cuda.sparse_mlp`, with its bits.

    Args:
        hidden: what one :func:`gate_up` with the same neurons, `max_tokens` and workspace has made, or values of smaller sizes, as by a mask.
        out: where y goes, [.., d_model] in f32, f16 or bf16.
        workspace: that of the :func:`gate_up`, which nothing else has used since; each is followed by one :func:`down`.
        residual, max_tokens, stream: as :func:`moray.cuda.sparse_mlp`.

    Raises:
        As :func:`gate_up`.
    """
    lender = Lender(stream)
    found = lender.rows("hidden", hidden, ("f32",), mlp.stride)
    tokens = tokens_of(found)
    y = lender.rows("out", out, tuple(DTYPES), mlp.d_model)
    if tokens_of(y) != tokens:
        raise LengthError(f"out: expected {tokens} tokens, as hidden has, got shape {list(y.shape)}")
    if not tokens:
        return out
    memory = [
        found.memory, lender.memory("residual", residual, (y.dtype,), y.shape), y.memory, lender.memory("workspace", workspace, ("u8",)),
    ]  # fmt: skip
    call = _down(mlp, DTYPES[y.dtype], _neurons(neurons, tokens, mlp.d_ff, lender), tokens, max_tokens, memory)
    check(lib.moray_cuda_mlp_down(current(), handle_of(stream), call))
    return out
