"""The sparse MLP."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _memory, selection as selections
from ._library import check, constant, constants, create, ffi, lib
from ._parts import part_of
from ._workspaces import Workspaces
from .activations import Activations
from .cpu import Cpu, shared
from .errors import DtypeError, LengthError, UnsupportedError
from .quantized import DTYPES, Quantized
from .selection import Selection, Threshold, TopK

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
        chosen, _alive = selections.handle(selection, self.d_ff)
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

    def gate(
        self, x: Any, neurons: Any = None, *, out: Any = None, positions: tuple[int, int] | None = None, cpu: Cpu | None = None,
    ) -> Any:  # fmt: skip
        """Computes act(gate · x) of listed neurons, f32 [.., L], and returns it: what scores on the gate are of.

        With :meth:`gate_up`, :func:`select` and :meth:`down` it makes up a call in parts, with its bits: the gate of all neurons, what is kept of
        it, the products of that list with the gate given, and what they are multiplied with. Threads of the caller's own share a part by ranges
        that do not overlap, each with the same arrays and a ``Cpu(1)``.

        Args:
            x: f32 [.., d_model]; for 4-bit weights the tokens as :class:`moray.Activations` with one scale for each token, of M tokens [M, L].
            neurons: u32 [L], strictly increasing; None for all.
            out: where it goes, f32 [.., L]; without it a new numpy array.
            positions: the first position in the list that is computed and one past the last, multiples of 16 or L; others of `out` are not touched.

        Raises:
            LengthError: for an array of another size.
            ShapeError, OutOfRangeError: for positions.
            OutOfRangeError, NotIncreasingError: for the list.
            UnsupportedError: for inputs that are not the weights' kind.
            OverlapError: if what is written overlaps what is read.
        """
        return self._gate_up(x, neurons, None, out, positions, cpu, of_gate=True)

    def gate_up(
        self, x: Any, neurons: Any = None, *, gate: Any = None, out: Any = None, positions: tuple[int, int] | None = None,
        cpu: Cpu | None = None,
    ) -> Any:  # fmt: skip
        """Computes act(gate · x) ∘ (up · x) of listed neurons, f32 [.., L], and returns it.

        Args:
            gate: what :meth:`gate` gave for the same list, f32 [.., L], which is then not computed again.
            Others, and what is raised, as :meth:`gate`.
        """
        return self._gate_up(x, neurons, gate, out, positions, cpu, of_gate=False)

    def _gate_up(
        self, x: Any, neurons: Any, gate: Any, out: Any, positions: tuple[int, int] | None, cpu: Cpu | None, of_gate: bool,
    ) -> Any:  # fmt: skip
        listed = self._list(neurons)
        if isinstance(x, Activations):
            given, activations, lead = _memory.NONE, x.handle, (x.m,)
        else:
            found = _memory.view("x", x, ("f32",))
            if not found.shape or found.shape[-1] != self.d_model:
                raise LengthError(f"x: expected {self.d_model} features in its last dimension, got shape {list(found.shape)}")
            given, activations, lead = found.memory, ffi.NULL, found.shape[:-1]
        shape = (*lead, listed.shape[0])
        out, begin, end = part_of("positions", positions, listed.shape[0], out, shape)
        written = _memory.view("out", out, ("f32",), shape, writable=True)
        read = _memory.optional("gate", gate, ("f32",), shape)
        gates, products = (written.memory, _memory.NONE) if of_gate else (_memory.memory(read), written.memory)
        if not written.bytes:
            return out
        call = ffi.new("MorayMlpGateUp *", (
            ffi.sizeof("MorayMlpGateUp"), int(read is not None), self.handle, given, activations, listed.memory, gates, products, begin, end,
        ))  # fmt: skip
        check(lib.moray_mlp_gate_up((cpu or shared()).handle, call))
        return out

    def down(
        self, hidden: Any, neurons: Any = None, *, residual: Any = None, out: Any = None, columns: tuple[int, int] | None = None,
        cpu: Cpu | None = None,
    ) -> Any:  # fmt: skip
        """Computes y = down · hidden + residual of the products of listed neurons, and returns y.

        Args:
            hidden: f32 [.., L], 0 for neurons that a token does not keep.
            neurons: u32 [L], strictly increasing; None for all.
            residual: f32 [.., d_model] or None, apart from `out`.
            out: where y goes, f32 [.., d_model]; without it a new numpy array.
            columns: the first column of y that is computed and one past the last; others of `out` are not touched.

        Raises:
            LengthError: for an array of another size.
            OutOfRangeError: for columns past d_model.
            OutOfRangeError, NotIncreasingError: for the list.
            OverlapError: if `out` overlaps what is read.
        """
        listed, found = self._list(neurons), _memory.view("hidden", hidden, ("f32",))
        if not found.shape or found.shape[-1] != listed.shape[0]:
            raise LengthError(f"hidden: expected {listed.shape[0]} neurons in its last dimension, got shape {list(found.shape)}")
        shape = (*found.shape[:-1], self.d_model)
        out, begin, end = part_of("columns", columns, self.d_model, out, shape)
        y = _memory.view("out", out, ("f32",), shape, writable=True)
        added = _memory.optional("residual", residual, ("f32",), shape)
        with self._workspaces.take(y.bytes // (4 * self.d_model)) as workspace:
            call = ffi.new("MorayMlpDown *", (
                ffi.sizeof("MorayMlpDown"), self.handle, workspace, listed.memory, found.memory, _memory.memory(added), y.memory, begin, end,
            ))  # fmt: skip
            check(lib.moray_mlp_down((cpu or shared()).handle, call))
        return out

    def _list(self, neurons: Any) -> _memory.View:
        return selections.indices("neurons", range(self.d_ff) if neurons is None else neurons)

    def __repr__(self) -> str:
        return f"SparseMlp(d_model={self.d_model}, d_ff={self.d_ff})"


def select(
    values: Any, keep: Threshold | TopK, *, masks: Any = None, cpu: Cpu | None = None,
) -> tuple[Any, np.ndarray]:  # fmt: skip
    """Says which values each token keeps, such as the gate of all neurons: what :class:`SparseMlp` does between its parts.

    Args:
        values: f32 [tokens, n].
        keep: a threshold or top-k; its ``score`` is not looked at, and a ``channel_scale`` is f32 [n].
        masks: where masks go, u64 [tokens, ⌈n / 64⌉], value i bit i % 64 of word i / 64; without it a new numpy array.

    Returns:
        The masks, and what any token keeps: u32, strictly increasing.

    Raises:
        LengthError, ShapeError: for an array of another size.
        InvalidValueError: for a threshold or factors.
        UnsupportedError: for another selection.
        OverlapError: if the masks overlap what is read.
    """
    if not isinstance(keep, (Threshold, TopK)):
        raise UnsupportedError(f"keep: expected Threshold or TopK, got {type(keep).__name__}")
    found = _memory.view("values", values, ("f32",), (None, None))
    tokens, n = found.shape
    if masks is None:
        masks = np.empty((tokens, -(-n // 64)), np.uint64)
    written = _memory.view("masks", masks, ("u64",), (tokens, -(-n // 64)), writable=True)
    listed, count = np.empty(n, np.uint32), ffi.new("size_t *")
    chosen, _alive = selections.handle(keep, n)
    call = ffi.new("MorayMlpSelect *", (
        ffi.sizeof("MorayMlpSelect"), chosen, n, found.memory, written.memory, _memory.view("list", listed, ("u32",)).memory,
    ))  # fmt: skip
    check(lib.moray_mlp_select((cpu or shared()).handle, call, count))
    return masks, listed[: count[0]]
