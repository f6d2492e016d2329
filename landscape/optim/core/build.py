"""From an optimizer's name and settings to an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ...registry import OPTIMIZERS
from .eager import SGD, Adam, AdamW
from .engine import ERM, SharedOptions

_BASES: Mapping[str, Any] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
# Flags whose name says more than the argument's.
_ARGUMENTS = {"disam_variance": "variance", "langevin_noise": "noise"}
_COMMON: Mapping[str, Any] = {"bn_second_pass": "freeze", "weight_decay_in_perturbation": False}


def method_defaults(name: str) -> dict[str, Any]:
    """The flags that the method ``name`` understands, with their defaults (``m``: None, the whole batch)."""
    entry = OPTIMIZERS[name]
    method = entry.load()
    return {option: None if option == "m" else _default(method, option) for option in entry.options}


def _default(method: type[ERM], option: str) -> object:
    if option in _COMMON:
        return _COMMON[option]
    for cls in method.__mro__:
        parameters = inspect.signature(cls).parameters
        if _ARGUMENTS.get(option, option) in parameters:
            return parameters[_ARGUMENTS.get(option, option)].default
    raise AssertionError(f"{method.__name__} has no {option}")


def build_optimizer(
    name: str,
    parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    base: str,
    lr: float,
    momentum: float | None,
    weight_decay: float,
    settings: Mapping[str, object],
    common: SharedOptions | None = None,
) -> ERM:
    """Make the optimizer called ``name`` over a base optimizer.

    Args:
        name: Registered name.
        parameters: What it moves, with names.
        base: ``sgd``, ``adam`` or ``adamw``.
        lr: Learning rate.
        momentum: Momentum of sgd.
        weight_decay: Weight decay of the base step.
        settings: Method flags (``rho``, ...); those left out have the method's default.
        common: What every method understands.
    """
    arguments = {"lr": lr, "weight_decay": weight_decay}
    if base == "sgd":
        arguments["momentum"] = momentum or 0.0
    inner = _BASES[base](list(parameters), **arguments)
    if name in _BASES:
        return ERM(inner, common)
    options = {_ARGUMENTS.get(k, k): v for k, v in settings.items() if k != "m"}
    if settings.get("m"):
        options["micro_batches"] = True
    made: ERM = OPTIMIZERS.load(name)(inner, **options, **(common or {}))
    return made
