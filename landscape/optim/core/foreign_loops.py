"""Refusals that name the way, for steps that other libraries' loops ask for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ...base.errors import UsageError

_INTEGRATIONS = "in Lightning, the Trainer of Hugging Face or Accelerate use landscape.integrations"


def belongs_to_lightning(closure: object) -> bool:
    """Whether a closure is Lightning's own, of automatic optimization.

    Its precision plugin binds the module and what the loop does after a ``backward``, clipping among it.
    """
    if not isinstance(closure, partial):
        return False
    return any(getattr(argument, "automatic_optimization", False) is True for argument in closure.args)


def in_lightning(optimizer: object) -> UsageError:
    """The error for a method of several passes in Lightning's loop, which clips, logs and calls hooks in each."""
    name = type(optimizer).__name__
    return UsageError(
        "Lightning's loop knows one pass over one batch and this method needs more",
        name,
        "add landscape.integrations.lightning.SharpnessAware() to the Trainer's callbacks",
    )


def scaled_from_outside(optimizer: object) -> UsageError:
    """The error for the step of a scaler that is not the optimizer's own."""
    name = type(optimizer).__name__
    fix = f"give it to the constructor, {name}(base, scaler=scaler), and call step(closure); {_INTEGRATIONS}"
    return UsageError("a GradScaler cannot scale a step of several passes from outside", name, fix)


def without_closure(optimizer: object) -> UsageError:
    """The error for a step without anything that its passes could call."""
    name = type(optimizer).__name__
    return UsageError("step() needs a closure", name, f"pass a function that computes the loss; {_INTEGRATIONS}")


def require_scaled(optimizer: Any, call: str) -> None:
    """Refuse a gradient that the optimizer's own scaler has not made larger, or was asked to divide already.

    Raises:
        UsageError: Saying which.
    """
    scaler = optimizer.scaler
    if scaler is None or not scaler.is_enabled():
        return
    if scaler._scale is None:  # it gets one with the first loss
        fix = "differentiate scaler.scale(loss), or let step() differentiate: return BatchLoss(loss)"
        raise UsageError("the optimizer's scaler has scaled no loss", call, fix)
    known = (scaler._per_optimizer_states.get(id(one)) for one in (optimizer, optimizer.base))
    if any(state is not None and state["stage"].name == "UNSCALED" for state in known):
        fix = "leave it out: the optimizer divides by itself, and clips with clip= of its constructor"
        raise UsageError("scaler.unscale_() has divided the gradient already", call, fix)


@contextmanager
def watched_scaling(scaler: Any) -> Iterator[list[bool]]:
    """Note in the block whether a scaler scales anything.

    Yields:
        A list with an entry for each time.
    """
    seen: list[bool] = []
    if scaler is None:
        yield seen
        return
    before, plain = scaler.__dict__.get("scale"), scaler.scale

    def scale(outputs: Any) -> Any:
        seen.append(True)
        return plain(outputs)

    scaler.scale = scale
    try:
        yield seen
    finally:
        if before is None:
            del scaler.scale
        else:
            scaler.scale = before
