"""W4A8 products with packed weights, products by input, sparse MLP and attention over heads that run, on the CPU; :mod:`moray.cuda` has
them on CUDA devices.

Arrays are numpy's, or whatever has DLPack (torch's CPU tensors) or the buffer protocol; nothing is copied but where it is said. Every
refusal is a :class:`MorayError` whose text names the argument, what was expected and what was found, and leaves every object usable.
"""

from ._library import ffi as _ffi, lib as _lib, library_path
from .activations import Activations
from .attention import Attention, HeadLists, HeadMask, KvCache, KvPages, Part, Span
from .cpu import Cpu
from .errors import *  # noqa: F403
from .format import Format
from .input_sparse import InputSparse
from .linear import linear
from .quantized import Quantized
from .selection import Indices, Masks, Selection, Threshold, TopK, Union
from .sparse_mlp import SparseMlp, select
from .supports import Row, Support, support_table, supports
from .weight import Weight

#: The library's version.
__version__: str = _ffi.string(_lib.moray_version()).decode()
#: The version of the packed layout, to be stored with packed weights.
LAYOUT_VERSION: int = _lib.MORAY_LAYOUT_VERSION

__all__ = [
    "LAYOUT_VERSION", "Activations", "Attention", "Cpu", "Format", "HeadLists", "HeadMask", "Indices", "InputSparse", "KvCache",
    "KvPages", "Masks", "Part", "Quantized", "Row", "Selection", "Span", "SparseMlp", "Support", "Threshold", "TopK", "Union", "Weight", "__version__", "library_path", "linear",
    "select", "support_table", "supports",
]  # fmt: skip
__all__ += errors.__all__  # type: ignore[name-defined]  # noqa: F405
