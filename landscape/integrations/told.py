"""What loops tell, as a record takes it: options, numbers, and the names of held-out ones."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..base.errors import UsageError
from ..runtime.distributed import is_main_process
from ..specs.training import interval


def require_known(options: Mapping[str, Any], told: Sequence[str], taker: Callable[..., Any]) -> None:
    """Refuse at once what ``taker`` does not take, and what a loop of a library tells itself.

    Raises:
        TypeError: As Python does for an unknown keyword.
    """
    known = inspect.signature(taker).parameters.keys() - {"model", "optimizer", "run", *told}
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}; there are {', '.join(sorted(known))}")


def finite(value: Any) -> float | None:
    """A number or a tensor of one as a float; None for none, NaN and infinities."""
    if value is None:
        return None
    number = float(value.detach()) if isinstance(value, Tensor) else float(value)
    return number if math.isfinite(number) else None


def held_out(values: Mapping[str, Any]) -> dict[str, float]:
    """Of a loop's own numbers those of held-out examples, by our names: ``eval/acc`` is ``val_accuracy``."""
    found = {}
    for name, value in values.items():
        prefix, _, rest = name.replace("/", "_").partition("_")
        scalar = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
        number = finite(value) if scalar else None
        if prefix in ("val", "valid", "validation", "eval", "test") and rest and number is not None:
            found[f"{'test' if prefix == 'test' else 'val'}_{'accuracy' if rest == 'acc' else rest}"] = number
    return found


def steps_between(every: str | int | None, steps_per_epoch: int | None) -> int:
    """Steps from one checkpoint to the next; 0 for none.

    Raises:
        UsageError: If it is no interval, or in epochs of unknown length.
    """
    found = interval(None if every is None else str(every), "every")
    if found is None:
        return 0
    if found[1] == "epochs" and steps_per_epoch is None:
        raise UsageError(
            "it is not known how long an epoch is", f"every={every!r}", "pass steps_per_epoch=len(loader)"
        )
    return found[0] * (steps_per_epoch or 1 if found[1] == "epochs" else 1)


def rank() -> int:
    """Of this process among those of ``torch.distributed`` or of ours; the first one writes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return 0 if is_main_process() else 1
