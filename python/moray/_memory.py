"""Arrays as callers have them, as addresses: numpy's, and what has DLPack or the buffer protocol; of CUDA devices what has DLPack. Nothing is
copied."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple, Sequence

import numpy as np

from ._library import ffi
from .errors import DeviceError, DtypeError, LayoutError, LengthError, ShapeError

# Names of element types, as numpy and DLPack (code, bits) have them.
_NUMPY = {
    np.dtype(kind): name
    for kind, name in {
        "f4": "f32", "f2": "f16", "i1": "i8", "u1": "u8", "i4": "i32", "u4": "u32", "i8": "i64", "u8": "u64", "?": "bool",
    }.items()
}  # fmt: skip
_DLPACK = {
    (0, 8): "i8", (0, 32): "i32", (0, 64): "i64", (1, 8): "u8", (1, 32): "u32", (1, 64): "u64",
    (2, 16): "f16", (2, 32): "f32", (4, 16): "bf16", (6, 8): "bool",
}  # fmt: skip
SIZES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1, "u8": 1, "i32": 4, "u32": 4, "i64": 8, "u64": 8, "bool": 1}

# torch has no arithmetic on unsigned words, so that either sign stands for them.
WORDS = ("u32", "i32")
LONG_WORDS = ("u64", "i64")

NONE = (ffi.NULL, 0)


class View(NamedTuple):
    """Where an array's elements are, one after another in row-major order."""

    address: Any
    bytes: int
    shape: tuple[int, ...]
    dtype: str
    # what keeps the memory in its place
    owner: Any

    @property
    def memory(self) -> tuple[Any, int]:
        """The array as a `MorayBytes`; this object has to live until the call returns."""
        return self.address, self.bytes


def view(what: str, array: Any, dtypes: Sequence[str], shape: Sequence[int | None] = (), writable: bool = False) -> View:
    """Borrows an array, which has one of the element types and, if a shape is given, that many dimensions and those sizes that
    are not None.

    Raises `DtypeError`, `DeviceError`, `LayoutError` for strides or memory that may not be written, `ShapeError` for a number
    of dimensions and `LengthError` for sizes.
    """
    if isinstance(array, np.ndarray):
        found = _of_numpy(what, array, writable)
    elif hasattr(array, "__dlpack__"):
        found = _of_dlpack(what, array)
    else:
        found = _of_numpy(what, _as_numpy(what, array), writable)
    return _checked(what, found, dtypes, shape)


def _checked(what: str, found: View, dtypes: Sequence[str], shape: Sequence[int | None]) -> View:
    if found.dtype not in dtypes:
        raise DtypeError(f"{what}: expected elements of {' or '.join(dtypes)}, got {found.dtype}")
    if shape:
        check_shape(what, found.shape, shape)
    return found


def view_on_device(what: str, array: Any, dtypes: Sequence[str], stream: int, shape: Sequence[int | None] = ()) -> View:
    """As :func:`view`, of an array in memory of a CUDA device; what its owner has put on other streams comes before what `stream` gets from
    now on, -1 where that is so anyway.

    Raises `DeviceError` for an array elsewhere, and as :func:`view`.
    """
    if not hasattr(array, "__dlpack__"):
        raise DtypeError(f"{what}: expected an array with DLPack, got {type(array).__name__}")
    # of the default stream DLPack has another number than the driver
    return _checked(what, _of_dlpack(what, array, stream or 1), dtypes, shape)


class Strided(NamedTuple):
    """An array whose elements may be apart, but for those of the last dimension."""

    view: View
    # In elements; `view.bytes` are those that they reach.
    strides: tuple[int, ...]


def strided_on_device(what: str, array: Any, dtypes: Sequence[str], stream: int, dimensions: int) -> Strided:
    """As :func:`view_on_device`, of an array of so many dimensions with strides that are not negative."""
    if not hasattr(array, "__dlpack__"):
        raise DtypeError(f"{what}: expected an array with DLPack, got {type(array).__name__}")
    return _checked_strides(what, _borrow(what, array, stream or 1), dtypes, dimensions)


