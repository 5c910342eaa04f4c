"""moray on CUDA devices, over memory of the caller's that has DLPack: torch's, CuPy's, JAX's.

The library has to be built with CUDA (``MORAY_FEATURES=cuda pip install ./python``). Calls go to the CUDA context that is current to the thread
and to a stream of it; they allocate nothing on the device and wait for nothing, so that a graph can capture them. What says ``scratch`` loads the
kernels of a call, without which a capture cannot begin with it. Arrays begin at multiples of 16 bytes, as allocations do.
"""

from ._device import current
from .attention import Batch, HeadLists, HeadMask, KvCache, attend, attend_scratch, span_records, write_attend, write_attend_scratch, write_kv
from .input_sparse import ByInputScratch, InputSparse, by_input
from .linear import Scratch, Weight, linear, multiply, quantize, scratch, weight_of
from .mlp_parts import down, gate_up, parts_scratch
from .product import Gated, Norm, product, product_scratch
from .selection import Indices, Masks, Union, select, union
from .sparse_mlp import MAX_TOKENS, SparseMlp, sparse_mlp

__all__ = [
    "Batch", "ByInputScratch", "Gated", "HeadLists", "HeadMask", "Indices", "InputSparse", "KvCache", "MAX_TOKENS", "Masks", "Norm", "Scratch", "SparseMlp", "Union",
    "Weight", "attend", "attend_scratch", "by_input", "current", "down", "gate_up", "linear", "multiply", "parts_scratch", "product", "product_scratch", "quantize", "scratch",
    "select", "span_records", "sparse_mlp", "union", "weight_of", "write_attend", "write_attend_scratch", "write_kv",
]  # fmt: skip
