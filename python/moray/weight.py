"""Weights in the packed layout."""

from __future__ import annotations

from typing import Any, Mapping

import numpy as np

from . import _memory
from ._library import check, create, ffi, lib
from ._numbers import index, whole
from .errors import OutOfRangeError
from .format import PARTS, Format
from .quantized import Quantized


class Weight:
    """A packed weight w[N, K]. Never changes, so that any number of threads may use it.

    ``Weight(quantized)`` packs into memory of the library's, which asks for huge pages; :meth:`borrow` takes sections where they are.
    """

    def __init__(self, quantized: Quantized) -> None:
        self._set(create(lib.moray_weight_destroy, "MorayWeight", lib.moray_weight_pack, quantized.handle), None)
        self.order = None if quantized.order is None else quantized.order.copy()

    def _set(self, handle: Any, owners: Any) -> None:
        self.handle = handle
        n, k, form = ffi.new("size_t *"), ffi.new("size_t *"), ffi.new("MorayFormat *")
        parts = ffi.new("MoraySections *")
        check(lib.moray_weight_describe(handle, n, k, form, parts))
        #: Output features N.
        self.n: int = n[0]
        #: Input features K.
        self.k: int = k[0]
        #: How codes become numbers.
        self.format: Format = Format.of(form)
        # what is lent lives as long as the handle does
        keeps = (handle, owners)
        sizes = {part: getattr(parts, part).bytes for part in PARTS}
        #: u8, the sections ``codes``, ``channel``, ``group`` and ``offset`` that the format has, to be read.
        self.sections: dict[str, np.ndarray] = {
            part: _memory.lend(getattr(parts, part), (size,), "u1", keeps)  # type: ignore[misc]
            for part, size in sizes.items()
            if size
        }
        #: u32 [K], the input of each column, or None where every column goes with its own.
        self.order: np.ndarray | None = None

    @classmethod
    def borrow(cls, sections: Mapping[str, Any], n: int, k: int, format: Format, order: Any = None) -> Weight:
        """Takes sections, u8, where they are, and keeps the arrays: nothing may write them, nor resize them, while the weight is used.

        Scales begin at multiples of 4 bytes; sections that begin at multiples of 64 are read fastest.

        Args:
            order: u32 [K] or None, see :attr:`Quantized.order`.

        Raises:
            LengthError: for a section of another size.
            MisalignedError: for scales that begin elsewhere.
            InvalidValueError: for whole-numbered scales above 16. What the codes and other scales are is not looked at.
        """
        n, k = whole("n", n), whole("k", k)
        views = [_memory.optional(part, sections.get(part), ("u8",)) for part in PARTS]
        parts = ffi.new("MoraySections *", [_memory.memory(part) for part in views])
        weight = cls.__new__(cls)
        made = create(lib.moray_weight_destroy, "MorayWeight", lib.moray_weight_borrow, parts, n, k, format.handle())
        weight._set(made, views)
        if order is not None:
            found = _memory.view("order", order, ("u32",), (k,))
            copied = np.frombuffer(ffi.buffer(found.address, found.bytes), np.uint32).copy()
            if copied.size and copied.max() >= k:
                raise OutOfRangeError(f"order: expected indices below {k}, got {copied.max()}")
            weight.order = copied
        return weight

    def unpack(self) -> Quantized:
        """The plain codes and scales, columns in the order in which they were packed: the inverse of packing.

        Raises:
            InvalidValueError: where borrowed memory holds numbers that no weight has.
        """
        return Quantized._create(lib.moray_weight_unpack, self.handle)

    def row(self, row: int) -> np.ndarray:
        """Row `row` as numbers, f32 [K], columns in the order in which they were packed.

        Raises:
            OutOfRangeError: unless `row` is 0 to N − 1.
        """
        values = np.empty(self.k, np.float32)
        check(lib.moray_weight_row(self.handle, index("row", row), (ffi.from_buffer(values), values.nbytes)))
        return values

    def __repr__(self) -> str:
        return f"Weight(n={self.n}, k={self.k}, format={self.format})"
