"""moray in torch: operators that `torch.compile` takes whole, modules, and the conversion of a Hugging Face model.

Operators take tensors of the CPU, and of CUDA devices where the library is built for them, in f32, f16 or bf16, forwards only: a backward pass is
refused.
"""

from . import on_cuda  # noqa: F401 - the operators on CUDA tensors
from .convert import convert
from .input_sparse import InputSparseLinear
from .ops import by_input, sparse_mlp, w4a8_linear
from .sparse_mlp import SparseMlp
from .w4a8_linear import W4A8Linear

__all__ = ["InputSparseLinear", "SparseMlp", "W4A8Linear", "by_input", "convert", "sparse_mlp", "w4a8_linear"]
