"""Activations in int8."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _memory
from ._library import check, constant, constants, create, ffi, lib
from ._numbers import whole
from .cpu import Cpu, shared
from .quantized import DTYPES

SCALES = constants("MORAY_ACT_SCALES_")


class Activations:
    """Tokens quantized to int8, in memory made once. One thread writes it at a time; any number may multiply with it when none does.

    Args:
        max_m: the most tokens M of a call.
        max_k: the most features K.
        scales: ``"token"`` for one scale for each token, ``"fine"`` for one for each token and 128 of K.

    Raises:
        OutOfMemoryError: when there is not enough.
        ShapeError: unless both are at least 1.
    """

    def __init__(self, max_m: int, max_k: int, scales: str = "token") -> None:
        kind, max_m, max_k = constant("scales", SCALES, scales), whole("max_m", max_m), whole("max_k", max_k)
        self.handle = create(lib.moray_activations_destroy, "MorayActivations", lib.moray_activations_create, max_m, max_k, kind)
        self.max_m, self.max_k, self.scales = max_m, max_k, scales

    def quantize(self, x: Any, *, order: Any = None, cpu: Cpu | None = None) -> Activations:
        """Quantizes x, f32, f16 or bf16 [.., K]: scale = max |x| / 127 over what shares it, code = x / scale to nearest. A token with a value
        that is not finite gets a NaN scale, and so NaN results. Replaces what was held; returns itself.

        Args:
            order: u32 [K] or None, the input of each place, as a weight's :attr:`Weight.order`.

        Raises:
            ShapeError: unless M is 1 to `max_m` and K a multiple of 32 up to `max_k`.
            OutOfRangeError: for an order past K.
            BusyError: if another thread is using this object.
        """
        found = _memory.view("x", x, tuple(DTYPES))
        self.quantize_view(found, None if order is None else _memory.view("order", order, ("u32",), (None,)), cpu)
        return self

    def quantize_view(self, x: _memory.View, order: _memory.View | None, cpu: Cpu | None) -> None:
        """:meth:`quantize` of arrays that have been looked at."""
        k = x.shape[-1] if x.shape else 0
        m = x.bytes // (_memory.SIZES[x.dtype] * k) if k else 0
        handle = (cpu or shared()).handle
        check(lib.moray_activations_quantize(handle, self.handle, x.memory, DTYPES[x.dtype], m, k, _memory.memory(order)))

    def set(self, codes: Any, scale: Any) -> Activations:
        """Takes codes, int8 [M, K], and scales, f32 [M] or [M, ⌈K / 128⌉] for fine ones, that an engine has already. Returns itself.

        Raises:
            LengthError: for scales of another size.
            ShapeError: as :meth:`quantize`.
        """
        found = _memory.view("codes", codes, ("i8",), (None, None))
        scales = _memory.view("scale", scale, ("f32",))
        check(lib.moray_activations_set(self.handle, found.memory, scales.memory, *found.shape))
        return self

    def _held(self) -> Any:
        out = ffi.new("MorayActivationsView *")
        check(lib.moray_activations_describe(self.handle, out))
        return out

    def _copy(self, part: Any, dtype: str, width: int) -> np.ndarray:
        return np.frombuffer(ffi.buffer(part.data, part.bytes), dtype).reshape(-1, width).copy()

    @property
    def m(self) -> int:
        """Tokens that are held."""
        return self._held().m

    @property
    def k(self) -> int:
        """Features of each."""
        return self._held().k

    @property
    def codes(self) -> np.ndarray:
        """A copy of the codes, int8 [M, K]."""
        held = self._held()
        return self._copy(held.codes, "i1", -(-held.k // 64) * 64)[:, : held.k] if held.m else np.empty((0, held.k), np.int8)

    @property
    def scale(self) -> np.ndarray:
        """A copy of the scales, f32 [M, 1] or [M, ⌈K / 128⌉]."""
        held = self._held()
        return self._copy(held.scale, "f4", -(-held.k // 128) if self.scales == "fine" else 1)


class Scratch:
    """Activations for calls that are given plain arrays: as many as threads have ever been in such a call at once."""

    def __init__(self, scales: str) -> None:
        self._free: list[Activations] = []
        self._scales = scales

    def take(self, m: int, k: int) -> Activations:
        """One for so many tokens and features, that nobody else has; to be given back."""
        try:
            found = self._free.pop()
        except IndexError:
            return Activations(m, k, self._scales)
        if m <= found.max_m and k <= found.max_k:
            return found
        return Activations(max(m, found.max_m), max(k, found.max_k), self._scales)

    def give(self, activations: Activations) -> None:
        """Takes it back."""
        self._free.append(activations)


SCRATCH = {scales: Scratch(scales) for scales in SCALES}
