"""Weights as plain codes and scales: what quantizers and checkpoints give, and packing takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _memory
from ._library import check, constant, constants, create, ffi, lib
from ._numbers import whole
from .format import PARTS, Format

DTYPES = {"f32": lib.MORAY_F32, "f16": lib.MORAY_F16, "bf16": lib.MORAY_BF16}
BLOCKS = constants("MORAY_BLOCK_")
_GPTQ_ZEROS = {"less_one": lib.MORAY_LAYOUT_GPTQ, "plain": lib.MORAY_LAYOUT_GPTQ_V2, "less_one_by_word": lib.MORAY_LAYOUT_GPTQ_BY_WORD}


class Quantized:
    """A weight matrix w[N, K] as codes and scales in the order of rows. Never changes, so that any number of threads may use it.

    Made by one of the class methods. Arrays may be numpy's or whatever has DLPack (torch's tensors) or the buffer protocol; they are
    read and not kept.
    """

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        n, k, form = ffi.new("size_t *"), ffi.new("size_t *"), ffi.new("MorayFormat *")
        parts, order = ffi.new("MoraySections *"), ffi.new("MorayBytes *")
        check(lib.moray_quantized_describe(handle, n, k, form, parts))
        check(lib.moray_quantized_order(handle, order))
        #: Output features N.
        self.n: int = n[0]
        #: Input features K.
        self.k: int = k[0]
        #: How codes become numbers.
        self.format: Format = Format.of(form)
        shapes = {"channel": (self.n,)}
        groups = (self.n, self.k // (self.format.group_size or self.k))
        scales = {
            name: _memory.lend(getattr(parts, name), shapes.get(name, groups), dtype, handle)
            for name, dtype in self.format.scales.items()
        }
        #: int8 [N, K], the codes; like the other arrays memory of the weight's own, to be read.
        self.codes: np.ndarray = _memory.lend(parts.codes, (self.n, self.k), "i1", handle)  # type: ignore[assignment]
        #: f32 [N] or None, the channels' scales.
        self.channel: np.ndarray | None = scales.get("channel")
        #: f16 or u8 [N, K / group_size] or None, the groups' scales.
        self.group: np.ndarray | None = scales.get("group")
        #: f16 or u8 [N, K / group_size] or None, the groups' offsets or zero points.
        self.offset: np.ndarray | None = scales.get("offset")
        #: u32 [K], the input of each column, or None where every column goes with its own.
        self.order: np.ndarray | None = _memory.lend(order, (self.k,), "u4", handle)

    @classmethod
    def quantize(cls, w: Any, format: Format) -> Quantized:
        """Rounds w, f32, f16 or bf16 [N, K], to nearest.

        Raises:
            ShapeError: for sizes that the format does not take.
            InvalidValueError: for a weight that is not finite.
            UnsupportedError: for formats that no rounding gives (zero points, groups of 8 bits).
        """
        found = _memory.view("w", w, tuple(DTYPES), (None, None))
        return cls._create(
            lib.moray_quantize, found.memory, DTYPES[found.dtype], *found.shape, format.handle(),
        )  # fmt: skip

    @classmethod
    def from_parts(cls, format: Format, codes: Any, channel: Any = None, group: Any = None, offset: Any = None) -> Quantized:
        """Copies codes, int8 [N, K], and the scales that the format has, see :attr:`Format.scales`.

        Raises:
            InvalidValueError: for codes or scales out of range.
            UnsupportedError: for other arrays than the format has.
        """
        plain = _memory.view("codes", codes, ("i8",), (None, None))
        n, k = plain.shape
        groups = (n, k // (format.group_size or k or 1))
        views = [plain]
        for name, array in (("channel", channel), ("group", group), ("offset", offset)):
            dtype = {"f4": "f32", "f2": "f16", "u1": "u8"}[format.scales.get(name, "f4" if name == "channel" else "f2")]
            views.append(_memory.optional(name, array, (dtype,), (n,) if name == "channel" else groups))
        parts = ffi.new("MoraySections *", [_memory.memory(part) for part in views])
        return cls._create(lib.moray_quantized_create, parts, n, k, format.handle())

    @classmethod
    def from_blocks(cls, kind: str, blocks: Any, n: int, k: int) -> Quantized:
        """Reads a matrix [N, K] of GGUF blocks, u8, with the blocks' own scales: ``"q4_0"``, ``"q4_1"``, ``"q5_0"``, ``"q5_1"``, ``"q8_0"``.

        Raises:
            LengthError: unless there are N · K / 32 blocks.
            InvalidValueError: for a scale that is not finite.
            UnsupportedError: for other blocks.
        """
        number = constant("kind", BLOCKS, kind)
        found = _memory.view("blocks", blocks, ("u8",))
        return cls._create(lib.moray_import_blocks, number, found.memory, whole("n", n), whole("k", k))

    @classmethod
    def from_gptq(
        cls, qweight: Any, scales: Any, qzeros: Any = None, g_idx: Any = None, *, bits: int = 4, zeros: str = "less_one",
    ) -> Quantized:  # fmt: skip
        """Reads GPTQ's arrays: qweight i32 [K / P, N], scales [groups, N], qzeros i32 [groups, ⌈N / P⌉], g_idx i32 [K], P = 32 / bits.

        Args:
            zeros: how zero points are stored: ``"less_one"`` (GPTQ), ``"plain"`` (gptq_v2) or ``"less_one_by_word"`` (one subtracted from
                whole words, as GPTQModel and AutoRound write them).

        Where g_idx puts inputs of a group apart, columns are in another order, :attr:`order`.

        Raises:
            LengthError: for an array of another size.
            UnsupportedError: for groups of no multiple of 32 or of unlike sizes, and for zero points of 8-bit codes.
            InvalidValueError: for a scale that is not finite in f16.
            OutOfRangeError: for a group that is not there.
        """
        layout = constant("zeros", _GPTQ_ZEROS, zeros)
        per_word = 32 // bits if bits in (4, 8) else 1
        words = _memory.view("qweight", qweight, ("i32",), (None, None))
        k, n = words.shape[0] * per_word, words.shape[1]
        return cls._exported(layout, bits, n, k, words, ("scales", scales, (None, n)), ("qzeros", qzeros), g_idx)

    @classmethod
    def from_awq(cls, qweight: Any, scales: Any, qzeros: Any = None) -> Quantized:
        """Reads AWQ's arrays of 4 bits: qweight i32 [K, N / 8], scales [groups, N], qzeros i32 [groups, N / 8]. Raises as :meth:`from_gptq`."""
        words = _memory.view("qweight", qweight, ("i32",), (None, None))
        k, n = words.shape[0], words.shape[1] * 8
        return cls._exported(lib.MORAY_LAYOUT_AWQ, 4, n, k, words, ("scales", scales, (None, n)), ("qzeros", qzeros), None)

    @classmethod
    def from_compressed_tensors(
        cls, weight_packed: Any, weight_scale: Any, weight_zero_point: Any = None, weight_g_idx: Any = None, *, bits: int = 4,
    ) -> Quantized:  # fmt: skip
        """Reads compressed-tensors' arrays: weight_packed i32 [N, K / P], weight_scale [N, groups], weight_zero_point i32 [⌈N / P⌉, groups],
        weight_g_idx i32 [K], P = 32 / bits. Raises as :meth:`from_gptq`."""
        per_word = 32 // bits if bits in (4, 8) else 1
        words = _memory.view("weight_packed", weight_packed, ("i32",), (None, None))
        n, k = words.shape[0], words.shape[1] * per_word
        scales = ("weight_scale", weight_scale, (n, None))
        return cls._exported(
            lib.MORAY_LAYOUT_COMPRESSED_TENSORS, bits, n, k, words, scales, ("weight_zero_point", weight_zero_point), weight_g_idx,
        )  # fmt: skip

    @classmethod
    def from_qqq(cls, b: Any, s_channel: Any, s_group: Any = None) -> Quantized:
        """Reads the arrays of QQQ's checkpoints: b i32 [K / 16, 2 · N], s_channel f32 [1, N], s_group f16 [K / 128, N] or None for a scale for
        each channel alone.

        Raises:
            LengthError, ShapeError: for arrays of other sizes.
            UnsupportedError: unless N and K are multiples of 64.
            InvalidValueError: for a scale that is not finite.
        """
        words = _memory.view("b", b, ("i32",), (None, None))
        k, n = words.shape[0] * 16, words.shape[1] // 2
        channel = _memory.view("s_channel", s_channel, ("f32",), (1, n))
        group = _memory.optional("s_group", s_group, ("f16",), (k // 128, n))
        return cls._create(lib.moray_import_qqq, words.memory, channel.memory, _memory.memory(group), n, k)

    @classmethod
    def _exported(
        cls, layout: int, bits: int, n: int, k: int, words: _memory.View, scales: tuple[str, Any, tuple[int | None, ...]],
        zeros: tuple[str, Any], group_of: Any,
    ) -> Quantized:  # fmt: skip
        scale = _memory.view(scales[0], scales[1], tuple(DTYPES), scales[2])
        zero = _memory.optional(zeros[0], zeros[1], ("i32",), (None, None))
        groups = _memory.optional("g_idx", group_of, ("i32",), (k,))
        size = ffi.sizeof("MorayExported")
        arrays = ffi.new("MorayExported *", (
            size, layout, bits, DTYPES[scale.dtype], n, k, words.memory, scale.memory, _memory.memory(zero), _memory.memory(groups),
        ))  # fmt: skip
        return cls._create(lib.moray_import_exported, arrays)

    @classmethod
    def _create(cls, make: Any, *arguments: Any) -> Quantized:
        return cls(create(lib.moray_quantized_destroy, "MorayQuantized", make, *arguments))

    def dequantize(self) -> np.ndarray:
        """The numbers that the weight stands for, f32 [N, K], columns in the order that :attr:`order` says."""
        w = np.empty((self.n, self.k), np.float32)
        check(lib.moray_quantized_dequantize(self.handle, (ffi.from_buffer(w), w.nbytes)))
        return w

    def pack(self, out: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Packs into numpy arrays, or into the caller's: the sections that :meth:`Weight.borrow` takes, u8 of :meth:`Format.section_bytes`.

        Raises:
            LengthError: for a section of another size.
            OverlapError: for sections that share memory.
        """
        sizes = self.format.section_bytes(self.n, self.k)
        if out is None:
            out = {part: _aligned(size) for part, size in sizes.items() if size}
        views = [
            _memory.view(part, out[part], ("u8",), (sizes[part],), writable=True) if part in out else None for part in PARTS
        ]
        check(lib.moray_pack(self.handle, ffi.new("MoraySectionsMut *", [_memory.memory(part) for part in views])))
        return out

    def __repr__(self) -> str:
        return f"Quantized(n={self.n}, k={self.k}, format={self.format})"


def _aligned(size: int) -> np.ndarray:
    """Bytes that begin at a multiple of 64, where packed weights are read fastest."""
    memory = np.empty(size + 63, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size]
