"""Replacing the layers of a model."""

from __future__ import annotations

from typing import Callable

from torch import nn

from ..errors import MorayError, UnsupportedError
from ..format import Format
from ..quantized import Quantized
from ..selection import Selection
from .sparse_mlp import SparseMlp
from .w4a8_linear import W4A8Linear

# The last part of a layer's name, as Hugging Face's LLaMA and its kin have it.
GATE_UP = ("gate_proj", "up_proj")
MLP = (*GATE_UP, "down_proj")
_NAMED = {"SiLU": "silu", "SiLUActivation": "silu", "ReLU": "relu"}


def convert(
    model: nn.Module,
    format: Format = Format.per_group(64, "f16"),
    layers: str | Callable[[str], bool] = "all",
    *,
    act_scales: str = "token",
    output_layer: bool = False,
    selection: Selection | None = None,
    weights: Callable[[str], Quantized | None] = lambda name: None,
) -> nn.Module:
    """Replaces linear layers by :class:`W4A8Linear`, in place, and returns the model.

    Args:
        format: to which weights are rounded; calibrated ones come by `weights`.
        layers: ``"all"``, ``"mlp"`` (gate, up and down), ``"gate_up"``, or whether a name is meant. Of all, the output layer
            (``lm_head``) only with `output_layer`.
        act_scales: see :class:`W4A8Linear`.
        selection: with it, whole MLPs (modules that have ``gate_proj``, ``up_proj`` and ``down_proj``) become :class:`SparseMlp`, in the
            weights' type where the three are not meant by `layers`, and other layers as said.
        weights: the codes and scales of a layer by its name, or None to round its own.

    Raises:
        UnsupportedError: where nothing is replaced, for an MLP with another activation than SiLU and ReLU, and for a layer that the
            format does not take, by its name. The model is then as it was, whatever is raised.
    """
    meant = _meant(layers, output_layer)
    replaced: list[tuple[str, nn.Module]] = []
    try:
        if selection is not None:
            _convert_mlps(model, format, meant, selection, weights, replaced)
        for name, linear in list(model.named_modules()):
            if type(linear) is nn.Linear and meant(name):
                quantized = _weight(name, linear, format, weights)
                _replace(model, name, W4A8Linear(quantized, linear.bias, act_scales), replaced)
    except BaseException:
        for name, module in reversed(replaced):
            _set(model, name, module)
        raise
    if not replaced:
        raise UnsupportedError(f"layers: expected to find linear layers in {type(model).__name__}, got none for {layers!r}")
    return model


def _meant(layers: str | Callable[[str], bool], output_layer: bool) -> Callable[[str], bool]:
    """Whether a layer of a name is to be replaced."""
    if callable(layers):
        return layers
    ends = {"mlp": MLP, "gate_up": GATE_UP}
    if layers in ends:
        return lambda name: name.rpartition(".")[2] in ends[layers]
    if layers == "all":
        return lambda name: output_layer or name.rpartition(".")[2] != "lm_head"
    raise UnsupportedError(f"layers: expected 'all', 'mlp', 'gate_up' or a function, got {layers!r}")


def _convert_mlps(
    model: nn.Module, format: Format, meant: Callable[[str], bool], selection: Selection | None,
    weights: Callable[[str], Quantized | None], replaced: list[tuple[str, nn.Module]],
) -> None:  # fmt: skip
    for name, mlp in list(model.named_modules()):
        if not all(isinstance(getattr(mlp, part, None), nn.Linear) for part in MLP):
            continue
        kind = type(getattr(mlp, "act_fn", None)).__name__
        if kind not in _NAMED:
            raise UnsupportedError(f"{name}.act_fn: expected SiLU or ReLU, got {kind}")
        names = [f"{name}.{part}" for part in MLP]
        linears = [getattr(mlp, part) for part in MLP]
        given = [linear.weight for linear in linears]
        if all(map(meant, names)):
            given = [_weight(part, linear, format, weights) for part, linear in zip(names, linears)]
        biases = dict(zip(("gate_bias", "up_bias", "down_bias"), (linear.bias for linear in linears)))
        try:
            sparse = SparseMlp(*given, selection=selection, activation=_NAMED[kind], **biases)
        except MorayError as error:
            raise type(error)(f"{name}: {error}") from error
        _replace(model, name, sparse, replaced)


def _weight(name: str, linear: nn.Linear, format: Format, weights: Callable[[str], Quantized | None]) -> Quantized:
    """What a layer's weights are from now on."""
    try:
        found = weights(name)
        if found is None:
            return Quantized.quantize(linear.weight.detach().contiguous(), format)
    except MorayError as error:
        raise type(error)(f"{name}: {error}") from error
    if (found.n, found.k) != (linear.out_features, linear.in_features):
        expected, got = [linear.out_features, linear.in_features], [found.n, found.k]
        raise UnsupportedError(f"{name}: expected weights of shape {expected}, got {got}")
    return found


def _replace(model: nn.Module, name: str, module: nn.Module, replaced: list[tuple[str, nn.Module]]) -> None:
    """Puts a module in the place of another, which is kept by its name."""
    replaced.append((name, model.get_submodule(name)))
    _set(model, name, module)


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)
