"""Weight formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ._library import check, constant, constants, ffi, lib
from ._numbers import WORD, whole

GROUP_SCALES = constants("MORAY_GROUP_SCALE_")
OFFSETS = constants("MORAY_OFFSET_")


@dataclass(frozen=True)
class Format:
    """How the codes of a weight matrix w[N, K] become numbers. With g = k / group_size:

    - no groups: w = channel[n] · (code − centre), centre 8 for 4 bits and 0 for 8
    - group scales in f16: w = group[n, g] · (code − centre), group · (code − zero_point) or group · code + offset
    - whole-numbered group scales: w = channel[n] · group[n, g] · (code − 8)
    - QQQ's: w = channel[n] · round((code − 8) · group[n, g])

    Whether parts go together, :func:`moray.supports` says, and every call that takes one.
    """

    bits: int = 4
    #: K values that share a group's scale: 32, 64 or 128; 0 for none.
    group_size: int = 0
    #: ``"f16"``, ``"integer"`` or ``"qqq"``; None without groups.
    group_scale: str | None = None
    #: ``"none"``, ``"f16"`` or ``"zero_point"``.
    offset: str = "none"

    @classmethod
    def per_channel(cls) -> Format:
        """4 bits and one f32 scale for each output feature."""
        return cls()

    @classmethod
    def w8(cls) -> Format:
        """8 bits and one f32 scale for each output feature."""
        return cls(bits=8)

    @classmethod
    def per_group(cls, group_size: int, offset: str = "none") -> Format:
        """4 bits and an f16 scale for each group, with an offset or not."""
        return cls(group_size=group_size, group_scale="f16", offset=offset)

    @classmethod
    def two_level(cls, group_size: int) -> Format:
        """4 bits and a whole-numbered scale for each group over the channel's."""
        return cls(group_size=group_size, group_scale="integer")

    @classmethod
    def qqq(cls) -> Format:
        """QQQ's groups of 128."""
        return cls(group_size=128, group_scale="qqq")

    @property
    def scales(self) -> dict[str, str]:
        """numpy's types of the arrays that a weight has besides its codes: of ``channel`` [N], ``group`` and ``offset`` [N, K / group_size]."""
        dtypes = {}
        if self.group_scale != "f16":
            dtypes["channel"] = "f4"
        if self.group_size:
            dtypes["group"] = "u1" if self.group_scale == "integer" else "f2"
        if self.offset != "none":
            dtypes["offset"] = "u1" if self.offset == "zero_point" else "f2"
        return dtypes

    def section_bytes(self, n: int, k: int) -> dict[str, int]:
        """Bytes of each section of a packed weight w[N, K]: ``codes``, ``channel``, ``group``, ``offset``; 0 for those that it has not.

        Raises:
            ShapeError: unless N is at least 1 and K a multiple of 32 (and of the group size) up to 65536.
            UnsupportedError: for parts that do not go together.
        """
        out = ffi.new("MoraySectionBytes *")
        check(lib.moray_section_bytes(self.handle(), whole("n", n), whole("k", k), out))
        return {part: getattr(out, part) for part in PARTS}

    def handle(self) -> Any:
        """The `MorayFormat` of C."""
        scale = 0 if self.group_scale is None else constant("format.group_scale", GROUP_SCALES, self.group_scale)
        offset = constant("format.offset", OFFSETS, self.offset)
        bits, group_size = whole("format.bits", self.bits, WORD), whole("format.group_size", self.group_size, WORD)
        return ffi.new("MorayFormat *", (bits, group_size, scale, offset))

    @classmethod
    def of(cls, handle: Any) -> Format:
        """The format that a `MorayFormat` of C says."""
        scale = next((name for name, number in GROUP_SCALES.items() if number == handle.group_scale), None)
        offset = next(name for name, number in OFFSETS.items() if number == handle.offset)
        return cls(handle.bits, handle.group_size, scale, offset)


PARTS = ("codes", "channel", "group", "offset")
