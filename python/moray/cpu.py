"""The CPU as a device."""

from __future__ import annotations

import os
import threading
import weakref

from ._library import check, constant, constants, create, ffi, lib
from ._numbers import whole

ARCHITECTURES = constants("MORAY_ARCH_", "MORAY_ARCH_CUDA")
_ALIVE: weakref.WeakSet[Cpu] = weakref.WeakSet()


class Cpu:
    """Threads and an instruction set. Any number of Python threads may use one at once; calls that use more than one thread take turns.

    Args:
        threads: of the team, the calling one among them; 0 for as many as there are cores for this process. With 1, a call runs on the
            thread that makes it and takes no lock.
        arch: ``"native"``, ``"portable"``, ``"avx2"``, ``"avx_vnni"`` or ``"avx512_vnni"``. The bits of every result are the same.
        openmp: the address of `GOMP_parallel` in an OpenMP runtime of the process, whose threads work in place of the library's own. In a forked
            process the library has its own again, since such a runtime has none there.

    Raises:
        ShapeError: for more threads than 4096 or than the system starts.
        UnsupportedError: for an instruction set that this machine does not have.
    """

    def __init__(self, threads: int = 0, arch: str = "native", openmp: int | None = None) -> None:
        self._make(whole("threads", threads), constant("arch", ARCHITECTURES, arch), openmp)
        _ALIVE.add(self)

    def _make(self, threads: int, arch: int, openmp: int | None = None) -> None:
        if openmp is None:
            self.handle = create(lib.moray_cpu_destroy, "MorayCpu", lib.moray_cpu_create, threads, arch)
        else:
            place = ffi.cast("void *", openmp)
            self.handle = create(lib.moray_cpu_destroy, "MorayCpu", lib.moray_cpu_create_openmp, threads, place, arch)
        found, isa = ffi.new("size_t *"), ffi.new("MorayArch *")
        check(lib.moray_cpu_describe(self.handle, found, isa))
        self._found = found[0], isa[0]

    @property
    def threads(self) -> int:
        """How many threads work in a call."""
        return self._found[0]

    @property
    def arch(self) -> str:
        """The instruction set."""
        return next(name for name, number in ARCHITECTURES.items() if number == self._found[1])

    def __repr__(self) -> str:
        return f"Cpu(threads={self.threads}, arch={self.arch!r})"


_SHARED: dict[int, Cpu] = {}
_MAKING = threading.Lock()


def shared(threads: int = 0) -> Cpu:
    """The device of so many threads that calls without a `cpu` of their own share; made when it is first asked for."""
    found = _SHARED.get(threads)
    if found is None:
        with _MAKING:
            found = _SHARED.get(threads) or _SHARED.setdefault(threads, Cpu(threads))
    return found


def _after_fork() -> None:
    """Gives every device of a forked process threads of its own: those of its parent are not there."""
    global _MAKING
    _MAKING = threading.Lock()
    for cpu in list(_ALIVE):
        # their end would wait for them
        ffi.gc(cpu.handle, None)
        cpu._make(*cpu._found)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
