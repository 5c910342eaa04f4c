"""What a call raises: one exception for each kind of refusal, all of them :class:`MorayError`."""

from __future__ import annotations

from ._abi import ffi  # type: ignore[import-untyped]


class MorayError(Exception):
    """A refusal or a failure. Its text names the argument, what was expected and what was found."""


class LengthError(MorayError, ValueError):
    """A buffer has another size than the call needs."""


class ShapeError(MorayError, ValueError):
    """A size that the operation does not take."""


class OutOfRangeError(MorayError, IndexError):
    """An index outside its range."""


class NotIncreasingError(MorayError, ValueError):
    """A list that is not strictly increasing."""


class InvalidValueError(MorayError, ValueError):
    """A number that is NaN, infinite or outside the range that makes sense."""


class UnsupportedError(MorayError, ValueError):
    """Options, formats or types that the operation does not take."""


class DriverAbsentError(MorayError, RuntimeError):
    """There is no CUDA driver."""


class DriverTooOldError(MorayError, RuntimeError):
    """The CUDA driver lacks functions that are needed."""


class KernelsNotBuiltError(MorayError, RuntimeError):
    """The library was built without its CUDA kernels."""


class UnsupportedArchitectureError(MorayError, RuntimeError):
    """There is no code for the device."""


class OutOfMemoryError(MorayError, MemoryError):
    """There is not enough memory."""


class MisalignedError(MorayError, ValueError):
    """An address that is not a multiple of what the call needs."""


class LaunchError(MorayError, RuntimeError):
    """A kernel could not be started."""


class DriverError(MorayError, RuntimeError):
    """The CUDA driver refused a call."""


class NullError(MorayError, ValueError):
    """An address is null."""


class VersionError(MorayError, ImportError):
    """The package and its library are of different versions."""


class OverlapError(MorayError, ValueError):
    """Memory that the call writes overlaps memory that it reads or writes elsewhere."""


class BusyError(MorayError, RuntimeError):
    """Another thread is inside a call that writes the same object."""


class InternalError(MorayError, RuntimeError):
    """A fault of the library itself."""


class DtypeError(MorayError, TypeError):
    """An array of another element type than the call takes, or no array at all."""


class LayoutError(MorayError, ValueError):
    """An array whose elements do not follow one another in row-major order, or that may not be written."""


class DeviceError(MorayError, ValueError):
    """An array on another device than the call's, or no device to call."""


def _exceptions() -> dict[int, type[MorayError]]:
    """The exception of each status: MORAY_STATUS_NOT_INCREASING is `NotIncreasingError`."""
    other_names = {"INDEX": OutOfRangeError, "VALUE": InvalidValueError}
    exceptions = {}
    for status, constant in ffi.typeof("MorayStatus").elements.items():
        name = constant.removeprefix("MORAY_STATUS_")
        spelt = "".join(word.capitalize() for word in name.split("_")) + "Error"
        if name != "OK":
            exceptions[status] = other_names.get(name) or globals()[spelt]
    return exceptions


BY_STATUS = _exceptions()

__all__ = [name for name, value in list(globals().items()) if isinstance(value, type) and issubclass(value, MorayError)]