def strided(what: str, array: Any, dtypes: Sequence[str], dimensions: int) -> Strided:
    """As :func:`view` of an array that may be written, of so many dimensions with strides that are not negative."""
    if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
        return _checked_strides(what, _borrow(what, array, None), dtypes, dimensions)
    found = _as_numpy(what, array)
    dtype = _NUMPY.get(found.dtype)
    if dtype is None:
        raise DtypeError(f"{what}: expected elements of {' or '.join(dtypes)}, got {found.dtype.str}")
    if not found.flags.writeable:
        raise LayoutError(f"{what}: expected an array that may be written, got one that may only be read")
    if any(step % found.itemsize for step in found.strides):
        raise LayoutError(f"{what}: expected strides of whole elements, got {list(found.strides)} bytes")
    steps = tuple(step // found.itemsize for step in found.strides)
    address = ffi.cast("char *", found.__array_interface__["data"][0])
    view = View(address, reach(found.shape, steps) * found.itemsize, found.shape, dtype, found)
    return _checked_strides(what, Strided(view, steps), dtypes, dimensions)


def reach(shape: Sequence[int], strides: Sequence[int]) -> int:
    """The elements from the first of an array to its last, where none comes before the first."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides)) if all(shape) else 0


def _checked_strides(what: str, found: Strided, dtypes: Sequence[str], dimensions: int) -> Strided:
    if found.view.dtype not in dtypes:
        raise DtypeError(f"{what}: expected elements of {' or '.join(dtypes)}, got {found.view.dtype}")
    check_shape(what, found.view.shape, (None,) * dimensions)
    sizes = zip(found.view.shape, found.strides)
    if found.view.bytes and (found.strides[-1] != 1 and found.view.shape[-1] != 1 or any(size > 1 and step < 1 for size, step in sizes)):
        raise LayoutError(f"{what}: expected elements of the last dimension one after another, got strides {list(found.strides)} in elements")
    return found


def optional(what: str, array: Any, dtypes: Sequence[str], shape: Sequence[int | None] = ()) -> View | None:
    """As :func:`view`, and None for None."""
    return None if array is None else view(what, array, dtypes, shape)


def memory(found: View | None) -> tuple[Any, int]:
    """A view as a `MorayBytes`, and nothing for None."""
    return NONE if found is None else found.memory


def check_shape(what: str, got: Sequence[int], expected: Sequence[int | None]) -> None:
    """Compares sizes; None stands for any."""
    spelt = ", ".join("any" if size is None else str(size) for size in expected)
    if len(got) != len(expected):
        raise ShapeError(f"{what}: expected {len(expected)} dimensions [{spelt}], got {len(got)}: {list(got)}")
    if any(size is not None and size != real for size, real in zip(expected, got)):
        raise LengthError(f"{what}: expected shape [{spelt}], got {list(got)}")


def _as_numpy(what: str, array: Any) -> np.ndarray:
    if not hasattr(array, "__array_interface__"):
        try:
            array = memoryview(array)
        except TypeError:
            kind = type(array).__name__
            raise DtypeError(
                f"{what}: expected an array with DLPack, the buffer protocol or __array_interface__, got {kind}"
            ) from None
    return np.asarray(array)


def _of_numpy(what: str, array: np.ndarray, writable: bool) -> View:
    dtype = _NUMPY.get(array.dtype)
    if dtype is None:
        if array.dtype.name != "bfloat16":
            raise DtypeError(f"{what}: expected elements that the library knows, got {array.dtype.str}")
        # a type of another package, which numpy lends to nobody as what it is
        dtype, array = "bf16", array.view(np.uint16)
    if not array.flags.c_contiguous:
        raise _not_contiguous(what, array.shape, [stride // array.itemsize for stride in array.strides])
    if writable and not array.flags.writeable:
        raise LayoutError(f"{what}: expected an array that may be written, got one that may only be read")
    return View(ffi.from_buffer(array), array.nbytes, array.shape, dtype, array)


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


# Devices as DLPack numbers them.
_CPU, _CUDA = 1, 2


def _of_dlpack(what: str, array: Any, stream: int | None = None) -> View:
    """`stream` is given of an array of a CUDA device."""
    found, expected = _borrow(what, array, stream), 1
    if found.view.bytes:
        for size, stride in zip(reversed(found.view.shape), reversed(found.strides)):
            if size != 1 and stride != expected:
                raise _not_contiguous(what, found.view.shape, found.strides)
            expected *= size
    return found.view


def _borrow(what: str, array: Any, stream: int | None) -> Strided:
    device, number = array.__dlpack_device__()
    if device != (_CPU if stream is None else _CUDA):
        expected = "the CPU" if stream is None else "a CUDA device"
        raise DeviceError(f"{what}: expected memory of {expected}, got DLPack device {int(device)}:{number}")
    if stream is not None:
        _check_number(what, number)
    try:
        capsule = array.__dlpack__() if stream is None else array.__dlpack__(stream=stream)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise LayoutError(f"{what}: expected a tensor that can be lent by DLPack, got: {error}") from error
    # the capsule is not taken over: it gives the tensor back when the view ends
    tensor = ffi.cast("DLTensor *", _capsule_pointer(capsule, b"dltensor"))
    kind = tensor.dtype
    dtype = _DLPACK.get((kind.code, kind.bits)) if kind.lanes == 1 else None
    if dtype is None:
        raise DtypeError(
            f"{what}: expected elements that the library knows, got DLPack code {kind.code} of {kind.bits} bits × {kind.lanes}"
        )
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = [0] * tensor.ndim
    count = 1
    for i in reversed(range(tensor.ndim)):
        strides[i] = tensor.strides[i] if tensor.strides else count
        count *= shape[i]
    data = ffi.cast("char *", tensor.data) + tensor.byte_offset if count else ffi.NULL
    return Strided(View(data, reach(shape, strides) * SIZES[dtype], shape, dtype, (array, capsule)), tuple(strides))


def _check_number(what: str, got: int) -> None:
    from .cuda._device import number

    expected = number()
    if expected not in (None, got):
        raise DeviceError(f"{what}: expected memory of CUDA device {expected}, whose context is current to the thread, got of device {got}")


def _not_contiguous(what: str, shape: Sequence[int], strides: Sequence[int]) -> LayoutError:
    return LayoutError(
        f"{what}: expected elements one after another in row-major order, got shape {list(shape)} with strides {list(strides)} "
        "in elements; numpy.ascontiguousarray and Tensor.contiguous make such a copy"
    )


class _Lent:
    """Memory of a handle's, for numpy, which keeps this object and so the handle."""

    def __init__(self, address: int, shape: tuple[int, ...], typestr: str, owner: Any):
        self.owner = owner
        self.__array_interface__ = {"data": (address, True), "shape": shape, "typestr": typestr, "version": 3}


def lend(part: Any, shape: tuple[int, ...], dtype: str, owner: Any) -> np.ndarray | None:
    """A `MorayBytes` of a handle's as an array that may be read and keeps the handle; None if it is left out."""
    if part.data == ffi.NULL:
        return None
    address = int(ffi.cast("uintptr_t", part.data))
    return np.asarray(_Lent(address, shape, np.dtype(dtype).str, owner))
