"""One call of a network, whatever its inputs look like."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from ..autograd.substitutes import plain_checkpoints
from ..numerics.trees import map_tensors
from .with_loss import plain_network

log = logging.getLogger(__name__)

_TAKES_GRADIENTS: WeakSet[torch.nn.Module] = WeakSet()


def forward(model: torch.nn.Module, inputs: Any) -> Any:
    """Call ``model`` with a tensor, a tuple of positional or a dictionary of keyword arguments.

    Entries of a dictionary that the model has no argument for are left out, and named once. A model that takes
    gradients itself (with respect to its inputs, as physics-informed networks and energies do) is left to do so where
    none are wanted of it.
    """
    if torch.is_grad_enabled():
        return _call(model, inputs)
    if model not in _TAKES_GRADIENTS:
        try:
            with plain_checkpoints():  # without a graph they save nothing, and torch warns of them
                return _call(model, inputs)
        except RuntimeError as error:
            if not _wants_graph(error):
                raise
    with torch.enable_grad(), plain_checkpoints():  # whose gradients the model may ask for
        # Other tensors over the same numbers: a model marks its inputs as wanting gradients.
        output = _call(model, map_tensors(inputs, Tensor.detach))
    _TAKES_GRADIENTS.add(model)
    return output.detach() if isinstance(output, Tensor) else output


def _wants_graph(error: RuntimeError) -> bool:
    text = str(error)
    return "does not require grad" in text or "not to require grad" in text or "does not have a grad_fn" in text


def _call(model: torch.nn.Module, inputs: object) -> object:
    if isinstance(inputs, Mapping):
        kind: Any = type(plain_network(model))
        taken = _arguments(kind)
        unknown = [k for k in inputs if taken is not None and k not in taken]
        if unknown:
            _say_left_out(type(model).__name__, ", ".join(unknown))
            inputs = {k: v for k, v in inputs.items() if k not in unknown}
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


@functools.lru_cache(maxsize=64)
def _arguments(kind: Any) -> frozenset[str] | None:
    """Names of the arguments of a model's forward, or None if it takes anything."""
    try:
        parameters = inspect.signature(kind.forward).parameters.values()
    except (TypeError, ValueError):  # compiled code does not say
        return None
    return None if any(p.kind is p.VAR_KEYWORD for p in parameters) else frozenset(p.name for p in parameters)


@functools.lru_cache(maxsize=64)
def _say_left_out(model: str, names: str) -> None:
    log.warning("%s takes no %s: left out of its inputs", model, names)
