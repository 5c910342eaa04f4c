"""Products that read only the weights of large inputs."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _memory
from ._library import check, create, ffi, lib
from ._parts import part_of
from ._workspaces import Workspaces
from .cpu import Cpu, shared
from .errors import LengthError, UnsupportedError
from .quantized import DTYPES, Quantized


class InputSparse:
    """A matrix w[N, K] held by input, in memory of the library's: the weights of one input lie beside each other, so that those of an input
    that no token keeps are not read. Never changes, so that any number of threads may use it.

    Args:
        w: [N, K] in f32, f16 or bf16, or :class:`Quantized` of 4 bits with scales of channels or f16 of groups. It is copied.

    Raises:
        ShapeError: for a size of 0.
        InvalidValueError: for a weight that is not finite.
        UnsupportedError: for other quantized weights, and for those whose columns are in another order (GPTQ's g_idx).
    """

    def __init__(self, w: Any) -> None:
        destroy, name = lib.moray_input_weight_destroy, "MorayInputWeight"
        if isinstance(w, Quantized):
            self.handle = create(destroy, name, lib.moray_input_weight_create_quantized, w.handle)
            n, k, dtype = w.n, w.k, None
        else:
            found = _memory.view("w", w, tuple(DTYPES), (None, None))
            (n, k), dtype = found.shape, found.dtype
            self.handle = create(destroy, name, lib.moray_input_weight_create, found.memory, DTYPES[found.dtype], n, k)
        #: Output features.
        self.n: int = n
        #: Input features.
        self.k: int = k
        #: ``"f32"``, ``"f16"`` or ``"bf16"``; None for 4 bits.
        self.dtype: str | None = dtype
        make, end = lib.moray_input_workspace_create, lib.moray_input_workspace_destroy
        self._workspaces = Workspaces("MorayInputWorkspace", make, end, self.handle)

    def __call__(
        self, x: Any, threshold: float, *, bias: Any = None, residual: Any = None, out: Any = None, rows: tuple[int, int] | None = None,
        cpu: Cpu | None = None,
    ) -> Any:  # fmt: skip
        """Computes y[m, n] = Σ x[m, k] · w[n, k] over the k with |x[m, k]| > threshold, + bias + residual, and returns y.

        Up to 8 tokens read the weights of the inputs that any of them keeps; more read all. With 4-bit weights, x is int8 with one scale
        for each token over all of its inputs, and a threshold of 0 gives the bits of :func:`moray.linear`. The bits depend neither on
        threads nor on the instruction set nor on how tokens are split into calls.

        Args:
            x: f32 [.., K].
            threshold: finite, at least 0.
            bias: f32 [N] or None.
            residual: f32 [.., N] or None, apart from `out`.
            out: where y goes, f32 [.., N]; without it y is a new numpy array.
            rows: the first output feature that is computed and one past the last, multiples of 16 or N; others of `out` are not touched. Threads of
                the caller's own share a product so, each with a ``Cpu(1)``.

        Raises:
            LengthError: for an array of another size.
            ShapeError, OutOfRangeError: for rows.
            InvalidValueError: for another threshold.
            OverlapError: if `out` overlaps what is read.
        """
        return self.forward(x, threshold, bias, residual, out, rows, cpu, None)

    def with_kept(self, x: Any, threshold: float, **options: Any) -> tuple[Any, np.ndarray]:
        """As calling it, and the inputs whose weights were read: u32, strictly increasing."""
        kept: list[np.ndarray] = []
        taken = [options.pop(name, None) for name in ("bias", "residual", "out", "rows", "cpu")]
        if options:
            raise TypeError(f"with_kept: expected bias, residual, out, rows or cpu, got {', '.join(options)}")
        return self.forward(x, threshold, *taken, kept), kept[0]

    def columns(self, cpu: Cpu | None = None) -> np.ndarray:
        """The transpose of a weight in floating point, f32 [K, N], with the numbers that it has: what each single input of 1 gives.

        Raises:
            UnsupportedError: for a weight of 4 bits.
        """
        if self.dtype is None:
            raise UnsupportedError("weight: expected one in floating point, got one of 4 bits")
        out, ones = np.empty((self.k, self.n), np.float32), np.zeros((1, self.k), np.float32)
        for k in range(self.k):
            ones[0, k] = 1
            self(ones, 0.0, out=out[k : k + 1], cpu=cpu)
            ones[0, k] = 0
        return out

    def forward(
        self, x: Any, threshold: float, bias: Any, residual: Any, out: Any, rows: tuple[int, int] | None, cpu: Cpu | None, kept: list | None,
    ) -> Any:  # fmt: skip
        found = _memory.view("x", x, ("f32",))
        if not found.shape or found.shape[-1] != self.k:
            raise LengthError(f"x: expected {self.k} features in its last dimension, got shape {list(found.shape)}")
        shape = (*found.shape[:-1], self.n)
        out, begin, end = part_of("rows", rows, self.n, out, shape)
        y = _memory.view("out", out, ("f32",), shape, writable=True)
        biases = _memory.optional("bias", bias, ("f32",), (self.n,))
        added = _memory.optional("residual", residual, ("f32",), shape)
        with self._workspaces.take(found.bytes // (4 * self.k)) as workspace:
            call = ffi.new("MorayByInput *", (
                ffi.sizeof("MorayByInput"), threshold, self.handle, workspace, found.memory, _memory.memory(biases),
                _memory.memory(added), y.memory, begin, end,
            ))  # fmt: skip
            check(lib.moray_by_input((cpu or shared()).handle, call))
            if kept is not None:
                part = ffi.new("MorayBytes *")
                check(lib.moray_by_input_kept(workspace, part))
                kept.append(np.frombuffer(ffi.buffer(part.data, part.bytes), np.uint32).copy())
        return out

    def __repr__(self) -> str:
        return f"InputSparse(n={self.n}, k={self.k})"
