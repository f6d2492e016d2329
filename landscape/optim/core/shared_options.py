"""What every method understands, and the refusal of values that would be taken for others."""

from __future__ import annotations

import math
from typing import Any, Literal, TypedDict

from ...base.errors import UsageError

CHOICES = {"bn_second_pass": ("freeze", "update"), "perturbation": ("synchronised", "per-replica")}


class SharedOptions(TypedDict, total=False):
    """Keyword arguments that every method understands.

    Attributes:
        clip: Largest L2 norm of the update gradient; it is scaled down to it before the base step.
        scaler: A ``torch.amp.GradScaler``. Give `BatchLoss` (scaled here) or scale in your own ``backward``. If a
            pass overflows, the weights stay, the step is skipped and the scale lowered.
        replay: Let all passes of a step draw the same random numbers (dropout masks) of torch's, NumPy's and Python's
            global generators, which a step leaves as its first pass did; default True. Generator objects of one's
            own are not known here.
        bn_second_pass: ``"freeze"`` (default): running statistics move in the first pass only. ``"update"``: in
            every pass, as in the released code of ASAM and DISAM.
        weight_decay_in_perturbation: Differentiate wd/2·‖w‖² in every pass, at its own weights, instead of in the
            base step (the official SAM code in JAX).
        micro_batches: Give each of the closure's `MicroBatches` its own perturbation (m-SAM); default False: the
            pieces are one batch, its gradient accumulated.
        ddp: The ``DistributedDataParallel`` module, if the weights live in one.
        perturbation: With ``ddp``: ``"synchronised"`` (default) averages the gradient of every pass over the
            replicas; ``"per-replica"`` lets each replica climb by its own gradient and averages the update
            gradient, one synchronisation per step (the official meaning of data-parallel SAM).
        check_finite: Look before each step whether all gradients were finite, and refuse the step if not (default).
            That is the one time that a step waits for a device; False never waits, and writes what the gradients are.
    """

    clip: float | None
    scaler: Any
    replay: bool
    bn_second_pass: Literal["freeze", "update"]
    weight_decay_in_perturbation: bool
    micro_batches: bool
    ddp: object
    perturbation: Literal["synchronised", "per-replica"]
    check_finite: bool


def require_one_of(key: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse a value that would be taken for another.

    Raises:
        UsageError: If ``value`` is none of ``choices``.
    """
    if value not in choices:
        raise UsageError(f"{key} is {value!r}", key, f"give {' or '.join(map(repr, choices))}")


def require_finite(**settings: float) -> None:
    """Refuse settings that are no number.

    Raises:
        UsageError: If one is infinite or NaN.
    """
    for key, value in settings.items():
        if not math.isfinite(value):
            raise UsageError(f"{key} is {value}", key, "give a finite number")


def require_count(key: str, value: int) -> None:
    """Refuse a number of steps that is none.

    Raises:
        UsageError: If ``value`` is below 1 or no whole number.
    """
    if not isinstance(value, int) or value < 1:
        raise UsageError(f"{key} is {value!r}", key, "give a whole number from 1 on")
