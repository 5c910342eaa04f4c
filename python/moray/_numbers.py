"""Numbers as callers have them, as C takes them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from .errors import DtypeError, MorayError, OutOfRangeError, ShapeError

SIZE, WORD = (1 << 64) - 1, (1 << 32) - 1


def whole(what: str, got: Any, most: int = SIZE, refusal: type[MorayError] = ShapeError) -> int:
    """A whole number from 0 to `most`, of any type that stands for one.

    Raises `DtypeError` for what is no whole number and `refusal` for others.
    """
    try:
        number = operator.index(got)
    except TypeError:
        raise DtypeError(f"{what}: expected a whole number, got {got!r}") from None
    if number < 0:
        raise refusal(f"{what}: expected at least 0, got {number}")
    if number > most:
        raise refusal(f"{what}: expected at most {most}, got {number}")
    return number


def index(what: str, got: Any) -> int:
    """As :func:`whole`, of an index: raises `OutOfRangeError`."""
    return whole(what, got, refusal=OutOfRangeError)


def range_of(what: str, got: Any, most: int) -> tuple[int, int]:
    """The first of a range that is not empty, and one past its last, which the call compares with `most`.

    Raises `DtypeError` for what is no pair of whole numbers, `OutOfRangeError` for others.
    """
    try:
        begin, end = map(operator.index, got)
    except (TypeError, ValueError):
        raise DtypeError(f"{what}: expected the first and one past the last, got {got!r}") from None
    if not 0 <= begin < end <= SIZE:
        raise OutOfRangeError(f"{what}: expected a range from 0 to {most}, got {begin} to {end}")
    return begin, end


def u32_list(what: str, got: Any, refusal: type[MorayError] = OutOfRangeError) -> np.ndarray:
    """A list of whole numbers as u32.

    Raises `DtypeError` for what is no whole number, `ShapeError` for lists of lists and `refusal` for numbers that are no u32.
    """
    found = np.asarray(got)
    if found.ndim != 1:
        raise ShapeError(f"{what}: expected one list of numbers, got one of {found.ndim} dimensions")
    if found.dtype.kind not in "iu":
        # an empty list has no type of its own, and Python's numbers may have more bits than numpy's
        if found.size and found.dtype.kind != "O":
            raise DtypeError(f"{what}: expected whole numbers, got {found.dtype}")
        return np.array([whole(what, value, WORD, refusal) for value in found.tolist()], np.uint32)
    if found.size:
        whole(what, found.min(), WORD, refusal)
        whole(what, found.max(), WORD, refusal)
    return found.astype(np.uint32)
