"""What a run folder says of a loop of the user's: optimizer, network, loss and data, as `TrainSpec` names them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..base.files import jsonable, stable_hash
from ..base.plugins import named
from ..data.losses import Loss, as_loss
from ..optim.core.engine import ERM
from ..problem.weighted_losses import WeightedLosses, weighted
from ..registry import DATA, LOSSES, MODELS, OPTIMIZERS

_BASES = {torch.optim.SGD: "sgd", torch.optim.Adam: "adam", torch.optim.AdamW: "adamw"}
_MODULES = {
    nn.CrossEntropyLoss: "cross_entropy",
    nn.NLLLoss: "nll",
    nn.MSELoss: "mse",
    nn.L1Loss: "l1",
    nn.BCEWithLogitsLoss: "bce_with_logits",
}


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside what a library wraps it in."""
    while not isinstance(optimizer, ERM) and isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = optimizer.optimizer
    found: torch.optim.Optimizer = optimizer
    return found


def optimizer_name(optimizer: torch.optim.Optimizer) -> str:
    """The registered name of its method, ``sgd`` and the like of torch's own, else its class in small letters."""
    kind = type(optimizer)
    if isinstance(optimizer, ERM) and kind is not ERM:
        known = (name for name in OPTIMIZERS if name not in _BASES.values() and OPTIMIZERS.load(name) is kind)
        return next(known, kind.__name__.lower())
    return _base_name(optimizer.base if isinstance(optimizer, ERM) else optimizer)


def _base_name(optimizer: torch.optim.Optimizer) -> str:
    found = (name for kind, name in _BASES.items() if isinstance(optimizer, kind))
    # AdamW is an Adam for torch, which also knows what it decays
    if isinstance(optimizer, torch.optim.AdamW):
        return "adamw"
    return next(found, type(optimizer).__name__.lower())


def optimizer_settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The fields of `TrainSpec` that its first group tells: ``lr``, ``momentum``, ``rho`` and the like."""
    group = optimizer.param_groups[0] if optimizer.param_groups else {}
    named_like_flags = ("momentum", "weight_decay", "rho", "alpha", "lam", "eta", "sigma", "gamma")
    told = {k: _number(group.get(k, getattr(optimizer, k, None))) for k in ("lr", *named_like_flags)}
    found: dict[str, Any] = {k: v for k, v in told.items() if v is not None}
    if isinstance(optimizer, ERM) and type(optimizer) is not ERM:
        found["base"] = _base_name(optimizer.base)
    return found


def settings_as_made(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """As `optimizer_settings`, with the learning rate that the schedules, a warm-up for example, start from."""
    found = optimizer_settings(optimizer)
    initial = _number(optimizer.param_groups[0].get("initial_lr")) if optimizer.param_groups else None
    return found if initial is None else {**found, "lr": initial}


def optimizer_record(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its class and all settings of all its groups, without tensors."""
    kinds = [type(optimizer), *([type(optimizer.base)] if isinstance(optimizer, ERM) else [])]
    groups = [
        {
            "parameters": sum(p.numel() for p in group["params"]),
            **{k: v for k, v in group.items() if k != "params" and _plain(v)},
        }
        for group in optimizer.param_groups
    ]
    found: dict[str, Any] = jsonable({"class": [f"{k.__module__}.{k.__qualname__}" for k in kinds], "groups": groups})
    return found


def loss_record(loss: Any) -> dict[str, str] | None:
    """The name under which a loss can be found again; None for a callable that has none."""
    if isinstance(loss, str):
        return named(loss, LOSSES)
    loss = weighted(loss)
    if isinstance(loss, WeightedLosses):
        return {"name": loss.__name__} if loss.registered else None
    if isinstance(loss, nn.Module):
        default = type(loss)() if type(loss) in _MODULES else None
        same = default is not None and all(
            getattr(loss, k) == getattr(default, k)
            for k in ("reduction", "ignore_index", "label_smoothing")
            if hasattr(default, k)
        )
        return {"name": _MODULES[type(loss)]} if same and not list(loss.buffers()) else None
    found = as_loss(loss)
    return {"name": found.__name__} if isinstance(found, Loss) and found.__name__ in LOSSES else None


def names_record(model: str | None, data: str | None, loss: Any) -> dict[str, dict[str, str]]:
    """``ingredients`` of a ``run.json``: where network, data and loss are found again, as far as it is told."""
    found = {
        "model": named(model, MODELS) if model else None,
        "data": named(data, DATA) if data else None,
        "loss": None if loss is None else loss_record(loss),
    }
    return {k: v for k, v in found.items() if v}


def network_form(network: nn.Module) -> str:
    """A hash of the names, shapes and types of its parameters."""
    return stable_hash([[n, list(p.shape), str(p.dtype)] for n, p in network.named_parameters()])


def network_words(network: nn.Module) -> str:
    """Its class and size."""
    return f"{type(network).__name__} of {sum(p.numel() for p in network.parameters()):,} parameters"


def same_loop(network: nn.Module, optimizer: torch.optim.Optimizer, names: Mapping[str, Any]) -> str:
    """What has to be equal for a folder to be continued: the network's form, the optimizer, the names."""
    form = [[n, list(p.shape), str(p.dtype)] for n, p in network.named_parameters()]
    return stable_hash([form, optimizer_name(optimizer), {k: v["name"] for k, v in names.items()}])


def _plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_plain, value)) and len(value) <= 10
    return value is None or isinstance(value, (bool, int, float, str))


def _number(value: Any) -> float | None:
    """A number, also one that torch keeps as a tensor; None for what is none."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)
