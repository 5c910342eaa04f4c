"""What can be computed where, and how."""

from __future__ import annotations

from typing import NamedTuple

from ._library import check, constant, constants, ffi, lib
from .attention import CACHE_DTYPES
from .cpu import ARCHITECTURES
from .format import Format

OPERATIONS = constants("MORAY_OP_")


class Support(NamedTuple):
    """An answer; it is true where the operation runs."""

    supported: bool
    #: The arithmetic of a call if it runs, else why it does not.
    words: str

    def __bool__(self) -> bool:
        return self.supported


class Row(NamedTuple):
    """A row of the table of everything that can be asked."""

    operation: str
    format: Format | None
    dtype: str
    supported: bool
    words: str


def supports(operation: str, format: Format | None = None, dtype: str = "f32", arch: str = "native") -> Support:
    """Says whether an operation runs, by which arithmetic, or why not.

    Args:
        operation: ``"linear"`` (format of the weight, type of y), ``"sparse_mlp"`` (format of the three matrices, or without one their
            type), ``"by_input"`` (likewise of the matrix) or ``"attention"`` (type of the cache).
        format: None for weights that are not quantized.
        dtype: ``"f32"``, ``"f16"``, ``"bf16"``, for caches ``"int8"`` too.
        arch: as of :class:`Cpu`, or a CUDA device's compute capability as ``"sm_86"``.

    Raises:
        UnsupportedError: for names that are none of these.
    """
    number = constant("operation", OPERATIONS, operation)
    asked = (format.handle()[0] if format else (0, 0, 0, 0))
    query = ffi.new("MorayQuery *", (
        ffi.sizeof("MorayQuery"), number, asked, constant("dtype", CACHE_DTYPES, dtype), _architecture(arch),
    ))  # fmt: skip
    out = ffi.new("MoraySupport *")
    check(lib.moray_supports(query, out))
    return Support(bool(out.supported), ffi.string(out.words).decode())


def _architecture(arch: str) -> int:
    capability = arch.removeprefix("sm_")
    if capability != arch and capability.isdecimal():
        return lib.MORAY_ARCH_CUDA + int(capability)
    return constant("arch", ARCHITECTURES, arch)


def _formats() -> list[Format]:
    sizes, offsets = (32, 64, 128), ("none", "f16", "zero_point")
    groups = [Format(bits, size, "f16", offset) for bits in (4, 8) for size in sizes for offset in offsets]
    return [Format.per_channel(), Format.w8(), *groups, *map(Format.two_level, sizes), Format.qqq()]


def support_table(arch: str = "native") -> list[Row]:
    """Every operation with every format and type: what :func:`supports` says of each."""
    asked: list[tuple[str, Format | None, str]] = []
    for dtype in ("f32", "f16", "bf16"):
        asked += [("linear", format, dtype) for format in _formats()]
    for operation in ("sparse_mlp", "by_input"):
        asked += [(operation, format, "f32") for format in _formats()]
        asked += [(operation, None, dtype) for dtype in ("f32", "f16", "bf16")]
    asked += [("attention", None, dtype) for dtype in CACHE_DTYPES]
    return [Row(*question, *supports(*question, arch)) for question in asked]
