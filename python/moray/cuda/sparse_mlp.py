"""The sparse MLP on a device."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np

from .. import _memory
from .._library import check, constant, ffi, lib
from .._memory import WORDS
from .._numbers import whole
from ..errors import LengthError, NullError
from ..quantized import DTYPES
from ..selection import Threshold, TopK
from ..sparse_mlp import SparseMlp as Host
from ._arrays import Lender, tokens_of
from ._device import UNORDERED, current, handle_of
from .selection import Masks, Selection, fields

#: The most tokens of a call.
MAX_TOKENS = 512

_MATRICES, _PARTS = ("gate", "up", "down"), ("rows", "scales", "bias")


def _sizes(mlp: Host) -> Any:
    out = ffi.new("MorayCudaMlpWeights *")
    check(lib.moray_cuda_mlp_sizes(mlp.handle, out))
    return out


def _parts(weights: Any) -> list[tuple[str, Any, str]]:
    return [(f"{matrix}_{part}", getattr(weights, matrix), part) for matrix in _MATRICES for part in _PARTS]


class SparseMlp:
    """The weights of a gated MLP in device memory: what :meth:`sections` gives, copied there as it is.

    Args:
        sections: u8 tensors of a CUDA device by name, which are kept.
        mlp: the weights on the CPU, which say what they are; they are not kept.

    Raises:
        LengthError: for sections of other sizes.
        DeviceError: for memory of another device or kind of device.
        UnsupportedError, ShapeError, KernelsNotBuiltError: as :meth:`sections`.
    """

    def __init__(self, sections: Mapping[str, Any], mlp: Host) -> None:
        described = _sizes(mlp)
        self.d_model, self.d_ff = mlp.d_model, mlp.d_ff
        # whoever copied them there has ordered that with the streams of later calls
        lender, parts = Lender(UNORDERED), {}
        for name, matrix, part in _parts(described):
            size = getattr(matrix, part).bytes
            given = sections.get(name)
            if size and given is None:
                raise LengthError(f"{name}: expected {size} bytes, got none")
            parts[name] = lender.memory(name, given, ("u8",), (size,)) if size else _memory.NONE
        self._owners = lender
        #: Values of a token in what :func:`moray.cuda.gate_up` writes: d_ff rounded up to 32.
        self.stride: int = -(-mlp.d_ff // 32) * 32
        shape = described.shape
        self._weights = (
            (shape.d_model, shape.d_ff, shape.activation), described.format,
            *((*(parts[f"{name}_{part}"] for part in _PARTS), getattr(described, name).group_size, getattr(described, name).offset)
              for name in _MATRICES),
        )  # fmt: skip

    @staticmethod
    def sections(mlp: Host) -> dict[str, np.ndarray]:
        """The weights in the order in which devices read them, to be copied there: u8 arrays by name, those that the format has.

        Raises:
            UnsupportedError: for weights in f32.
            ShapeError: unless d_model is a multiple of 8.
            KernelsNotBuiltError: if the library was built without CUDA.
        """
        described, made = _sizes(mlp), {}
        for name, matrix, part in _parts(described):
            place = getattr(matrix, part)
            if place.bytes:
                made[name] = np.empty(place.bytes, np.uint8)
                place.data = ffi.from_buffer(made[name])
        check(lib.moray_cuda_mlp_pack(mlp.handle, described))
        return made

    def scratch(
        self, tokens: int, selection: Selection | None = None, *, max_tokens: int = MAX_TOKENS, dtype: str = "f32", out_dtype: str = "f32",
    ) -> int:  # fmt: skip
        """Loads the kernels of a call of so many tokens, which a capture could not, and says how many bytes ``workspace`` needs.

        Args:
            selection: one of the kind that calls have; its arrays are not looked at.
            dtype, out_dtype: of x and of y.
        """
        kinds = constant("dtype", DTYPES, dtype), constant("out_dtype", DTYPES, out_dtype)
        tokens, max_tokens = whole("tokens", tokens), whole("max_tokens", max_tokens)
        chosen, size = fields(selection, tokens, self.d_model, self.d_ff, None), ffi.new("size_t *")
        none = [_memory.NONE] * 6
        check(lib.moray_cuda_mlp_prepare(current(), self._call(kinds, chosen, tokens, max_tokens, none), size))
        return size[0]

    def _call(self, kinds: tuple[int, int], selection: tuple, tokens: int, max_tokens: int, memory: list) -> Any:
        name = "MorayCudaMlp"
        return ffi.new(f"{name} *", (ffi.sizeof(name), *kinds, self._weights, selection, tokens, max_tokens, *memory))

    def __repr__(self) -> str:
        return f"SparseMlp(d_model={self.d_model}, d_ff={self.d_ff})"


def _lists(selection: Selection | None) -> bool:
    """Whether a call lists what any token keeps."""
    return isinstance(selection, Masks) or isinstance(selection, (Threshold, TopK)) and selection.score != "input"


def sparse_mlp(
    mlp: SparseMlp,
    x: Any,
    selection: Selection | None = None,
    *,
    out: Any,
    workspace: Any,
    residual: Any = None,
    kept: Any = None,
    kept_count: Any = None,
    max_tokens: int = MAX_TOKENS,
    stream: int = 0,
) -> Any:
    """Puts y = down(act(gate · x) ∘ (up · x)) + residual over the neurons that the selection keeps of each token on a stream, and returns `out`.

    Only rows of neurons that a token keeps are read. Selections have the CPU's bits for the same values; sums have an order of their own.

    Args:
        x: f32, f16 or bf16 [.., d_model], of 1 to `max_tokens` tokens.
        selection: which neurons; None for all.
        out: where y goes, [.., d_model] in f32, f16 or bf16.
        workspace: u8, :meth:`SparseMlp.scratch` bytes or more; calls that may run at once have one each.
        residual: of y's shape and type, and apart from it.
        kept, kept_count: u32 [d_ff] and u32 [1]: where the call lists the neurons that any token keeps, after masks and after scores on the gate
            or the product, which need them.
        max_tokens: the most tokens of the calls that share the workspace, 1 to 512; results depend on it.
        stream: as :func:`moray.cuda.linear`.

    Raises:
        LengthError, ShapeError: for arrays of other sizes, and for more tokens.
        DtypeError, DeviceError: for arrays of other types and places.
        InvalidValueError: for a threshold.
        NullError: for arrays that the selection needs.
        OverlapError: if what is written overlaps what is read.
    """
    lender = Lender(stream)
    found = lender.rows("x", x, tuple(DTYPES), mlp.d_model)
    y = lender.view("out", out, tuple(DTYPES), found.shape)
    tokens = tokens_of(found)
    if not tokens:
        return out
    memory = [
        found.memory, lender.memory("residual", residual, (y.dtype,), y.shape), y.memory, lender.memory("kept", kept, WORDS, (mlp.d_ff,)),
        lender.memory("kept_count", kept_count, WORDS, (1,)), lender.memory("workspace", workspace, ("u8",)),
    ]  # fmt: skip
    chosen = fields(selection, tokens, mlp.d_model, mlp.d_ff, lender)
    if (kept is None or kept_count is None) and _lists(selection):
        missing, size = ("kept", mlp.d_ff) if kept is None else ("kept_count", 1)
        raise NullError(f"{missing}: expected u32 [{size}], where {type(selection).__name__} lists what is kept, got none")
    call = mlp._call((DTYPES[found.dtype], DTYPES[y.dtype]), chosen, tokens, max_tokens, memory)
    check(lib.moray_cuda_mlp(current(), handle_of(stream), call))
    return out
