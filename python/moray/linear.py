"""The multiplication."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _memory
from ._library import check, constant, ffi, lib
from .activations import SCALES, SCRATCH, Activations
from ._numbers import range_of
from .cpu import Cpu, shared
from .errors import DtypeError, LengthError, ShapeError
from .quantized import DTYPES
from .weight import Weight

_NUMPY = {"f32": np.float32, "f16": np.float16}


def linear(
    weight: Weight,
    x: Any,
    *,
    bias: Any = None,
    residual: Any = None,
    out: Any = None,
    rows: tuple[int, int] | None = None,
    act_scales: str = "token",
    cpu: Cpu | None = None,
) -> Any:
    """Computes y[m, n] = act_scale · (codes · wᵀ) + bias[n] + residual[m, n], and returns y.

    Products and sums are exact integers inside a group, groups are added in f32 in a fixed order: the bits depend neither on threads
    nor on M, on ranges or on the instruction set. Other Python threads run meanwhile.

    Args:
        weight: w[N, K].
        x: f32, f16 or bf16 [.., K], or :class:`Activations` of M tokens.
        bias: f32 [N].
        residual: [.., N], of y's type and apart from it.
        out: where y goes, [.., N] in f32, f16 or bf16; without it y is a new numpy array of x's type, f32 for Activations.
        rows: the first output feature that is computed and one past the last, multiples of 16 or N; others of `out` are not touched.
        act_scales: ``"token"`` or ``"fine"``, see :class:`Activations`; of no meaning where x is one.
        cpu: where it runs; all cores without it.

    Raises:
        LengthError, ShapeError: for arrays of other sizes.
        DtypeError: for other element types.
        OutOfRangeError: for rows past N.
        OverlapError: if `out` overlaps what is read.
    """
    cpu = cpu or shared()
    if isinstance(x, Activations):
        return _multiply(weight, x, (x.m,), "f32", bias, residual, out, rows, cpu)
    found = _memory.view("x", x, tuple(DTYPES))
    if not found.shape or found.shape[-1] != weight.k:
        raise LengthError(f"x: expected {weight.k} features in its last dimension, got shape {list(found.shape)}")
    lead = found.shape[:-1]
    tokens = found.bytes // (_memory.SIZES[found.dtype] * weight.k)
    constant("act_scales", SCALES, act_scales)
    if not tokens:
        return _multiply(weight, None, lead, found.dtype, bias, residual, out, rows, cpu)
    scratch = SCRATCH[act_scales]
    activations = scratch.take(tokens, weight.k)
    try:
        order = None if weight.order is None else _memory.view("order", weight.order, ("u32",))
        activations.quantize_view(found, order, cpu)
        return _multiply(weight, activations, lead, found.dtype, bias, residual, out, rows, cpu)
    finally:
        scratch.give(activations)


def _multiply(
    weight: Weight, x: Activations | None, lead: tuple[int, ...], dtype: str, bias: Any, residual: Any, out: Any,
    rows: tuple[int, int] | None, cpu: Cpu,
) -> Any:  # fmt: skip
    if out is None:
        if rows is not None:
            raise ShapeError(f"out: expected an array for the rows {rows}, got none: others have no value")
        if dtype not in _NUMPY:
            raise DtypeError(f"out: expected an array to write, as numpy has no {dtype}, got none")
        out = np.empty((*lead, weight.n), _NUMPY[dtype])
    y = _memory.view("out", out, tuple(DTYPES), (*lead, weight.n), writable=True)
    biases = _memory.optional("bias", bias, ("f32",), (weight.n,))
    added = _memory.optional("residual", residual, (y.dtype,), y.shape)
    begin, end = (0, weight.n) if rows is None else range_of("rows", rows, weight.n)
    if x is None:
        # no tokens
        return out
    call = ffi.new("MorayLinear *", (
        ffi.sizeof("MorayLinear"), DTYPES[y.dtype], weight.handle, x.handle, _memory.memory(biases), _memory.memory(added), y.memory,
        begin, end,
    ))  # fmt: skip
    check(lib.moray_linear(cpu.handle, call))
    return out
