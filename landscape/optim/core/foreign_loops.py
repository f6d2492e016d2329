"""Refusals that name the way, for steps that other libraries' loops ask for."""

from __future__ import annotations

from functools import partial

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
