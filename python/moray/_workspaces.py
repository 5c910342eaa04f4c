"""What calls of a handle work in."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator

from ._library import create


class Workspaces:
    """Workspaces of a handle: as many as threads have ever been in its calls at once, each for the most tokens it has seen."""

    def __init__(self, kind: str, make: Any, destroy: Any, handle: Any) -> None:
        self._free: list[tuple[int, Any]] = []
        self._kind, self._make, self._destroy, self._handle = kind, make, destroy, handle

    @contextmanager
    def take(self, tokens: int) -> Iterator[Any]:
        """One for so many tokens, at least 1, that no other call has meanwhile."""
        tokens = max(tokens, 1)
        try:
            found = self._free.pop()
        except IndexError:
            found = (0, None)
        try:
            if found[0] < tokens:
                found = tokens, create(self._destroy, self._kind, self._make, self._handle, tokens)
            yield found[1]
        finally:
            if found[1] is not None:
                self._free.append(found)
