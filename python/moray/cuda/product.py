"""W4A8 products of activations in floating point on a device, in one launch where they are of few tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import _memory
from .._library import check, constant, ffi, lib
from .._numbers import whole
from ..activations import SCALES
from ..quantized import DTYPES
from ..sparse_mlp import ACTIVATIONS
from ._arrays import Lender, tokens_of
from ._device import current, handle_of
from .linear import Weight


class Norm(NamedTuple):
    """RMSNorm of x: x / √(mean(x²) + eps) ⊙ weight."""

    #: f32 [K].
    weight: Any
    eps: float


class Gated(NamedTuple):
    """act(gate) ⊙ up of x [.., 2 · K], each token's gate before its up."""

    activation: str = "silu"


def product(
    weight: Weight,
    x: Any,
    *,
    out: Any,
    workspace: Any = None,
    source: Norm | Gated | None = None,
    gate: str | None = None,
    bias: Any = None,
    residual: Any = None,
    act_scales: str = "token",
    stream: int = 0,
) -> Any:
    """Puts y[m, n] = act_scale · (codes · wᵀ) + bias[n] + residual[m, n] on a stream, where codes are those of x, and returns `out`. Up to 4 tokens are
    quantized in the product's own launch where that is faster. The bits are those of :func:`moray.cuda.linear`.

    Args:
        weight: w[N, K].
        x: f32, f16 or bf16 [.., K].
        out: where y goes, [.., N] in f32, f16 or bf16; with a gate [.., N / 2].
        workspace: u8, as many bytes as :func:`product_scratch` says, or more; calls that may run at once have one each.
        source: what is quantized: x as it is, its RMSNorm, or act(gate) ⊙ up of x [.., 2 · K].
        gate: ``"silu"`` or ``"relu"``: y = act(g) ⊙ u, where g and u are the first and the second half of these outputs, N being a multiple of 32; of up
            to 4 tokens of at most 16384 features together, without a residual and of another source than :class:`Gated`. None: the outputs themselves.
        bias: f32 [N].
        residual: [.., N], of y's type and apart from it.
        act_scales: ``"token"`` or ``"fine"``, see :class:`moray.Activations`.
        stream: as :func:`moray.cuda.linear`.

    Raises:
        LengthError, ShapeError: for arrays of other sizes.
        DtypeError, DeviceError: for arrays of other types and places.
        UnsupportedError: for a gate that does not go with the source or a residual.
        OverlapError: if what is written overlaps what is read.
    """
    lender = Lender(stream)
    found = lender.rows("x", x, tuple(DTYPES), 2 * weight.k if isinstance(source, Gated) else weight.k)
    lead = found.shape[:-1]
    y = lender.view("out", out, tuple(DTYPES), (*lead, weight.n if gate is None else weight.n // 2))
    if not found.bytes:
        return out
    norm = lender.memory("norm", source.weight, ("f32",), (weight.k,)) if isinstance(source, Norm) else _memory.NONE
    memory = [
        found.memory, norm, lender.memory("bias", bias, ("f32",), (weight.n,)),
        lender.memory("residual", residual, (y.dtype,), (*lead, weight.n)), y.memory, lender.memory("workspace", workspace, ("u8",)),
    ]  # fmt: skip
    call = _call(weight, tokens_of(found), (y.dtype, found.dtype), source, gate, act_scales, memory)
    check(lib.moray_cuda_product(current(), handle_of(stream), call))
    return out


def product_scratch(
    weight: Weight,
    m: int,
    *,
    source: Norm | Gated | None = None,
    gate: str | None = None,
    act_scales: str = "token",
    dtype: str = "f32",
    x_dtype: str = "f32",
) -> int:
    """Loads the kernels of a product of `m` tokens, which a capture could not, and says how many bytes its workspace needs: zeros before the first
    call, good for any weight's product of as many tokens or fewer after each."""
    size = ffi.new("size_t *")
    call = _call(weight, whole("m", m), (dtype, x_dtype), source, gate, act_scales, [_memory.NONE] * 6)
    check(lib.moray_cuda_product_prepare(current(), call, size))
    return size[0]


def _call(
    weight: Weight, m: int, dtypes: tuple[str, str], source: Norm | Gated | None, gate: str | None, act_scales: str, memory: list
) -> Any:
    """x, norm, bias, residual, y and workspace."""
    activation, eps = gate or "silu", 0.0
    match source:
        case None:
            kind = lib.MORAY_SOURCE_PLAIN
        case Norm(_, eps):
            kind = lib.MORAY_SOURCE_RMS_NORM
        case Gated(activation):
            kind = lib.MORAY_SOURCE_GATED
        case _:
            raise TypeError(f"source: expected moray.cuda's Norm, Gated or None, got {type(source).__name__}")
    x, norm, bias, residual, y, workspace = memory
    name, (dtype, x_dtype) = "MorayCudaProduct", (constant("dtype", DTYPES, dtype) for dtype in dtypes)
    return ffi.new(f"{name} *", (
        ffi.sizeof(name), dtype, x_dtype, kind, constant("act_scales", SCALES, act_scales), int(gate is not None),
        constant("activation", ACTIVATIONS, activation), eps, m, weight._weight, x, norm, bias, residual, y, workspace,
    ))  # fmt: skip
