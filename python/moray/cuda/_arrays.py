"""Arrays of a device as C takes them."""

from __future__ import annotations

from typing import Any, Sequence

from .. import _memory
from ..errors import LengthError


class Lender:
    """Borrows the arrays of one call, which live as long as this does."""

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self._views: list[_memory.View] = []

    def view(self, what: str, array: Any, dtypes: Sequence[str], shape: Sequence[int | None] = ()) -> _memory.View:
        """As :func:`moray._memory.view_on_device`."""
        found = _memory.view_on_device(what, array, dtypes, self.stream, shape)
        self._views.append(found)
        return found

    def memory(self, what: str, array: Any, dtypes: Sequence[str], shape: Sequence[int | None] = ()) -> tuple[Any, int]:
        """An array as a `MorayBytes`, and nothing for None."""
        return _memory.NONE if array is None else self.view(what, array, dtypes, shape).memory

    def strided(self, what: str, array: Any, dtypes: Sequence[str], dimensions: int) -> _memory.Strided:
        """As :func:`moray._memory.strided_on_device`."""
        found = _memory.strided_on_device(what, array, dtypes, self.stream, dimensions)
        self._views.append(found.view)
        return found

    def rows(self, what: str, array: Any, dtypes: Sequence[str], width: int) -> _memory.View:
        """An array [.., width]."""
        found = self.view(what, array, dtypes)
        if not found.shape or found.shape[-1] != width:
            raise LengthError(f"{what}: expected {width} features in its last dimension, got shape {list(found.shape)}")
        return found


def tokens_of(found: _memory.View) -> int:
    """The rows of an array [.., width]."""
    count = 1
    for size in found.shape[:-1]:
        count *= size
    return count
