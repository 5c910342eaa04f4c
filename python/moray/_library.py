"""The shared library, and how its refusals become exceptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

from ._abi import ffi  # type: ignore[import-untyped]
from .errors import BY_STATUS, UnsupportedError


def library_path() -> str:
    """Where the shared library is: for C programs, and for TVM FFI's `load_module`."""
    return str(next(Path(__file__).parent.glob("libmoray_c.*")))


lib: Any = ffi.dlopen(library_path())


def check(status: int) -> None:
    """Raises what a status stands for."""
    if status:
        raise BY_STATUS[status](ffi.string(lib.moray_last_error()).decode())


def create(destroy: Any, kind: str, make: Any, *arguments: Any) -> Any:
    """Makes a handle, which ends with the last reference to what is returned."""
    out = ffi.new(f"{kind} **")
    check(make(*arguments, out))
    return ffi.gc(out[0], destroy)


def constant(what: str, names: Mapping[str, int], got: object) -> int:
    """The number of a name."""
    if isinstance(got, str) and got in names:
        return names[got]
    raise UnsupportedError(f"{what}: expected one of {', '.join(map(repr, names))}, got {got!r}")


def constants(prefix: str, *leave_out: str) -> dict[str, int]:
    """The header's constants that begin so, by the rest of their names in lower case."""
    names = (name for name in dir(lib) if name.startswith(prefix) and name not in leave_out)
    return {name.removeprefix(prefix).lower(): getattr(lib, name) for name in names}


check(lib.moray_init(lib.MORAY_ABI_VERSION))
