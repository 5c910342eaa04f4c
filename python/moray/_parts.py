"""Parts of a call's result, that the caller shares between threads of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._numbers import range_of
from .errors import ShapeError


def part_of(what: str, part: tuple[int, int] | None, most: int, out: Any, shape: tuple[int, ...]) -> tuple[Any, int, int]:
    """Where a part of a result goes, the first of it and one past the last."""
    if part is None:
        return np.empty(shape, np.float32) if out is None else out, 0, most
    if out is None:
        raise ShapeError(f"out: expected an array for the {what} {part}, got none: others have no value")
    return out, *range_of(what, part, most)
