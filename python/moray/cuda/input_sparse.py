"""Products that read only the weights of large inputs, on a device."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

import numpy as np

from .. import _memory
from .._library import check, ffi, lib
from .._memory import WORDS
from .._numbers import whole
from ..errors import LengthError, ShapeError
from ..input_sparse import InputSparse as Host
from ..quantized import DTYPES
from ._arrays import Lender, tokens_of
from ._device import UNORDERED, current, handle_of


class ByInputScratch(NamedTuple):
    """What a product by input needs besides its operands."""

    #: Bytes of anything; 0 where there need be none.
    workspace: int
    #: Words u32, zeros before the first product with them and left so by each; 0 where there need be none.
    counters: int


class InputSparse:
    """A weight w[N, K] of 4 bits by input in device memory: what :meth:`sections` gives, copied there as it is. :meth:`of_columns` has those in
    floating point.

    Args:
        sections: u8 tensors of a CUDA device, ``rows`` and ``scales``, which are kept.
        weight: the weight on the CPU, which says what it is; it is not kept.

    Raises:
        LengthError: for sections of other sizes.
        DeviceError: for memory of another device or kind of device.
        UnsupportedError: for a weight in floating point.
        KernelsNotBuiltError: if the library was built without CUDA.
    """

    def __init__(self, sections: Mapping[str, Any], weight: Host) -> None:
        described, lender = _sizes(weight), Lender(UNORDERED)
        parts = []
        for name in ("rows", "scales"):
            size = getattr(described, name).bytes
            if sections.get(name) is None:
                raise LengthError(f"{name}: expected {size} bytes, got none")
            parts.append(lender.memory(name, sections[name], ("u8",), (size,)))
        self.n, self.k = weight.n, weight.k
        self._owners: Any = lender
        self._rows: tuple | None = (self.n, self.k, *parts, described.group_size, described.offset)
        self._dense: tuple[int, Any, int] | None = None

    @classmethod
    def of_columns(cls, columns: Any, n: int | None = None) -> InputSparse:
        """A weight in f32, f16 or bf16.

        Args:
            columns: [K, N], the transpose of w, whose rows are multiples of 16 bytes: rows that are longer than `n` are padded. It is kept.
            n: output features; all of a row if it is None.

        Raises:
            ShapeError: for rows of other lengths.
            DtypeError, DeviceError, LayoutError: for arrays of other types, places and strides.
        """
        lender = Lender(UNORDERED)
        found = lender.view("columns", columns, tuple(DTYPES), (None, None))
        made = object.__new__(cls)
        made.k, width = found.shape
        made.n = width if n is None else n
        row_bytes = width * _memory.SIZES[found.dtype]
        if row_bytes % 16 or not 0 < made.n <= width:
            raise ShapeError(f"columns: expected rows of {made.n} or more outputs in multiples of 16 bytes, got {width} {found.dtype}")
        made._owners, made._rows, made._dense = lender, None, (DTYPES[found.dtype], found.memory, row_bytes)
        return made

    @staticmethod
    def sections(weight: Host) -> dict[str, np.ndarray]:
        """A weight of 4 bits in the order in which devices read it, to be copied there: u8 arrays ``rows`` and ``scales``.

        Raises:
            UnsupportedError: for a weight in floating point.
            KernelsNotBuiltError: if the library was built without CUDA.
        """
        described = _sizes(weight)
        made = {name: np.empty(getattr(described, name).bytes, np.uint8) for name in ("rows", "scales")}
        for name, array in made.items():
            getattr(described, name).data = ffi.from_buffer(array)
        check(lib.moray_cuda_input_rows_pack(weight.handle, described))
        return made

    def scratch(self, m: int) -> ByInputScratch:
        """Loads the kernels of a product of `m` tokens, which a capture could not, and says what it needs."""
        none, m = [_memory.NONE] * 6, whole("m", m)
        if self._rows is None:
            check(lib.moray_cuda_by_input_prepare(current(), self._call(0.0, m, none)))
            return ByInputScratch(0, 0)
        size = ffi.new("size_t *")
        check(lib.moray_cuda_by_input_four_bit_prepare(current(), self._call(0.0, m, none), size))
        return ByInputScratch(size[0], -(-self.n // 128))

    def _call(self, threshold: float, m: int, memory: list) -> Any:
        """x, bias, residual, y, workspace and counters."""
        if self._dense is not None:
            name, (dtype, w, row_bytes) = "MorayCudaByInput", self._dense
            return ffi.new(f"{name} *", (ffi.sizeof(name), dtype, threshold, m, self.n, self.k, w, row_bytes, *memory[:4]))
        name = "MorayCudaByInputFourBit"
        return ffi.new(f"{name} *", (ffi.sizeof(name), threshold, m, self._rows, *memory))

    def __repr__(self) -> str:
        return f"InputSparse(n={self.n}, k={self.k})"


def _sizes(weight: Host) -> Any:
    out = ffi.new("MorayCudaInputRows *")
    check(lib.moray_cuda_input_rows_sizes(weight.handle, out))
    return out


def by_input(
    weight: InputSparse,
    x: Any,
    threshold: float,
    *,
    out: Any,
    bias: Any = None,
    residual: Any = None,
    workspace: Any = None,
    counters: Any = None,
    stream: int = 0,
) -> Any:
    """Puts y[m, n] = Σ x[m, k] · w[n, k] over the k with |x[m, k]| > threshold, + bias + residual, on a stream, and returns `out`.

    The bits are those of :class:`moray.InputSparse`.

    Args:
        x: f32 [.., K].
        threshold: finite, at least 0.
        out: where y goes, f32 [.., N].
        bias: f32 [N] or None.
        residual: f32 [.., N] or None, apart from `out`.
        workspace: u8, as many bytes as :meth:`InputSparse.scratch` says, or more; calls that may run at once have one each.
        counters: u32, as many as it says, or more; calls that may run at once have some each.
        stream: as :func:`moray.cuda.linear`.

    Raises:
        LengthError, ShapeError: for arrays of other sizes.
        DtypeError, DeviceError: for arrays of other types and places.
        InvalidValueError: for another threshold.
        OverlapError: if what is written overlaps what is read.
    """
    lender = Lender(stream)
    found = lender.rows("x", x, ("f32",), weight.k)
    shape = (*found.shape[:-1], weight.n)
    y = lender.view("out", out, ("f32",), shape)
    tokens = tokens_of(found)
    if not tokens:
        return out
    memory = [
        found.memory, lender.memory("bias", bias, ("f32",), (weight.n,)), lender.memory("residual", residual, ("f32",), shape), y.memory,
        lender.memory("workspace", workspace, ("u8",)), lender.memory("counters", counters, WORDS),
    ]  # fmt: skip
    call, device = weight._call(threshold, tokens, memory), current()
    run = lib.moray_cuda_by_input if weight._rows is None else lib.moray_cuda_by_input_four_bit
    check(run(device, handle_of(stream), call))
    return out
