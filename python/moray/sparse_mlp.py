"""The sparse MLP."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _memory, selection as selections
from ._library import check, constant, constants, create, ffi, lib
from ._workspaces import Workspaces
from .cpu import Cpu, shared
from .errors import DtypeError, LengthError
from .quantized import DTYPES, Quantized
from .selection import Selection

ACTIVATIONS = constants("MORAY_ACTIVATION_")


class SparseMlp:
    """The weights of a gated MLP, neuron by neuron, in memory of the library's. Never changes, so that any number of threads may use it.

    Args:
        gate, up: [d_ff, d_model], both and `down` in one of f32, f16 and bf16, or :class:`Quantized` of 4 bits with scales of channels or
            f16 of groups. They are copied.
        down: [d_model, d_ff].
        activation: ``"silu"`` or ``"relu"``.
        gate_bias, up_bias: f32 [d_ff] or None.
        down_bias: f32 [d_model] or None.

    Raises:
        LengthError, ShapeError: for matrices of sizes that do not fit.
        InvalidValueError: for a weight that is not finite.
        UnsupportedError: for other quantized weights, and for those whose columns are in another order (GPTQ's g_idx).
    """

    def __init__(
        self, gate: Any, up: Any, down: Any, *, activation: str = "silu", gate_bias: Any = None, up_bias: Any = None,
        down_bias: Any = None,
    ) -> None:  # fmt: skip
        kind = constant("activation", ACTIVATIONS, activation)
        given = {"gate": gate, "up": up, "down": down}
        quantized = [name for name, weight in given.items() if isinstance(weight, Quantized)]
        if quantized and len(quantized) < 3:
            raise DtypeError(f"gate, up and down: expected all quantized or none, got {' and '.join(quantized)} alone")
        views = {} if quantized else {name: _memory.view(name, w, tuple(DTYPES), (None, None)) for name, w in given.items()}
        d_ff, d_model = (gate.n, gate.k) if quantized else views["gate"].shape
        #: Neurons.
        self.d_ff: int = d_ff
        #: Features of x and y.
        self.d_model: int = d_model
        biases = [
            _memory.optional("gate_bias", gate_bias, ("f32",), (d_ff,)),
            _memory.optional("up_bias", up_bias, ("f32",), (d_ff,)),
            _memory.optional("down_bias", down_bias, ("f32",), (d_model,)),
        ]
        added = ffi.new("MorayMlpBiases *", [_memory.memory(bias) for bias in biases])
        shape = ffi.new("MorayMlpShape *", (d_model, d_ff, kind))
        destroy, name = lib.moray_mlp_destroy, "MorayMlp"
        if quantized:
            handles = (gate.handle, up.handle, down.handle)
            self.handle = create(destroy, name, lib.moray_mlp_create_quantized, shape, *handles, added)
        else:
            self._same_type(views)
            matrices = [found.memory for found in views.values()]
            dtype = DTYPES[views["gate"].dtype]
            self.handle = create(destroy, name, lib.moray_mlp_create, shape, dtype, *matrices, added)
        make, end = lib.moray_mlp_workspace_create, lib.moray_mlp_workspace_destroy
        self._workspaces = Workspaces("MorayMlpWorkspace", make, end, self.handle)

    def _same_type(self, views: dict[str, _memory.View]) -> None:
        for name, shape in (("up", (self.d_ff, self.d_model)), ("down", (self.d_model, self.d_ff))):
            _memory.check_shape(name, views[name].shape, shape)
            if views[name].dtype != views["gate"].dtype:
                raise DtypeError(f"{name}: expected elements of {views['gate'].dtype}, as gate has, got {views[name].dtype}")

    def __call__(
        self, x: Any, selection: Selection | None = None, *, residual: Any = None, out: Any = None, cpu: Cpu | None = None,
    ) -> Any:  # fmt: skip
        """Computes y = down(act(gate · x) ∘ (up · x)) + residual over the neurons that the selection keeps of each token, and returns y.

        Only rows of neurons that a token keeps are read. With 4-bit weights, x and the product are int8 with one scale for each token.
        The bits depend neither on threads nor on the instruction set nor on how tokens are split into calls.

        Args:
            x: f32 [.., d_model].
            selection: which neurons; None for all.
            residual: f32 [.., d_model] or None, apart from `out`.
            out: where y goes, f32 [.., d_model]; without it y is a new numpy array.

        Raises:
            LengthError: for a buffer or a selection of another size.
            OutOfRangeError, NotIncreasingError, InvalidValueError: for a selection.
            OverlapError: if `out` overlaps what is read.
        """
        return self.forward(x, selection, residual, out, cpu, None)

    def with_kept(self, x: Any, selection: Selection | None = None, **options: Any) -> tuple[Any, np.ndarray]:
        """As calling it, and which neurons any token kept (of a union: its list): u32, strictly increasing. Their rows of down were read."""
        kept: list[np.ndarray] = []
        y = self.forward(x, selection, options.pop("residual", None), options.pop("out", None), options.pop("cpu", None), kept)
        if options:
            raise TypeError(f"with_kept: expected residual, out or cpu, got {', '.join(options)}")
        return y, kept[0]

    def forward(self, x: Any, selection: Selection | None, residual: Any, out: Any, cpu: Cpu | None, kept: list | None) -> Any:
        found = _memory.view("x", x, ("f32",))
        if not found.shape or found.shape[-1] != self.d_model:
            raise LengthError(f"x: expected {self.d_model} features in its last dimension, got shape {list(found.shape)}")
        if out is None:
            out = np.empty(found.shape, np.float32)
        y = _memory.view("out", out, ("f32",), found.shape, writable=True)
        added = _memory.optional("residual", residual, ("f32",), found.shape)
        chosen, _alive = selections.handle(selection)
        with self._workspaces.take(found.bytes // (4 * self.d_model)) as workspace:
            call = ffi.new("MorayMlpForward *", (
                ffi.sizeof("MorayMlpForward"), self.handle, workspace, chosen, found.memory, _memory.memory(added), y.memory,
            ))  # fmt: skip
            check(lib.moray_mlp_forward((cpu or shared()).handle, call))
            if kept is not None:
                part = ffi.new("MorayBytes *")
                check(lib.moray_mlp_kept(workspace, part))
                kept.append(np.frombuffer(ffi.buffer(part.data, part.bytes), np.uint32).copy())
        return out

    def __repr__(self) -> str:
        return f"SparseMlp(d_model={self.d_model}, d_ff={self.d_ff})"
