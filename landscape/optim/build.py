"""From an optimizer's name and settings to an optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..registry import OPTIMIZERS
from .engine import ERM

_BASES = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter],
    *,
    base: str,
    lr: float,
    momentum: float | None,
    weight_decay: float,
    settings: Mapping[str, float],
) -> ERM:
    """Make the optimizer called ``name`` over a base optimizer.

    Args:
        name: Registered name.
        parameters: What it moves.
        base: ``sgd``, ``adam`` or ``adamw``.
        lr: Learning rate.
        momentum: Momentum of sgd.
        weight_decay: Weight decay of the base step.
        settings: Method parameters (``rho``, ...); those left out have the method's default.
    """
    arguments: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
    if base == "sgd":
        arguments["momentum"] = momentum or 0.0
    made: ERM = OPTIMIZERS.load(name)(_BASES[base](list(parameters), **arguments), **settings)
    return made
