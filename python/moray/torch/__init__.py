"""moray in torch: operators that `torch.compile` takes whole, modules, and the conversion of a Hugging Face model.

Everything here runs on CPU tensors in f32, f16 or bf16, forwards only: a backward pass is refused by torch.
"""

from .convert import convert
from .input_sparse import InputSparseLinear
from .ops import by_input, sparse_mlp, w4a8_linear
from .sparse_mlp import SparseMlp
from .w4a8_linear import W4A8Linear

__all__ = ["InputSparseLinear", "SparseMlp", "W4A8Linear", "by_input", "convert", "sparse_mlp", "w4a8_linear"]
